//! The simulated world: machines, the network between them, the metadata log, and time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use quorate_core::{
    consensus::{
        NodeId,
        memory::{Elections, MemoryCluster, MemoryConfig},
    },
    runtime::{
        Clock, Disk, Moment, Rng, TaskScope,
        simulated::{Keep, SimulatedDisk, SimulatedNetwork},
    },
};

use super::{
    Counts,
    client::{self, Told},
    invariants::{self, Observer},
    node::{Machine, Shared, WALL_MS, name},
    oracle::Oracle,
    topics,
};

pub(super) struct World {
    pub(super) shared: Shared,
    pub(super) machines: BTreeMap<NodeId, Machine>,
    pub(super) observer: Observer,
    pub(super) oracle: Oracle,
    /// What clients were told.
    pub(super) told: Told,
    /// Chooses the faults.
    pub(super) rng: Rng,
    pub(super) counts: Counts,
    /// What has gone wrong, and when, in milliseconds.
    pub(super) faults: Vec<(u64, String)>,
    pub(super) cut_off: BTreeSet<NodeId>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let clock = Clock::simulated(WALL_MS).0;
        let tasks = TaskScope::single_threaded();
        let network = SimulatedNetwork::new(clock.clone(), Rng::seeded(seed ^ 0x0E70), tasks.clone());
        network.set_delay(Duration::ZERO..Duration::from_millis(3));
        let mut config = MemoryConfig::driven(3);
        config.founded = false;
        config.elections = Elections::Timed(Duration::from_millis(500));
        config.delay = Duration::from_micros(500)..Duration::from_millis(4);
        config.voters = (1..=3).map(NodeId).map(|node| (node, format!("{}:9093", name(node)))).collect();
        let voters = config.voters.clone();
        let cluster = MemoryCluster::new(config, clock.clone(), Rng::seeded(seed ^ 0x3E3));
        let shared = Shared { clock, network, cluster, seed, voters, tasks };
        let machines = shared.voters.keys().map(|&node| (node, Machine::new(&shared, node))).collect();
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(shared.clock.clone(), Rng::seeded(0)));
        let told = client::start(&shared, &disk, &topics::of(seed));
        Self {
            shared,
            machines,
            observer: Observer::default(),
            oracle: Oracle::default(),
            told,
            rng: Rng::seeded(seed),
            counts: Counts::default(),
            faults: Vec::new(),
            cut_off: BTreeSet::new(),
        }
    }

    /// Notes what goes wrong now.
    pub(super) fn note(&mut self, fault: impl Into<String>) {
        let now = u64::try_from(self.shared.clock.now().since(Moment::default()).as_millis());
        self.faults.push((now.unwrap_or(0), fault.into()));
    }

    /// Lets time pass.
    pub(super) async fn pass(&self, time: Duration) {
        self.shared.clock.sleep(time).await;
    }

    /// A time between two, in milliseconds.
    pub(super) fn between(&self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.rng.below(most_ms - least_ms))
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    pub(super) fn any_node(&self) -> NodeId {
        let nodes = self.nodes();
        let chosen = usize::try_from(self.rng.below(nodes.len() as u64)).unwrap_or(0);
        nodes.get(chosen).copied().unwrap_or(NodeId(1))
    }

    pub(super) async fn start(&mut self, node: NodeId) -> Result<(), String> {
        match self.machines.get_mut(&node) {
            Some(machine) if machine.process.is_none() => machine.start(&self.shared).await,
            _ => Ok(()),
        }
    }

    /// Ends a node's process, and loses of what its disk has not synced what `keep` does not keep.
    pub(super) async fn crash(&mut self, node: NodeId, keep: Keep) {
        self.kill(node, keep);
        self.let_tasks_end().await;
    }

    /// As [`World::crash`], of several nodes in the same moment.
    pub(super) async fn crash_all(&mut self, keep: Keep) {
        for node in self.nodes() {
            self.kill(node, keep);
        }
        self.let_tasks_end().await;
    }

    fn kill(&mut self, node: NodeId, keep: Keep) {
        invariants::records::last_look(self, node, keep);
        let Some(machine) = self.machines.get_mut(&node) else { return };
        let ran = machine.process.is_some();
        self.counts.crashes += u64::from(ran);
        machine.kill(&self.shared);
        machine.lose_power(keep);
        self.note(format!("node {node} crashes, its unsynced writes stay: {keep:?}; it ran: {ran}"));
    }

    /// Ends a node's process that was asked to end; what it had not done by then is not done.
    pub(super) fn end(&mut self, node: NodeId, in_order: bool) {
        invariants::records::last_look(self, node, Keep::All);
        if let Some(machine) = self.machines.get_mut(&node) {
            machine.ends(in_order);
            machine.kill(&self.shared);
        }
        self.note(format!("node {node} is stopped, in order: {in_order}"));
    }

    /// Gives a node, which must not run, an empty disk.
    pub(super) fn replace_disk(&mut self, node: NodeId) {
        self.observer.records.forget(node);
        self.observer.restarts.forget(node);
        if let Some(machine) = self.machines.get_mut(&node) {
            machine.replace_disk(&self.shared);
        }
        self.note(format!("node {node} has an empty disk"));
    }

    /// Killed tasks are dropped when they are next scheduled.
    pub(super) async fn let_tasks_end(&self) {
        self.pass(Duration::from_millis(1)).await;
    }

    /// Cuts a node off from the others, for requests and for consensus.
    pub(super) fn cut_off(&mut self, node: NodeId) {
        for other in self.nodes().into_iter().filter(|&other| other != node) {
            self.shared.network.cut(&name(node), &name(other));
            self.shared.network.cut(&name(other), &name(node));
        }
        self.note(format!("node {node} is cut off"));
        self.shared.cluster.cut(node);
        self.cut_off.insert(node);
    }

    /// Ends every cut and every hold.
    pub(super) fn heal_links(&mut self) {
        self.shared.network.heal_all();
        for node in self.nodes() {
            self.shared.cluster.heal(node);
            self.shared.cluster.release(node);
        }
        self.cut_off.clear();
    }

    pub(super) fn trace(&self) -> u64 {
        let disks = self.machines.values().map(|machine| machine.disk.digest());
        disks.fold(self.shared.network.digest(), |trace, digest| trace.rotate_left(17) ^ digest)
    }

    pub(super) fn counts(&self) -> Counts {
        let told = self.told.lock();
        let acked = told.acked() as u64;
        Counts {
            controllers: self.shared.cluster.newest_epoch().0,
            entries: self.shared.cluster.committed().0,
            acked,
            unknown: told.all().count() as u64 - acked,
            ..self.counts
        }
    }
}
