//! The lab: processes, proxies between them, and what goes wrong with both.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{
    consensus::{Consensus, NodeId, StartError},
    runtime::{Clock, Rng},
};
use rustix::process::Signal;
use serde_json::json;

use super::{
    ProcessBackend,
    front::Fronts,
    link::{Link, Silence},
    machine::{Machine, lab_address},
    remote::RemoteConsensus,
    shim::Cell,
    wire::{Answer, Call},
};
use crate::{
    Constructor, DiskFault, Lab,
    proxy::{Fate, Proxy},
};

type Traces = Arc<Mutex<BTreeMap<NodeId, String>>>;

/// A cluster of processes under the suite's hands.
pub(super) struct ProcessLab {
    backend: ProcessBackend,
    name: String,
    place: PathBuf,
    ip: Ipv4Addr,
    fronts: Fronts,
    /// The nodes that every configuration lists.
    listed: BTreeMap<NodeId, String>,
    machines: BTreeMap<NodeId, Machine>,
    traces: Traces,
}

impl ProcessLab {
    pub(super) async fn new(backend: &ProcessBackend, nodes: usize) -> io::Result<Self> {
        let random = Rng::system().next_u64();
        let name = format!("{random:016x}");
        let place = backend.folder.join(&name);
        fs::create_dir_all(&place)?;
        let [a, b, c, ..] = random.to_be_bytes();
        let ip = lab_address([a, b, c]);
        let mut lab = Self {
            backend: backend.clone(),
            name,
            place,
            ip,
            fronts: Fronts::new(ip),
            listed: BTreeMap::new(),
            machines: BTreeMap::new(),
            traces: Arc::default(),
        };
        for node in (1..=nodes).filter_map(|node| i32::try_from(node).ok()).map(NodeId) {
            lab.add(node).await?;
            lab.listed.insert(node, lab.endpoint(node));
        }
        Ok(lab)
    }

    async fn add(&mut self, node: NodeId) -> io::Result<()> {
        let mut machine = Machine::new(&self.place, self.ip, node, self.backend.spoils())?;
        self.fronts.open(node, machine.front, machine.listener).await?;
        for endpoint in self.backend.config.endpoints() {
            machine.external.push(Proxy::before(endpoint).await);
        }
        self.machines.insert(node, machine);
        Ok(())
    }

    fn machine(&mut self, node: NodeId) -> &mut Machine {
        self.machines.get_mut(&node).unwrap_or_else(|| panic!("the lab has no node {node}"))
    }

    /// Does something to a node's machine that only a broken system can refuse.
    fn on(&mut self, node: NodeId, what: &str, act: impl FnOnce(&mut Machine) -> io::Result<()>) {
        let done = act(self.machine(node));
        done.unwrap_or_else(|error| panic!("the lab cannot {what} node {node}: {error}"));
    }

    fn set(&mut self, node: NodeId, cell: Cell, value: i64) {
        self.on(node, "spoil", |machine| match &machine.shim {
            Some(shim) if value != 0 && machine.link.is_some() && shim.get(Cell::Loaded)? == 0 => {
                Err(io::Error::other("the library that does it was not loaded"))
            }
            Some(shim) => shim.set(cell, value),
            None => Ok(()),
        });
    }

    fn config(&mut self, node: NodeId, bad: bool) -> String {
        let (name, listed, config) = (self.name.clone(), self.listed.clone(), self.backend.config.clone());
        let machine = self.machine(node);
        let endpoints: Vec<String> = machine.external.iter().map(Proxy::address).collect();
        let peers: BTreeMap<String, String> =
            listed.iter().map(|(n, at)| (n.to_string(), at.clone())).collect();
        json!({
            "node": node.0,
            "directory_id": machine.directory.to_string(),
            "folder": machine.folder,
            "listener": machine.listener.to_string(),
            "peers": peers,
            "options": config.options_for(&name, &endpoints, bad),
        })
        .to_string()
    }

    fn construct(&mut self, node: NodeId, bad: bool) -> Constructor {
        let config = self.config(node, bad);
        let (program, name) = (self.backend.program.clone(), self.backend.name);
        let link = self.machine(node).live(&program, name);
        if let Ok(link) = &link {
            self.fronts.processes.lock().insert(node, link.pid());
        }
        let traces = self.traces.clone();
        Box::new(move || {
            let broken =
                |error: io::Error| StartError::Config(format!("{}: {error}", program.path.display()));
            construct_there(&link.map_err(broken)?, config, node, &traces)
        })
    }
}

fn construct_there(
    link: &Arc<Link>,
    config: String,
    node: NodeId,
    traces: &Traces,
) -> Result<Box<dyn Consensus>, StartError> {
    let asked = link.ask(link.next_id(), Call::Construct(config), Bytes::new());
    match asked.and_then(|asked| asked.answer_now()) {
        Ok((Answer::Constructed { failed: None, traces: left, .. }, _)) => {
            traces.lock().extend(left.map(|left| (node, left)));
            Ok(Box::new(RemoteConsensus::new(link.clone())))
        }
        Ok((Answer::Constructed { failed: Some(error), .. }, _)) => Err(error.into()),
        Ok((other, _)) => panic!("a constructor is answered by {other:?}"),
        Err(Silence::Busy | Silence::Gone) => panic!("the process ended in the constructor"),
    }
}

#[async_trait]
impl Lab for ProcessLab {
    fn clock(&self) -> Clock {
        Clock::system()
    }

    fn patience(&self) -> Duration {
        self.backend.config.patience()
    }

    fn quiet(&self) -> Duration {
        self.backend.config.quiet()
    }

