//! Three nodes, the model, a client that proposes at whoever says that it leads, and the faults.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{
        Chain, Committed, Leader, LogId, LogIndex, NodeId, Resume, Running as _, Snapshot, SnapshotMeta,
    },
    runtime::{Clock, RealDisk, Rng, Runtime, TaskScope, simulated::SimulatedNetwork},
};

use super::{
    link::{Link, ModelStore},
    model::{Model, Planted},
    oracle::Oracle,
};
use crate::{
    backend::{Handle, start},
    config::EtcdConfig,
};

const NODES: i32 = 3;
/// Faults for so long, in simulated time; then everything is healed and must come to rest.
const STORM: Duration = Duration::from_secs(40);
const CALM: Duration = Duration::from_secs(40);

/// What a node has durably applied.
#[derive(Clone, Debug, Default)]
struct Applied {
    log: Option<LogId>,
    index: LogIndex,
    epoch: quorate_core::consensus::Epoch,
    chain: Chain,
}

struct Node {
    handle: Arc<Handle>,
    tasks: TaskScope,
}

pub(super) struct World {
    seed: u64,
    clock: Clock,
    rng: Rng,
    tasks: TaskScope,
    clients: TaskScope,
    /// Between the nodes; nobody listens there.
    network: SimulatedNetwork,
    model: Arc<Model>,
    links: BTreeMap<NodeId, Arc<Link>>,
    nodes: BTreeMap<NodeId, Node>,
    applied: BTreeMap<NodeId, Arc<Mutex<Applied>>>,
    oracle: Arc<Mutex<Oracle>>,
    proposals: u64,
}

impl World {
    pub(super) fn new(seed: u64, planted: Planted) -> Self {
        let (clock, rng, tasks) = (Clock::simulated(0).0, Rng::seeded(seed), TaskScope::single_threaded());
        let model = Model::new(clock.clone(), rng.clone(), tasks.clone(), planted);
        let network = SimulatedNetwork::new(clock.clone(), rng.clone(), tasks.clone());
        let ids = || (1..=NODES).map(NodeId);
        let mut world = Self {
            network,
            links: ids().map(|node| (node, Arc::default())).collect(),
            applied: ids().map(|node| (node, Arc::default())).collect(),
            nodes: BTreeMap::new(),
            oracle: Arc::default(),
            proposals: 0,
            seed,
            clock,
            rng,
            tasks,
            clients: TaskScope::single_threaded(),
            model,
        };
        ids().for_each(|node| world.start(node));
        world
    }

    fn start(&mut self, id: NodeId) {
        let (clock, rng, tasks) = (self.clock.clone(), self.rng.clone(), self.tasks.child());
        let runtime = Runtime {
            clock,
            rng,
            disk: Arc::new(RealDisk),
            network: self.network.machine(&format!("node-{id}")),
            tasks: tasks.child(),
        };
        let endpoints = vec!["model:1".to_owned()];
        let mut config = EtcdConfig::new(id, format!("node-{id}:1"), endpoints, runtime);
        (config.lease_ttl, config.keep_entries) = (Duration::from_secs(2), 20);
        let applied = self.applied.get(&id).unwrap().clone();
        let from = applied.lock().clone();
        let resume = Resume { log_id: from.log, applied: from.index, chain: from.chain };
        let store = ModelStore { model: self.model.clone(), link: self.links.get(&id).unwrap().clone() };
        let handle = Arc::new(start(&config, resume, Arc::new(store)));
        let mut events = handle.leader_events();
        let oracle = self.oracle.clone();
        tasks.spawn(async move {
            while let Some(event) = events.next().await {
                oracle.lock().announced(id, event);
            }
        });
        tasks.spawn(apply(id, handle.clone(), applied, self.oracle.clone()));
        self.nodes.insert(id, Node { handle, tasks });
    }

