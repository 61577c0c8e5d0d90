//! The labs of the Raft backends: simulated machines on paused time.
//!
//! On raft-rs a run repeats from its seed. On openraft it does not quite: openraft itself takes one of two branches by chance
//! when both are ready.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use quorate_conformance::{Backend, Capability, Constructor, DiskFault, Lab};
use quorate_consensus_kit::config::{Timings, VoterConfig};
use quorate_consensus_openraft::Openraft;
use quorate_consensus_raftrs::Raftrs;
use quorate_core::{
    consensus::{Consensus, NodeId, StartError},
    ids::DirectoryId,
    runtime::{
        Clock, Connection, Disk as _, Open, Rng, Runtime, TaskScope,
        simulated::{Fault, Keep, SimulatedDisk, SimulatedNetwork},
    },
};
use tokio::sync::mpsc;

const FOLDER: &str = "/data/raft";
const PORT: u16 = 9093;
/// A healthy disk's sync, at least and at most.
const SYNC: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// A configured backend that keeps no entries behind a snapshot.
type Made = Result<Box<dyn Consensus>, StartError>;

/// A Raft backend on simulated machines.
#[derive(Clone, Copy, Debug)]
pub struct RaftBackend {
    name: &'static str,
    make: fn(VoterConfig) -> Made,
    /// Chooses delays, ids and timeouts.
    seed: u64,
}

impl RaftBackend {
    /// raft-rs.
    #[must_use]
    pub fn raftrs(seed: u64) -> Self {
        Self { name: "raftrs", make: |config| Ok(Box::new(Raftrs::new(config)?.with_tail(0))), seed }
    }

    /// openraft.
    #[must_use]
    pub fn openraft(seed: u64) -> Self {
        Self { name: "openraft", make: |config| Ok(Box::new(Openraft::new(config)?.with_tail(0))), seed }
    }
}

#[async_trait]
impl Backend for RaftBackend {
    fn name(&self) -> String {
        format!("{} (simulated, seed {})", self.name, self.seed)
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn engine(&self) -> io::Result<tokio::runtime::Runtime> {
        super::engine(true)
    }

    fn can(&self, capability: Capability) -> Result<(), String> {
        match capability {
            Capability::Links
            | Capability::Delay
            | Capability::Pause
            | Capability::LyingDisk
            | Capability::WallClock
            | Capability::ClockRate
            | Capability::Memory => {
                Err("its nodes share a process; processes of their own can do it".to_owned())
            }
            Capability::External | Capability::LostReplies => {
                Err("it has no quorum outside of its nodes".to_owned())
            }
            _ => Ok(()),
        }
    }

    async fn lab(&self, nodes: usize) -> Box<dyn Lab> {
        Box::new(RaftLab::new(*self, i32::try_from(nodes).unwrap_or(i32::MAX)))
    }
}

struct RaftLab {
    make: fn(VoterConfig) -> Made,
    clock: Clock,
    rng: Rng,
    network: SimulatedNetwork,
    /// Those that every configuration lists.
    voters: BTreeMap<NodeId, String>,
    machines: BTreeMap<NodeId, Machine>,
}

struct Machine {
    disk: SimulatedDisk,
    directory: DirectoryId,
    process: Option<TaskScope>,
    /// A bit that was turned over, to turn back.
    flipped: Option<(PathBuf, u64)>,
}

fn name(node: NodeId) -> String {
    format!("n{node}")
}

impl RaftLab {
    fn new(backend: RaftBackend, nodes: i32) -> Self {
        let (clock, _wall) = Clock::simulated(0);
        let rng = Rng::seeded(backend.seed);
        let network = SimulatedNetwork::new(clock.clone(), rng.clone(), TaskScope::single_threaded());
        network.set_delay(Duration::from_micros(100)..Duration::from_millis(2));
        let ids = (1..=nodes).map(NodeId);
        let voters = ids.clone().map(|node| (node, format!("{}:{PORT}", name(node)))).collect();
        let machines = ids.map(|node| (node, Machine::new(&clock, &rng))).collect();
        Self { make: backend.make, clock, rng, network, voters, machines }
    }

    fn machine(&mut self, node: NodeId) -> &mut Machine {
        self.machines.get_mut(&node).expect("a node of the lab")
    }

    /// Ends whatever runs on a machine, and its connections.
    fn end(&mut self, node: NodeId) {
        if let Some(process) = self.machine(node).process.take() {
            process.kill();
        }
        self.network.kill(&name(node));
    }

    /// The next process of a machine: its ports, and what arrives on its listener.
    fn process(&mut self, node: NodeId) -> (Runtime, mpsc::Receiver<(Connection, SocketAddr)>) {
        self.end(node);
        let tasks = TaskScope::single_threaded();
        let runtime = Runtime {
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            disk: Arc::new(self.machine(node).disk.clone()),
            network: self.network.machine(&name(node)),
            tasks: tasks.clone(),
        };
        let mut listener = runtime.network.listen(([0, 0, 0, 0], PORT).into()).expect("a free port");
        let (sender, incoming) = mpsc::channel(64);
        tasks.spawn(async move {
            while let Ok(accepted) = listener.accept().await {
                if sender.send(accepted).await.is_err() {
                    return;
                }
            }
        });
        self.machine(node).process = Some(tasks);
        (runtime, incoming)
    }

