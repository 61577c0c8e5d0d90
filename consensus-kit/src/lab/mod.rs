//! A cluster of simulated machines under a simulated clock, network and disk, and what every backend must survive there.
//!
//! Only in builds for tests (feature `lab`). [`lab_tests!`](crate::lab_tests) makes a test of each scenario.

pub mod crashes;
pub mod faults;
pub mod founders;
pub mod members;
pub mod one_node;
pub mod tcp;
pub mod three_nodes;
pub mod votes;

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{
        Chain, Committed, Consensus, Leader, LeaderEvents, LogIndex, NodeId, ProposeError, Resume, Running,
        Snapshot, SnapshotMeta, StartError,
    },
    ids::{DirectoryId, Epoch},
    runtime::{
        Clock, Rng, Runtime, TaskScope,
        simulated::{Keep, SimulatedDisk, SimulatedNetwork},
    },
};
use tokio::sync::mpsc;

use crate::config::{Timings, VoterConfig};

/// The backend under test.
#[derive(Clone, Copy)]
pub struct Backend {
    /// Its name.
    pub name: &'static str,
    /// Makes one that keeps so many entries behind a snapshot.
    pub make: fn(VoterConfig, u64) -> Result<Box<dyn Consensus>, StartError>,
    /// The message by which a node whose log is longer than any other asks node 0 for its vote in a term.
    pub ask: fn(NodeId, u64) -> Bytes,
    /// Whether a message of the second argument to the third gives the vote of the term, or refuses it; `None` for any
    /// other message.
    pub granted: fn(Bytes, NodeId, NodeId, u64) -> Option<bool>,
}

pub const SECOND: Duration = Duration::from_secs(1);

