//! One node of the simulated cluster: the broker as the server runs it, on simulated ports.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use quorate_core::{
    broker::{
        BoundListeners, Broker, BrokerConfig, NodeFacts,
        config::{FoundingConfig, ListenerConfig, ListenerPurpose, Timings},
        start::{Constructed, Started},
    },
    consensus::{
        NodeId,
        memory::{Memory, MemoryCluster},
    },
    handler::{Handlers, serve},
    ids::DirectoryId,
    metadata::{
        command::SecurityProtocol,
        image::{Configs, DurabilityLevel, Endpoint, Roles},
    },
    runtime::{
        Clock, Listener, Rng, Runtime, TaskScope,
        simulated::{Keep, SimulatedDisk, SimulatedNetwork},
    },
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Clients', brokers' and controllers' ports, the same on every machine.
const PORTS: [(&str, ListenerPurpose, u16); 3] = [
    ("PLAINTEXT", ListenerPurpose::Client, 9092),
    ("INTERNAL", ListenerPurpose::InterBroker, 9094),
    ("CONTROLLER", ListenerPurpose::Controller, 9093),
];

/// The Unix time at which every run begins.
pub(super) const WALL_MS: i64 = 1_790_000_000_000;

/// How long a sync of a sound disk takes, at least and at most.
pub(super) const SYNC_DELAY: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(4));

/// A machine, whether a process runs on it or not.
pub(super) struct Machine {
    pub(super) node: NodeId,
    pub(super) disk: SimulatedDisk,
    /// The machine's own clock: the same time as everywhere, and another wall clock.
    clock: Clock,
    wall: Arc<AtomicI64>,
    directory: DirectoryId,
    /// Folders so far.
    folders: u64,
    /// Whether the last process has ended in order.
    ended: bool,
    /// Whether a tail may be torn: the power was cut since a process ended in order.
    pub(super) torn: bool,
    /// What was lost since the cluster last took the node in.
    pub(super) lost: Lost,
    /// The last process, as registrations name it.
    pub(super) incarnation: Uuid,
    /// Failed syncs of records that have been noticed.
    pub(super) failed_syncs: u64,
    /// Processes so far.
    pub(super) lives: u64,
    pub(super) process: Option<Process>,
}

/// What a node has lost that it once said it had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// What was only in the page cache.
    pub(super) page_cache: bool,
    /// Perhaps anything: a sync has failed, or the folder is a new one.
    pub(super) anything: bool,
}

/// A running node.
pub(super) struct Process {
    pub(super) broker: Arc<Broker>,
    tasks: TaskScope,
    /// Taken out by whoever stops it in order.
    started: Option<Started>,
}

/// What all machines share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) network: SimulatedNetwork,
    pub(super) cluster: MemoryCluster,
    pub(super) seed: u64,
    pub(super) voters: BTreeMap<NodeId, String>,
    /// What is on no machine: the network, and the clients.
    pub(super) tasks: TaskScope,
}

/// The machine's name on the network.
pub(super) fn name(node: NodeId) -> String {
    format!("node{node}")
}

impl Machine {
    pub(super) fn new(shared: &Shared, node: NodeId) -> Self {
        let (clock, wall) = Clock::simulated(WALL_MS);
        let disk = new_disk(shared, node, 0);
        let directory = directory(node, 0);
        Self {
            node,
            disk,
            clock,
            wall,
            directory,
            folders: 0,
            ended: false,
            torn: false,
            lost: Lost::default(),
            incarnation: Uuid::nil(),
            failed_syncs: 0,
            lives: 0,
            process: None,
        }
    }

