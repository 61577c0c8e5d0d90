//! A cluster of simulated machines.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{
        Chain, Committed, Consensus as _, Leader, LeaderEvents, LogIndex, NodeId, ProposeError, Resume,
        Running, Snapshot, SnapshotMeta, StartError,
    },
    ids::{DirectoryId, Epoch},
    runtime::{
        Clock, Rng, Runtime, TaskScope,
        simulated::{Keep, SimulatedDisk, SimulatedNetwork},
    },
};
use tokio::sync::mpsc;

use crate::{Raftrs, RaftrsConfig, Timings};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) struct Lab {
    pub(super) network: SimulatedNetwork,
    pub(super) clock: Clock,
    rng: Rng,
    listed: Vec<i32>,
    machines: BTreeMap<i32, Machine>,
    /// Who has led which epoch, as the nodes themselves said.
    led: Arc<Mutex<BTreeMap<Epoch, i32>>>,
    /// Entries that a proposer was told of, for good.
    acknowledged: Mutex<BTreeMap<LogIndex, String>>,
    tail: u64,
    _network_tasks: TaskScope,
}

struct Machine {
    disk: SimulatedDisk,
    directory: DirectoryId,
    process: Option<Process>,
}

struct Process {
    tasks: TaskScope,
    running: Arc<dyn Running>,
}

pub(super) fn name(node: i32) -> String {
    format!("n{node}")
}

impl Lab {
    /// Machines of which `listed` are the voters.
    pub(super) fn new(seed: u64, listed: &[i32]) -> Self {
        let (clock, _wall) = Clock::simulated(0);
        let tasks = TaskScope::single_threaded();
        let network = SimulatedNetwork::new(clock.clone(), Rng::seeded(seed), tasks.clone());
        network.set_delay(Duration::from_micros(200)..Duration::from_millis(2));
        let listed = listed.to_vec();
        let rng = Rng::seeded(seed + 1);
        let mut lab = Self {
            network,
            clock,
            rng,
            listed,
            machines: BTreeMap::new(),
            led: Arc::default(),
            acknowledged: Mutex::default(),
            tail: 10,
            _network_tasks: tasks,
        };
        for node in lab.listed.clone() {
            lab.add_machine(node);
        }
        lab
    }

    /// A machine with an empty disk, in place of the one that was there.
    pub(super) fn add_machine(&mut self, node: i32) {
        let disk = SimulatedDisk::new(self.clock.clone(), self.rng.clone());
        disk.set_sync_delay(Duration::from_millis(1), Duration::from_millis(5));
        disk.mount(Path::new("/data")).unwrap();
        let directory = DirectoryId(self.rng.uuid());
        self.machines.insert(node, Machine { disk, directory, process: None });
    }

    /// Who is listed at the next start.
    pub(super) fn list(&mut self, listed: &[i32]) {
        self.listed = listed.to_vec();
    }

    pub(super) fn disk(&self, node: i32) -> &SimulatedDisk {
        &self.machines[&node].disk
    }

    pub(super) fn nodes(&self) -> Vec<i32> {
        self.machines.keys().copied().collect()
    }

    pub(super) async fn start(&mut self, node: i32) -> Arc<dyn Running> {
        self.try_start(node, Resume::default()).await.unwrap()
    }

    pub(super) async fn start_all(&mut self) {
        for node in self.nodes() {
            self.start(node).await;
        }
    }

    /// Starts every node whose disk lets it.
    pub(super) async fn start_all_that_can(&mut self) {
        for node in self.nodes() {
            // A node without power does not start; the others do.
            let _unpowered = self.try_start(node, Resume::default()).await;
        }
    }

    pub(super) fn is_live(&self, node: i32) -> bool {
        self.machines[&node].process.is_some() && self.running(node).status().fatal.is_none()
    }

    /// Lets a node keep a snapshot that ends at an index, if it has come so far and its disk lets it.
    pub(super) async fn compact(&self, node: i32, index: LogIndex) {
        let running = self.running(node);
        let log = running.status().log_id;
        let reached = self.clock.timeout(SECOND, read(&**running, 0, index)).await;
        let (Some(log), Ok(entries)) = (log, reached) else { return };
        let (_, epoch, _) = entries.last().unwrap();
        let meta = SnapshotMeta { index, epoch: *epoch, chain: chain(log, &entries), bytes: 8 };
        let chunks =
            Box::pin(stream::iter([Ok(Bytes::from_static(b"snap")), Ok(Bytes::from_static(b"shot"))]));
        // Without power nothing is kept.
        let _unpowered = running.compact(Snapshot { meta, chunks }).await;
    }