    fn kill(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            node.tasks.kill();
        }
    }

    fn some_node(&self) -> NodeId {
        NodeId(1 + i32::try_from(self.rng.below(3)).unwrap())
    }

    async fn pass(&self, longest_ms: u64) {
        self.clock.sleep(Duration::from_millis(1 + self.rng.below(longest_ms))).await;
    }

    /// Proposes at every node that says that it leads; more than one may say so.
    fn propose(&mut self) {
        for node in self.nodes.values() {
            let event = node.handle.leader_events().last();
            let Some(epoch) =
                event.filter(|event| matches!(event.leader, Leader::Me { .. })).map(|e| e.epoch)
            else {
                continue;
            };
            for _ in 0..=self.rng.below(5) {
                self.proposals += 1;
                let data = Bytes::from(format!("entry {}", self.proposals));
                let (handle, oracle) = (node.handle.clone(), self.oracle.clone());
                // Not the node's own task: its death must not end the client.
                self.clients.spawn(async move {
                    let outcome = handle.propose(epoch, data.clone()).await;
                    drop(handle);
                    oracle.lock().proposed(data, outcome);
                });
            }
        }
    }

    fn compact(&self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let applied = self.applied.get(&id).unwrap().lock().clone();
        if applied.index == LogIndex(0) {
            return;
        }
        let Applied { index, epoch, chain, .. } = applied;
        let state = Bytes::from(format!("{index}").repeat(1000));
        let meta = SnapshotMeta { index, epoch, chain, bytes: state.len() as u64 };
        let snapshot = Snapshot { meta, chunks: stream::iter([Ok(state)]).boxed() };
        let handle = node.handle.clone();
        node.tasks.spawn(async move {
            let _ = handle.compact(snapshot).await;
        });
    }

    /// One more fault, or the end of one. A seed that is a multiple of three has a slow network that is never cut, where
    /// requests arrive long after they were given up and a leader goes on meanwhile.
    fn fault(&mut self) {
        let node = self.some_node();
        let link = self.links.get(&node).unwrap().clone();
        if self.seed.is_multiple_of(3) {
            link.delay_ms.store(self.rng.below(300), Ordering::Relaxed);
            link.lost_replies.store(self.rng.below(30), Ordering::Relaxed);
            return;
        }
        match self.rng.below(16) {
            0 | 1 => link.cut.store(true, Ordering::Relaxed),
            2..=4 => link.cut.store(false, Ordering::Relaxed),
            5 => self.kill(node),
            6 | 7 if !self.nodes.contains_key(&node) => self.start(node),
            6 => link.delay_ms.store(self.rng.below(400), Ordering::Relaxed),
            7 => link.lost_replies.store(self.rng.below(40), Ordering::Relaxed),
            8 => link.lost_requests.store(self.rng.below(40), Ordering::Relaxed),
            9 if self.rng.below(2) == 0 => {
                link.repeated_events.store(self.rng.below(60), Ordering::Relaxed);
            }
            9 => link.lost_events.store(self.rng.below(100), Ordering::Relaxed),
            10 => self.model.down.store(self.rng.below(2) == 0, Ordering::Relaxed),
            11 if self.rng.below(3) == 0 => self.model.drop_leases(),
            11 => self.model.renew_leases(),
            12 => self.model.compact(),
            13 => match self.rng.below(3) {
                0 => self.model.set_full(true),
                1 => self.model.overflow(),
                _ => self.model.set_full(false),
            },
            14 => self.compact(node),
            _ => link.delay_ms.store(10, Ordering::Relaxed),
        }
    }

    fn heal(&mut self) {
        for link in self.links.values() {
            link.cut.store(false, Ordering::Relaxed);
            link.delay_ms.store(5, Ordering::Relaxed);
            let percentages =
                [&link.lost_requests, &link.lost_replies, &link.lost_events, &link.repeated_events];
            percentages.iter().for_each(|percentage| percentage.store(0, Ordering::Relaxed));
        }
        self.model.down.store(false, Ordering::Relaxed);
        self.model.set_full(false);
        for node in (1..=NODES).map(NodeId) {
            if !self.nodes.contains_key(&node) {
                self.start(node);
            }
        }
    }

    fn broken(&self) -> Result<(), String> {
        match self.oracle.lock().broken.clone() {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    fn no_failure(&self) -> Result<(), String> {
        let fatal = self.nodes.iter().find_map(|(id, node)| Some((id, node.handle.status().fatal?)));
        fatal.map_or(Ok(()), |(id, fatal)| Err(format!("node {id}: {fatal}")))
    }

    pub(super) async fn run(&mut self) -> Result<u64, String> {
        let end = self.clock.now().plus(STORM);
        while self.clock.now() < end {
            self.pass(60).await;
            self.model.tick();
            self.propose();
            if self.rng.below(4) == 0 {
                self.fault();
            }
            self.broken()?;
            self.no_failure()?;
        }
        self.heal();
        self.come_to_rest().await?;
        let nodes = std::mem::take(&mut self.nodes);
        for node in nodes.values() {
            node.handle.shutdown().await;
        }
        // Every proposal has its answer by now, those of nodes that were killed too.
        let answered = self.clock.timeout(CALM, self.clients.stop()).await;
        answered.map_err(|_| "a proposal was never answered".to_owned())?;
        let mut oracle = self.oracle.lock();
        oracle.settle();
        if let Some(reason) = oracle.broken.take() {
            return Err(reason);
        }
        if oracle.committed == 0 {
            return Err("nothing was ever committed".to_owned());
        }
        println!(
            "committed {}, unknown {}, leaderships {}",
            oracle.committed,
            oracle.unknown,
            oracle.leaderships()
        );
        Ok(oracle.digest)
    }

    /// A leader, a fresh entry, and everybody has applied the same.
    async fn come_to_rest(&mut self) -> Result<(), String> {
        let end = self.clock.now().plus(CALM);
        let before = self.oracle.lock().committed;
        loop {
            self.pass(200).await;
            self.model.tick();
            self.broken()?;
            self.no_failure()?;
            let positions: Vec<LogIndex> =
                self.applied.values().map(|applied| applied.lock().index).collect();
            let tail =
                self.nodes.values().map(|node| node.handle.status().committed).max().unwrap_or_default();
            let fresh = self.oracle.lock().committed > before;
            if fresh && positions.iter().all(|index| *index == tail) {
                return Ok(());
            }
            if !fresh {
                self.propose();
            }
            if self.clock.now() > end {
                let events: Vec<_> =
                    self.nodes.values().map(|node| node.handle.leader_events().last()).collect();
                return Err(format!("no rest: fresh {fresh}, {positions:?} of {tail}, {events:?}"));
            }
        }
    }

    /// A backup, more entries, the restore: nobody who knows more goes on.
    pub(super) async fn run_restore(&mut self) -> Result<(), String> {
        self.heal();
        self.come_to_rest().await?;
        let backup = self.model.back_up();
        self.come_to_rest().await?;
        self.model.restore(backup);
        let end = self.clock.now().plus(CALM);
        loop {
            self.pass(100).await;
            self.model.tick();
            self.broken()?;
            let fatal: Vec<_> = self.nodes.values().map(|node| node.handle.status().fatal).collect();
            if fatal
                .iter()
                .all(|fatal| fatal.as_ref().is_some_and(|sentence| sentence.contains("accept-restore")))
            {
                return Ok(());
            }
            if self.clock.now() > end {
                return Err(format!("a restore was not noticed: {fatal:?}"));
            }
        }
    }
}

/// A node's applier: reads the log and keeps what it has applied.
async fn apply(id: NodeId, handle: Arc<Handle>, applied: Arc<Mutex<Applied>>, oracle: Arc<Mutex<Oracle>>) {
    let mut position = applied.lock().index;
    let mut stream = handle.committed(position);
    while let Some(item) = stream.next().await {
        match item {
            Committed::Entry { index, epoch, data } => {
                oracle.lock().read(id, position, index, (epoch, data.clone()));
                let mut applied = applied.lock();
                let log = applied.log.or(handle.status().log_id);
                let before =
                    if position == LogIndex(0) { log.map(Chain::start).unwrap() } else { applied.chain };
                *applied = Applied { log, index, epoch, chain: before.link(epoch, &data) };
                position = index;
            }
            Committed::Snapshot(mut snapshot) => {
                let mut bytes = 0;
                while let Some(chunk) = snapshot.chunks.next().await {
                    match chunk {
                        Ok(chunk) => bytes += chunk.len() as u64,
                        // Replaced meanwhile, or etcd is away: read again from where this node stands.
                        Err(_) => bytes = u64::MAX,
                    }
                }
                if bytes != snapshot.meta.bytes {
                    stream = handle.committed(position);
                    continue;
                }
                let SnapshotMeta { index, epoch, chain, .. } = snapshot.meta;
                let log = handle.status().log_id;
                *applied.lock() = Applied { log, index, epoch, chain };
                position = index;
            }
        }
    }
}