    /// Puts the wall clock ahead of or behind where it is.
    pub(super) fn step_wall(&self, by_ms: i64) {
        self.wall.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Puts the wall clock right.
    pub(super) fn mend_wall(&self) {
        self.wall.store(WALL_MS, Ordering::Relaxed);
    }

    /// Gives the machine, which must not run, an empty disk.
    pub(super) fn replace_disk(&mut self, shared: &Shared) {
        self.folders += 1;
        self.disk = new_disk(shared, self.node, self.folders);
        self.directory = directory(self.node, self.folders);
        self.failed_syncs = 0;
        self.lost.anything = true;
    }

    /// What was not synced goes, or some of it.
    pub(super) fn lose_power(&mut self, keep: Keep) {
        self.disk.crash(keep);
        let cut_off = keep != Keep::All && !self.ended && self.lives > 0;
        self.lost.page_cache |= cut_off;
        self.torn |= cut_off;
    }

    /// The process ends after it was asked to.
    pub(super) fn ends(&mut self, in_order: bool) {
        self.ended = in_order;
        self.torn &= !in_order;
    }

    /// Starts a process. An error is what a real one would print before it exits.
    pub(super) async fn start(&mut self, shared: &Shared) -> Result<(), String> {
        self.lives += 1;
        self.ended = false;
        let name = name(self.node);
        let tasks = TaskScope::single_threaded();
        let number = u64::try_from(self.node.0).unwrap_or(0);
        let runtime = Runtime {
            clock: self.clock.clone(),
            rng: Rng::seeded(shared.seed ^ (number << 40) ^ (self.lives << 48)),
            disk: Arc::new(self.disk.clone()),
            network: shared.network.machine(&name),
            tasks: tasks.clone(),
        };
        self.disk.mount(&PathBuf::from("/data")).map_err(|error| error.to_string())?;
        let consensus = Box::new(Memory::new(&shared.cluster, self.node));
        let constructed = Constructed::new(config(self.node, shared), runtime.clone(), consensus);
        let broker = constructed.broker().clone();
        self.incarnation = broker.incarnation;
        let handlers = Handlers::new(broker.clone());
        for listener in &broker.config.listeners {
            let address = SocketAddr::from(([0, 0, 0, 0], port(listener.purpose)));
            let bound = runtime.network.listen(address).map_err(|error| error.to_string())?;
            tasks.spawn(accept(bound, listener.clone(), handlers.clone(), tasks.clone()));
        }
        let facts = NodeFacts { directories: vec![self.directory], ..NodeFacts::default() };
        let started = constructed.bound(listeners(&name)).start(facts).await;
        match started {
            Ok(started) => {
                self.process = Some(Process { broker, tasks, started: Some(started) });
                Ok(())
            }
            Err(error) => {
                tasks.kill();
                shared.network.kill(&name);
                Err(error.to_string())
            }
        }
    }

    /// Ends the process at once.
    pub(super) fn kill(&mut self, shared: &Shared) {
        let Some(process) = self.process.take() else { return };
        process.tasks.kill();
        shared.network.kill(&name(self.node));
        shared.cluster.kill(self.node);
        drop(process.started);
    }

    /// Asks the process to end in order. Resolves when it has, with whether nothing had failed; whoever waits may look at
    /// it meanwhile, and kills it then.
    pub(super) fn begin_stop(&mut self, shared: &Shared) -> oneshot::Receiver<bool> {
        let (done, stopped) = oneshot::channel();
        let started = self.process.as_mut().and_then(|process| process.started.take());
        shared.tasks.spawn(async move {
            let Some(started) = started else { return };
            let broker = started.broker().clone();
            started.stop().await;
            let _ = done.send(broker.fatal().borrow().is_none());
        });
        stopped
    }
}

fn new_disk(shared: &Shared, node: NodeId, folder: u64) -> SimulatedDisk {
    let number = u64::try_from(node.0).unwrap_or(0);
    let rng = Rng::seeded(shared.seed ^ (number << 32) ^ (folder << 24));
    let disk = SimulatedDisk::new(shared.clock.clone(), rng);
    let (least, most) = SYNC_DELAY;
    disk.set_sync_delay(least, most);
    disk
}

fn directory(node: NodeId, folder: u64) -> DirectoryId {
    let number = u64::try_from(node.0).unwrap_or(0);
    DirectoryId(Uuid::from_u128(0xD1 << 64 | u128::from(folder) << 8 | u128::from(number)))
}

fn port(purpose: ListenerPurpose) -> u16 {
    PORTS.iter().find(|(_, other, _)| *other == purpose).map_or(0, |(_, _, port)| *port)
}

fn listeners(host: &str) -> BoundListeners {
    let endpoint = |(listener, _, port): &(&str, ListenerPurpose, u16)| Endpoint {
        listener: (*listener).to_owned(),
        host: host.to_owned(),
        port: *port,
        protocol: SecurityProtocol::Plaintext,
    };
    let controller = PORTS.iter().find(|(_, purpose, _)| *purpose == ListenerPurpose::Controller);
    BoundListeners {
        endpoints: PORTS.iter().filter(|port| Some(*port) != controller).map(endpoint).collect(),
        controller: controller.map(|(_, _, port)| (host.to_owned(), *port)),
    }
}

fn config(node: NodeId, shared: &Shared) -> BrokerConfig {
    let listener = |(name, purpose, _): &(&str, ListenerPurpose, u16)| ListenerConfig {
        name: (*name).to_owned(),
        protocol: SecurityProtocol::Plaintext,
        purpose: *purpose,
    };
    let file = [
        ("min.insync.replicas", "2"),
        ("default.replication.factor", "3"),
        ("num.partitions", "2"),
        ("replica.lag.time.max.ms", "1000"),
        ("log.retention.check.interval.ms", "400"),
        ("quorate.log.reserve.bytes", "20000"),
    ];
    BrokerConfig {
        node,
        roles: Roles { broker: true, controller: true },
        listeners: PORTS.iter().map(listener).collect(),
        inter_broker_listener: "INTERNAL".to_owned(),
        voters: shared.voters.clone(),
        rack: None,
        log_dirs: vec![PathBuf::from("/data/records")],
        metadata_dir: PathBuf::from("/data/metadata"),
        backend: "memory".to_owned(),
        founding: FoundingConfig { durability: DurabilityLevel::Synced, defaults: Configs::new() },
        file: file.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        // Images come with the number of entries, so that a restart mostly reads the log.
        timings: Timings { image: Duration::from_secs(1 << 20), ..Timings::default() },
    }
}

async fn accept(mut bound: Listener, listener: ListenerConfig, handlers: Arc<Handlers>, tasks: TaskScope) {
    let listener = Arc::new(listener);
    loop {
        let accepted = tokio::select! { biased;
            () = tasks.stopping() => return,
            accepted = bound.accept() => accepted,
        };
        let Ok((connection, peer)) = accepted else { return };
        let (handlers, scope, listener) = (handlers.clone(), tasks.clone(), listener.clone());
        tasks.spawn(async move { serve(handlers, scope, connection, peer, &listener).await });
    }
}