    fn constructor(&mut self, node: NodeId) -> Constructor {
        self.construct(node, false)
    }

    fn bad_constructor(&mut self) -> Option<Constructor> {
        Some(self.construct(NodeId(1), true))
    }

    fn traces(&self, node: NodeId) -> Option<String> {
        let left = self.traces.lock().get(&node).cloned();
        left.or_else(|| {
            let folder = &self.machines.get(&node)?.folder;
            let files = fs::read_dir(folder).map_or(0, Iterator::count);
            (files > 0).then(|| format!("{files} files in {}", folder.display()))
        })
    }

    fn last_words(&self, node: NodeId) -> Option<String> {
        let machine = self.machines.get(&node)?;
        let ended = machine.link.as_ref().and_then(|link| link.ended())?;
        Some(format!("its process ended ({ended}): {}", machine.last_words().unwrap_or_default()))
    }

    async fn crashed(&mut self, node: NodeId) {
        self.fronts.processes.lock().remove(&node);
        self.on(node, "crash", Machine::crash);
        for cell in [Cell::FailSyncs, Cell::SyncDelayUs, Cell::LoseSyncs, Cell::Rate] {
            self.set(node, cell, 0);
        }
    }

    async fn cut(&mut self, node: NodeId) {
        self.part(node, true);
    }

    async fn heal(&mut self, node: NodeId) {
        self.part(node, false);
    }

    async fn silence(&mut self, node: NodeId) {
        self.on(node, "silence", |machine| {
            machine.end();
            // The kernel accepts into the backlog; nobody reads.
            machine.silent = Some(TcpListener::bind(machine.listener)?);
            Ok(())
        });
    }

    async fn forbid_folder(&mut self, node: NodeId) {
        // A file stands where the folder should be.
        self.on(node, "forbid the folder of", |machine| {
            fs::remove_dir_all(&machine.folder)?;
            fs::write(&machine.folder, [])
        });
    }

    async fn spoil_disk(&mut self, node: NodeId, fault: DiskFault) {
        let ending = self.backend.config.log_files.clone();
        match fault {
            DiskFault::FailSync => self.set(node, Cell::FailSyncs, 1),
            DiskFault::Slow => self.set(node, Cell::SyncDelayUs, 1_000_000),
            DiskFault::Full => self.set(node, Cell::Full, 1),
            DiskFault::LoseSyncs => self.set(node, Cell::LoseSyncs, 1),
            DiskFault::TornTail => self.on(node, "tear the log of", |machine| machine.tear_tail(&ending)),
            DiskFault::FlippedBit => self.on(node, "flip a bit of", |machine| machine.flip(&ending)),
            DiskFault::Healed => {
                for cell in [Cell::FailSyncs, Cell::SyncDelayUs, Cell::Full, Cell::LoseSyncs] {
                    self.set(node, cell, 0);
                }
                self.on(node, "mend", Machine::mend);
            }
        }
    }

    async fn stop_external(&mut self, stopped: bool) {
        for proxy in self.machines.values().flat_map(|machine| &machine.external) {
            proxy.open(!stopped);
        }
    }

    async fn lose_replies(&mut self, node: NodeId, lost: bool) {
        for proxy in &self.machine(node).external {
            proxy.set(Fate::Pass, if lost { Fate::Drop } else { Fate::Pass });
            if !lost {
                proxy.cut();
            }
        }
    }

    async fn cut_link(&mut self, from: NodeId, to: NodeId, cut: bool) {
        self.fronts.sky.send_modify(|sky| sky.cut(from, to, cut));
    }

    async fn delay(&mut self, node: NodeId, delay: Duration) {
        self.fronts.sky.send_modify(|sky| sky.delay(node, delay));
    }

    async fn pause(&mut self, node: NodeId, paused: bool) {
        if let Some(link) = &self.machine(node).link {
            link.signal(if paused { Signal::STOP } else { Signal::CONT });
        }
    }

    async fn set_wall_clock(&mut self, node: NodeId, ahead_s: i64) {
        self.set(node, Cell::WallAheadNs, ahead_s.saturating_mul(1_000_000_000));
    }

    async fn double_clock_rate(&mut self, node: NodeId) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.set(
            node,
            Cell::RateFromNs,
            now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec),
        );
        self.set(node, Cell::Rate, 2);
    }

    fn memory_peak(&self, node: NodeId) -> Option<u64> {
        let pid = self.machines.get(&node)?.link.as_ref()?.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        peak.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
    }

    async fn newcomer(&mut self) -> Option<NodeId> {
        let last = self.machines.keys().next_back()?;
        let node = NodeId(last.0 + 1);
        let added = self.add(node).await;
        added.unwrap_or_else(|error| panic!("the lab cannot add node {node}: {error}"));
        Some(node)
    }

    fn endpoint(&self, node: NodeId) -> String {
        self.machines.get(&node).map(|machine| machine.front.to_string()).unwrap_or_default()
    }

    async fn wipe(&mut self, node: NodeId) {
        self.on(node, "wipe", Machine::wipe);
    }
}

impl ProcessLab {
    /// Cuts a node off from the others and from the quorum outside, or joins it.
    fn part(&mut self, node: NodeId, cut: bool) {
        let others: Vec<NodeId> = self.machines.keys().copied().filter(|other| *other != node).collect();
        self.fronts.sky.send_modify(|sky| {
            for other in others {
                sky.cut(node, other, cut);
                sky.cut(other, node, cut);
            }
        });
        let fate = if cut { Fate::Hold } else { Fate::Pass };
        for proxy in &self.machine(node).external {
            proxy.set(fate, fate);
        }
    }
}
