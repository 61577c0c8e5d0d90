//! The etcd backend's lab: nodes of one prefix in an etcd that all labs share, each node behind a proxy of its own.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, mpsc},
    time::Duration,
};

use async_trait::async_trait;
use quorate_conformance::{
    Backend, Capability, Constructor, Lab,
    proxy::{Fate, Proxy},
};
use quorate_consensus_etcd::{ConfigError, Etcd, EtcdConfig};
use quorate_core::{
    consensus::{Consensus, NodeId, StartError},
    runtime::{Clock, Rng, Runtime, TaskScope},
};

use crate::etcd::{EtcdServer, Release};

/// The shortest lease that is allowed.
const TTL: Duration = Duration::from_secs(2);

/// The etcd backend on a release of etcd.
#[derive(Clone, Copy, Debug)]
pub struct EtcdBackend(pub Release);

#[async_trait]
impl Backend for EtcdBackend {
    fn name(&self) -> String {
        match self.0 {
            Release::Current => "etcd".to_owned(),
            Release::Floor => "etcd 3.4".to_owned(),
        }
    }

    fn is_simulated(&self) -> bool {
        false
    }

    fn can(&self, capability: Capability) -> Result<(), String> {
        match capability {
            Capability::Founders => Err("the first campaign founds the log, whoever wins it".to_owned()),
            Capability::Votes => Err("etcd votes, not the nodes".to_owned()),
            Capability::Silence => Err("nodes do not connect to each other".to_owned()),
            Capability::Folder | Capability::Disk | Capability::LyingDisk => {
                Err("it keeps nothing on the node's disk".to_owned())
            }
            Capability::Pause | Capability::WallClock | Capability::ClockRate | Capability::Memory => {
                Err("its nodes share a process; processes of their own can do it".to_owned())
            }
            Capability::Links | Capability::Delay => Err("nodes do not connect to each other".to_owned()),
            Capability::Membership => Err("the nodes do not vote".to_owned()),
            Capability::LostReplies
            | Capability::Cut
            | Capability::HandOver
            | Capability::PreVote
            | Capability::ShortTail
            | Capability::BadConfig
            | Capability::External => Ok(()),
        }
    }

    async fn lab(&self, nodes: usize) -> Box<dyn Lab> {
        let server = shared(self.0);
        let mut proxies = BTreeMap::new();
        for node in (1..=nodes).filter_map(|node| i32::try_from(node).ok()) {
            proxies.insert(NodeId(node), Proxy::before(server.clone()).await);
        }
        let prefix = format!("/conformance/{:016x}", Rng::system().next_u64());
        Box::new(EtcdLab { prefix, proxies, tasks: BTreeMap::new() })
    }
}

/// The address of the one server of a release. It ends with this process.
fn shared(release: Release) -> String {
    static CURRENT: OnceLock<String> = OnceLock::new();
    static FLOOR: OnceLock<String> = OnceLock::new();
    let (address, arguments): (_, &[&str]) = match release {
        // Only the machine's failure could lose what is not synced, and the tests do not cause that.
        Release::Current => (&CURRENT, &["--unsafe-no-fsync"]),
        Release::Floor => (&FLOOR, &[]),
    };
    address.get_or_init(|| start_for_good(release, arguments)).clone()
}

/// Starts a server on a thread that never ends, because the kernel ends the server with the thread that started it.
fn start_for_good(release: Release, arguments: &'static [&'static str]) -> String {
    static KEPT: Mutex<Vec<EtcdServer>> = Mutex::new(Vec::new());
    let (tell, address) = mpsc::channel();
    let body = move || {
        let server = EtcdServer::start_with(release, arguments);
        let _ = tell.send(server.address());
        KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(server);
        loop {
            std::thread::park();
        }
    };
    std::thread::Builder::new().name("etcd".to_owned()).spawn(body).expect("a thread");
    address.recv().expect("an etcd that starts")
}

/// A cluster on etcd under the suite's hands.
struct EtcdLab {
    prefix: String,
    proxies: BTreeMap<NodeId, Proxy>,
    /// The scope that each node's newest life was given.
    tasks: BTreeMap<NodeId, TaskScope>,
}

impl EtcdLab {
    fn config(&mut self, node: NodeId) -> Option<EtcdConfig> {
        let runtime = Runtime::real();
        self.tasks.insert(node, runtime.tasks.clone());
        let endpoints = vec![self.proxies.get(&node)?.address()];
        let mut config = EtcdConfig::new(node, format!("node-{node}:9093"), endpoints, runtime);
        config.prefix.clone_from(&self.prefix);
        config.lease_ttl = TTL;
        config.keep_entries = 1;
        Some(config)
    }
}

fn construct(config: Result<EtcdConfig, StartError>) -> Result<Box<dyn Consensus>, StartError> {
    let wrong = |error: ConfigError| StartError::Config(error.to_string());
    Ok(Box::new(Etcd::new(config?).map_err(wrong)?))
}

#[async_trait]
impl Lab for EtcdLab {
    fn clock(&self) -> Clock {
        Clock::system()
    }

    fn patience(&self) -> Duration {
        TTL * 8
    }

    fn quiet(&self) -> Duration {
        TTL * 2
    }

    fn constructor(&mut self, node: NodeId) -> Constructor {
        let config = self.config(node).ok_or_else(|| StartError::Config(format!("no node {node}")));
        Box::new(move || construct(config))
    }

    fn bad_constructor(&mut self) -> Option<Constructor> {
        let mut config = self.config(NodeId(1))?;
        config.endpoints = vec!["nowhere".to_owned()];
        Some(Box::new(move || construct(Ok(config))))
    }

    async fn crashed(&mut self, node: NodeId) {
        if let Some(tasks) = self.tasks.get(&node) {
            tasks.kill();
        }
    }

    async fn cut(&mut self, node: NodeId) {
        if let Some(proxy) = self.proxies.get(&node) {
            proxy.set(Fate::Hold, Fate::Hold);
        }
    }

    async fn heal(&mut self, node: NodeId) {
        if let Some(proxy) = self.proxies.get(&node) {
            proxy.set(Fate::Pass, Fate::Pass);
        }
    }

    async fn lose_replies(&mut self, node: NodeId, lost: bool) {
        if let Some(proxy) = self.proxies.get(&node) {
            let fate = if lost { Fate::Drop } else { Fate::Pass };
            proxy.set(Fate::Pass, fate);
            if !lost {
                proxy.cut();
            }
        }
    }

    async fn stop_external(&mut self, stopped: bool) {
        for proxy in self.proxies.values() {
            proxy.open(!stopped);
        }
    }
}