    pub(super) async fn try_start(
        &mut self,
        node: i32,
        resume: Resume,
    ) -> Result<Arc<dyn Running>, StartError> {
        let tasks = TaskScope::single_threaded();
        let machine = &self.machines[&node];
        let runtime = Runtime {
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            disk: Arc::new(machine.disk.clone()),
            network: self.network.machine(&name(node)),
            tasks: tasks.clone(),
        };
        let (sender, incoming) = mpsc::channel(64);
        let address: SocketAddr = "0.0.0.0:9000".parse().unwrap();
        let mut listener = runtime.network.listen(address).unwrap();
        tasks.spawn(async move {
            while let Ok(accepted) = listener.accept().await {
                if sender.send(accepted).await.is_err() {
                    return;
                }
            }
        });
        let config = RaftrsConfig {
            node: NodeId(node),
            directory_id: machine.directory,
            folder: "/data/raft".into(),
            voters: self.listed.iter().map(|node| (NodeId(*node), format!("n{node}:9000"))).collect(),
            incoming,
            timings: Timings::default(),
            runtime,
        };
        let before = self.clock.now();
        let started = Box::new(Raftrs::new(config)?.with_tail(self.tail)).start(resume).await;
        assert!(self.clock.now().since(before) < SECOND, "start() waits for nobody");
        match started {
            Ok(running) => {
                tasks.spawn(watch_leaders(node, running.leader_events(), self.led.clone()));
                let process = Process { tasks, running: running.clone() };
                self.machines.get_mut(&node).unwrap().process = Some(process);
                Ok(running)
            }
            Err(error) => {
                tasks.kill();
                self.network.kill(&name(node));
                Err(error)
            }
        }
    }

    /// Ends a process as `kill -9` does, or its machine.
    pub(super) fn crash(&mut self, node: i32, keep: Keep) {
        if let Some(process) = self.machines.get_mut(&node).unwrap().process.take() {
            process.tasks.kill();
            self.network.kill(&name(node));
        }
        self.disk(node).crash(keep);
    }

    pub(super) async fn shutdown(&mut self, node: i32) {
        let process = self.machines.get_mut(&node).unwrap().process.take().unwrap();
        process.running.shutdown().await;
        process.tasks.kill();
        self.network.kill(&name(node));
    }

    pub(super) fn running(&self, node: i32) -> &Arc<dyn Running> {
        &self.machines[&node].process.as_ref().unwrap().running
    }

    pub(super) fn live(&self) -> Vec<i32> {
        let live = self.machines.iter().filter(|(_, machine)| machine.process.is_some());
        live.map(|(node, _)| *node).collect()
    }

    /// Cuts a node off from all others.
    pub(super) fn isolate(&self, node: i32) {
        for other in self.nodes().into_iter().filter(|other| *other != node) {
            self.network.cut(&name(node), &name(other));
            self.network.cut(&name(other), &name(node));
        }
    }