    fn config(&mut self, node: NodeId) -> VoterConfig {
        let (runtime, incoming) = self.process(node);
        VoterConfig {
            node,
            directory_id: self.machine(node).directory,
            folder: FOLDER.into(),
            voters: self.voters.clone(),
            incoming,
            timings: Timings::default(),
            runtime,
        }
    }
}

impl Machine {
    fn new(clock: &Clock, rng: &Rng) -> Self {
        let disk = SimulatedDisk::new(clock.clone(), rng.clone());
        disk.mount(Path::new("/data")).expect("a volume");
        disk.set_sync_delay(SYNC.0, SYNC.1);
        Self { disk, directory: DirectoryId(rng.uuid()), process: None, flipped: None }
    }

    /// The newest segment of the log that holds a batch, and its length.
    fn written_segment(&self) -> (PathBuf, u64) {
        let folder = Path::new(FOLDER).join("log");
        let names = self.disk.list(&folder).expect("a log");
        let lengths = names.iter().filter(|name| name.ends_with(".log")).rev().map(|name| {
            let path = folder.join(name);
            let length = self.disk.open(&path, Open::Read).and_then(|file| file.len()).expect("a segment");
            (path, length)
        });
        lengths.max_by_key(|(_, length)| *length).expect("a segment")
    }

    fn tear_tail(&self) {
        let folder = Path::new(FOLDER).join("log");
        let names = self.disk.list(&folder).expect("a log");
        let newest = names.iter().rfind(|name| name.ends_with(".log")).expect("a segment");
        let file = self.disk.open(&folder.join(newest), Open::Write).expect("a segment");
        let end = file.len().expect("a length");
        // The beginning of a batch's header, and then a page that never reached the disk.
        let torn = [b"QRBT".as_slice(), &[0; 60]].concat();
        file.write_at(&mut [IoSlice::new(&torn)], end).expect("a write");
    }

    fn flip(&mut self) {
        let (path, length) = self.written_segment();
        self.disk.flip_bit(&path, length / 2, 2).expect("a bit");
        self.flipped = Some((path, length / 2));
    }

    fn heal(&mut self) {
        self.disk.heal();
        self.disk.set_sync_delay(SYNC.0, SYNC.1);
        if let Some((path, offset)) = self.flipped.take() {
            self.disk.flip_bit(&path, offset, 2).expect("a bit");
        }
    }
}

#[async_trait]
impl Lab for RaftLab {
    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }

    fn quiet(&self) -> Duration {
        Duration::from_secs(4)
    }

    fn constructor(&mut self, node: NodeId) -> Constructor {
        let config = self.config(node);
        let make = self.make;
        Box::new(move || make(config))
    }

    fn bad_constructor(&mut self) -> Option<Constructor> {
        let config = VoterConfig { voters: BTreeMap::new(), ..self.config(NodeId(1)) };
        let make = self.make;
        Some(Box::new(move || make(config)))
    }

    fn traces(&self, node: NodeId) -> Option<String> {
        let machine = self.machines.get(&node)?;
        machine.disk.exists(Path::new(FOLDER)).then(|| format!("the folder {FOLDER}"))
    }

    async fn crashed(&mut self, node: NodeId) {
        self.end(node);
        self.machine(node).disk.crash(Keep::None);
    }

    async fn cut(&mut self, node: NodeId) {
        for other in self.machines.keys().filter(|other| **other != node) {
            self.network.cut(&name(node), &name(*other));
            self.network.cut(&name(*other), &name(node));
        }
    }

    async fn heal(&mut self, node: NodeId) {
        for other in self.machines.keys().filter(|other| **other != node) {
            self.network.heal(&name(node), &name(*other));
            self.network.heal(&name(*other), &name(node));
        }
    }

    async fn silence(&mut self, node: NodeId) {
        let (runtime, mut incoming) = self.process(node);
        runtime.tasks.spawn(async move {
            let mut held = Vec::new();
            while let Some(accepted) = incoming.recv().await {
                held.push(accepted);
            }
        });
    }

    async fn forbid_folder(&mut self, node: NodeId) {
        // A file stands where the folder should be.
        self.machine(node).disk.open(Path::new(FOLDER), Open::CreateNew).expect("a file");
    }

    async fn spoil_disk(&mut self, node: NodeId, fault: DiskFault) {
        let machine = self.machine(node);
        match fault {
            DiskFault::FailSync => machine.disk.inject(".log", Fault::FailSync, 1),
            DiskFault::Slow => machine.disk.set_sync_delay(Duration::from_secs(1), Duration::from_secs(1)),
            DiskFault::LoseSyncs => {}
            DiskFault::Full => machine.disk.set_capacity(Some(0)),
            DiskFault::TornTail => machine.tear_tail(),
            DiskFault::FlippedBit => machine.flip(),
            DiskFault::Healed => machine.heal(),
        }
    }
    async fn newcomer(&mut self) -> Option<NodeId> {
        let node = NodeId(self.machines.keys().next_back()?.0 + 1);
        self.machines.insert(node, Machine::new(&self.clock, &self.rng));
        Some(node)
    }

    fn endpoint(&self, node: NodeId) -> String {
        format!("{}:{PORT}", name(node))
    }

    async fn wipe(&mut self, node: NodeId) {
        self.end(node);
        let machine = Machine::new(&self.clock, &self.rng);
        self.machines.insert(node, machine);
    }
}