/// The cluster.
pub struct Lab {
    backend: Backend,
    pub network: SimulatedNetwork,
    pub clock: Clock,
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

pub fn name(node: i32) -> String {
    format!("n{node}")
}

impl Lab {
    /// Machines of which `listed` are the voters.
    pub fn new(backend: Backend, seed: u64, listed: &[i32]) -> Self {
        let (clock, _wall) = Clock::simulated(0);
        let tasks = TaskScope::single_threaded();
        let network = SimulatedNetwork::new(clock.clone(), Rng::seeded(seed), tasks.clone());
        network.set_delay(Duration::from_micros(200)..Duration::from_millis(2));
        let listed = listed.to_vec();
        let rng = Rng::seeded(seed + 1);
        let mut lab = Self {
            backend,
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
    pub fn add_machine(&mut self, node: i32) {
        let disk = SimulatedDisk::new(self.clock.clone(), self.rng.clone());
        disk.set_sync_delay(Duration::from_millis(1), Duration::from_millis(5));
        disk.mount(Path::new("/data")).unwrap();
        let directory = DirectoryId(self.rng.uuid());
        self.machines.insert(node, Machine { disk, directory, process: None });
    }

    /// Who is listed at the next start.
    pub fn list(&mut self, listed: &[i32]) {
        self.listed = listed.to_vec();
    }

    pub fn disk(&self, node: i32) -> &SimulatedDisk {
        &self.machines[&node].disk
    }

    pub fn nodes(&self) -> Vec<i32> {
        self.machines.keys().copied().collect()
    }

    pub async fn start(&mut self, node: i32) -> Arc<dyn Running> {
        self.try_start(node, Resume::default()).await.unwrap()
    }

    pub async fn start_all(&mut self) {
        for node in self.nodes() {
            self.start(node).await;
        }
    }

    /// Starts every node whose disk lets it.
    pub async fn start_all_that_can(&mut self) {
        for node in self.nodes() {
            // A node without power does not start; the others do.
            let _unpowered = self.try_start(node, Resume::default()).await;
        }
    }

    pub fn is_live(&self, node: i32) -> bool {
        self.machines[&node].process.is_some() && self.running(node).status().fatal.is_none()
    }

    /// Lets a node keep a snapshot that ends at an index, if it has come so far and its disk lets it.
    pub async fn compact(&self, node: i32, index: LogIndex) {
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

    pub async fn try_start(&mut self, node: i32, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
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
        let config = VoterConfig {
            node: NodeId(node),
            directory_id: machine.directory,
            folder: "/data/raft".into(),
            voters: self.listed.iter().map(|node| (NodeId(*node), format!("n{node}:9000"))).collect(),
            incoming,
            timings: Timings::default(),
            runtime,
        };
        let before = self.clock.now();
        let started = (self.backend.make)(config, self.tail)?.start(resume).await;
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
    pub fn crash(&mut self, node: i32, keep: Keep) {
        if let Some(process) = self.machines.get_mut(&node).unwrap().process.take() {
            process.tasks.kill();
            self.network.kill(&name(node));
        }
        self.disk(node).crash(keep);
    }

    pub async fn shutdown(&mut self, node: i32) {
        let process = self.machines.get_mut(&node).unwrap().process.take().unwrap();
        process.running.shutdown().await;
        process.tasks.kill();
        self.network.kill(&name(node));
    }

    pub fn running(&self, node: i32) -> &Arc<dyn Running> {
        &self.machines[&node].process.as_ref().unwrap().running
    }

    pub fn live(&self) -> Vec<i32> {
        let live = self.machines.iter().filter(|(_, machine)| machine.process.is_some());
        live.map(|(node, _)| *node).collect()
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: i32) {
        for other in self.nodes().into_iter().filter(|other| *other != node) {
            self.network.cut(&name(node), &name(other));
            self.network.cut(&name(other), &name(node));
        }
    }

    /// Waits for something to be so.
    pub async fn until(&self, within: Duration, what: &str, so: impl Fn(&Self) -> bool) {
        let deadline = self.clock.now().plus(within);
        while !so(self) {
            assert!(self.clock.now() < deadline, "{what}: not within {within:?}: {}", self.describe());
            self.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn describe(&self) -> String {
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
    pub fn leader(&self) -> Option<(i32, Epoch)> {
        let leads = |node: i32| Some((node, self.led_by(node)?));
        self.live().into_iter().filter_map(leads).max_by_key(|(_, epoch)| *epoch)
    }

    pub async fn elected(&self, within: Duration) -> (i32, Epoch) {
        self.until(within, "a leader", |lab| lab.leader().is_some()).await;
        self.leader().unwrap()
    }

    /// Proposes at whoever leads until it is committed.
    pub async fn commit(&self, data: &str) -> LogIndex {
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
    pub async fn spread(&self, index: LogIndex) {
        let everywhere =
            |lab: &Self| lab.live().into_iter().all(|node| lab.running(node).status().committed >= index);
        self.until(10 * SECOND, "spread", everywhere).await;
    }

    pub fn note_acknowledged(&self, index: LogIndex, data: String) {
        self.acknowledged.lock().insert(index, data);
    }

    /// What has happened, in a few words that are equal for equal histories.
    pub async fn trace(&self) -> String {
        let last = self.running(0).status().committed;
        let first = self.running(0).status().first.0;
        let log = self.log(0, first - 1, last).await;
        format!("{:?} {:?} {:?} {log:?}", self.clock.now(), self.led.lock(), self.acknowledged.lock())
    }

    /// Waits until all nodes agree, and checks that nothing that was acknowledged is missing.
    pub async fn converge(&self) {
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
    pub async fn log(&self, node: i32, after: u64, to: LogIndex) -> Vec<(u64, Epoch, Bytes)> {
        read(&**self.running(node), after, to).await
    }
}

pub async fn read(running: &dyn Running, after: u64, to: LogIndex) -> Vec<(u64, Epoch, Bytes)> {
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
pub fn chain(log: quorate_core::consensus::LogId, entries: &[(u64, Epoch, Bytes)]) -> Chain {
    entries.iter().fold(Chain::start(log), |chain, (_, epoch, data)| chain.link(*epoch, data))
}

/// Makes a test of each scenario for the backend that an expression makes.
#[macro_export]
macro_rules! lab_tests {
    ($backend:expr) => {
        $crate::lab_test! { $backend;
            paused crashes::a_crash_at_each_write_and_sync_loses_no_acknowledged_entry_and_gives_no_vote_twice;
            paused faults::a_leader_whose_disk_hangs_says_that_it_does_not_know_who_leads;
            paused faults::a_disk_that_forgot_is_found_out_by_the_log_or_by_the_leader;
            paused faults::a_crash_at_each_write_and_sync_of_a_snapshot_that_arrives_is_all_or_nothing;
            paused faults::a_read_barrier_on_any_node_covers_what_was_acknowledged;
            paused faults::leadership_is_handed_over_at_once;
            paused faults::after_a_storm_everything_acknowledged_is_there_and_the_cluster_goes_on;
            paused founders::a_missing_founder_is_named_and_awaited;
            paused founders::two_wiped_nodes_of_three_do_not_become_a_second_cluster;
            paused founders::an_emptied_voter_does_not_vote_and_the_others_go_on;
            paused founders::lists_that_differ_hold_the_founding_up_and_say_so;
            paused founders::a_node_that_is_no_voter_waits_to_be_added;
            paused founders::a_voter_whose_consensus_folder_alone_was_emptied_is_no_voter_either;
            paused founders::a_founder_that_is_lost_right_after_the_founding_is_not_missed;
            paused members::a_new_node_learns_then_votes;
            paused members::a_removed_follower_does_not_disturb;
            paused members::a_leader_that_is_to_go_hands_over_first;
            paused members::a_wiped_voter_comes_back_by_being_removed_and_added;
            paused members::a_new_node_gets_a_snapshot_that_is_older_than_its_admission;
            paused members::what_cannot_be_is_said;
            paused one_node::one_node_founds_elects_and_commits_by_itself;
            paused one_node::what_one_node_acknowledged_is_there_after_a_crash;
            paused one_node::the_limit_of_an_entry_is_exact;
            paused one_node::a_full_queue_is_busy_and_not_memory;
            paused one_node::a_caller_of_another_history_is_refused;
            paused one_node::shutdown_ends_streams_and_is_idempotent;
            real tcp::three_nodes_over_sockets_survive_the_crash_of_their_leader;
            paused three_nodes::three_nodes_found_elect_and_agree;
            paused three_nodes::a_killed_leader_is_replaced_within_the_bound;
            paused votes::no_vote_is_given_twice_wherever_the_power_fails;
        }
    };
}

#[macro_export]
#[doc(hidden)]
macro_rules! lab_test {
    ($backend:expr; $($time:ident $group:ident::$name:ident;)+) => {
        $($crate::lab_test! { @$time $backend, $group $name })+
    };
    (@paused $backend:expr, $group:ident $name:ident) => {
        #[tokio::test(start_paused = true)]
        async fn $name() {
            $crate::lab::$group::$name($backend).await;
        }
    };
    (@real $backend:expr, $group:ident $name:ident) => {
        #[tokio::test]
        async fn $name() {
            $crate::lab::$group::$name($backend).await;
        }
    };
}