    /// Waits for something to be so.
    pub(super) async fn until(&self, within: Duration, what: &str, so: impl Fn(&Self) -> bool) {
        let deadline = self.clock.now().plus(within);
        while !so(self) {
            assert!(self.clock.now() < deadline, "{what}: not within {within:?}: {}", self.describe());
            self.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn describe(&self) -> String {
        let live = self.live().into_iter();
        live.map(|node| format!("\n  {node}: {:?}", self.running(node).status())).collect()
    }

    fn led_by(&self, node: i32) -> Option<Epoch> {
        if !self.is_live(node) {
            return None;
        }
        let event = self.running(node).leader_events().last()?;
        matches!(event.leader, Leader::Me { .. }).then_some(event.epoch)
    }

    /// The leader of the newest epoch, where one says that it leads.
    pub(super) fn leader(&self) -> Option<(i32, Epoch)> {
        let leads = |node: i32| Some((node, self.led_by(node)?));
        self.live().into_iter().filter_map(leads).max_by_key(|(_, epoch)| *epoch)
    }

    pub(super) async fn elected(&self, within: Duration) -> (i32, Epoch) {
        self.until(within, "a leader", |lab| lab.leader().is_some()).await;
        self.leader().unwrap()
    }

    /// Proposes at whoever leads until it is committed.
    pub(super) async fn commit(&self, data: &str) -> LogIndex {
        for _ in 0..100 {
            let (leader, epoch) = self.elected(10 * SECOND).await;
            match self.running(leader).propose(epoch, Bytes::from(data.to_owned())).await {
                Ok(index) => {
                    self.acknowledged.lock().insert(index, data.to_owned());
                    return index;
                }
                Err(error) => assert_ne!(error, ProposeError::TooLarge),
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody commits: {}", self.describe())
    }

    /// Waits until every live node has committed `index`.
    pub(super) async fn spread(&self, index: LogIndex) {
        let everywhere =
            |lab: &Self| lab.live().into_iter().all(|node| lab.running(node).status().committed >= index);
        self.until(10 * SECOND, "spread", everywhere).await;
    }

    pub(super) fn note_acknowledged(&self, index: LogIndex, data: String) {
        self.acknowledged.lock().insert(index, data);
    }

    /// What has happened, in a few words that are equal for equal histories.
    pub(super) async fn trace(&self) -> String {
        let last = self.running(0).status().committed;
        let first = self.running(0).status().first.0;
        let log = self.log(0, first - 1, last).await;
        format!("{:?} {:?} {:?} {log:?}", self.clock.now(), self.led.lock(), self.acknowledged.lock())
    }

    /// Waits until all nodes agree, and checks that nothing that was acknowledged is missing.
    pub(super) async fn converge(&self) {
        let last = self.commit("the last").await;
        self.spread(last).await;
        let mut logs = Vec::new();
        for node in self.live() {
            let after = self.running(node).status().first.0.saturating_sub(1);
            logs.push((node, self.log(node, after, last).await));
        }
        for (node, log) in &logs {
            for entry in log {
                for (other, another) in &logs {
                    let there = another.iter().find(|(index, ..)| *index == entry.0);
                    assert!(
                        there.is_none_or(|there| there == entry),
                        "{node} and {other} differ at {entry:?}"
                    );
                }
                let acknowledged = self.acknowledged.lock().get(&LogIndex(entry.0)).cloned();
                assert!(
                    acknowledged.is_none_or(|data| entry.2 == data.as_bytes()),
                    "{entry:?} was acknowledged as another"
                );
            }
        }
    }

    /// What a node has committed after an index, up to another.
    pub(super) async fn log(&self, node: i32, after: u64, to: LogIndex) -> Vec<(u64, Epoch, Bytes)> {
        read(&**self.running(node), after, to).await
    }
}

pub(super) async fn read(running: &dyn Running, after: u64, to: LogIndex) -> Vec<(u64, Epoch, Bytes)> {
    let mut stream = running.committed(LogIndex(after));
    let mut entries: Vec<(u64, Epoch, Bytes)> = Vec::new();
    let mut last = after;
    while last < to.0 {
        match stream.next().await.expect("the stream goes on") {
            Committed::Entry { index, epoch, data } => {
                assert_eq!(index.0, last + 1, "dense");
                assert!(entries.last().is_none_or(|before| before.1 <= epoch), "epochs never decrease");
                last = index.0;
                entries.push((index.0, epoch, data));
            }
            Committed::Snapshot(snapshot) => {
                last = snapshot.meta.index.0;
                entries.push((last, snapshot.meta.epoch, Bytes::from_static(b"snapshot")));
            }
        }
    }
    entries
}

/// Notes who leads; two leaders of an epoch end the test.
async fn watch_leaders(node: i32, mut events: LeaderEvents, led: Arc<Mutex<BTreeMap<Epoch, i32>>>) {
    while let Some(event) = events.next().await {
        if matches!(event.leader, Leader::Me { .. }) {
            let leader = *led.lock().entry(event.epoch).or_insert(node);
            assert_eq!(leader, node, "two leaders of the epoch {}", event.epoch);
        }
    }
}

/// The history of a log that was read from its beginning.
pub(super) fn chain(log: quorate_core::consensus::LogId, entries: &[(u64, Epoch, Bytes)]) -> Chain {
    entries.iter().fold(Chain::start(log), |chain, (_, epoch, data)| chain.link(*epoch, data))
}
