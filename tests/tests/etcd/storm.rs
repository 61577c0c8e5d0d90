//! A history of random faults: what was acknowledged is there once, what was refused is not, and whatever was unknown
//! is the same for everybody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_conformance::proxy::{Fate, Proxy};
use quorate_core::{
    consensus::{Epoch, Leader, LogIndex, NodeId, ProposeError, Resume, Running},
    runtime::{Clock, Rng, TaskScope},
};
use quorate_tests::etcd::{EtcdServer, Release};

use super::common::{Node, config, start, until};

const NODES: i32 = 3;
const STORM: Duration = Duration::from_secs(15);

type Outcomes = Arc<Mutex<BTreeMap<String, Result<LogIndex, ProposeError>>>>;

struct Storm {
    clock: Clock,
    rng: Rng,
    etcd: EtcdServer,
    proxies: BTreeMap<NodeId, Proxy>,
    nodes: BTreeMap<NodeId, Node>,
    scopes: BTreeMap<NodeId, TaskScope>,
    outcomes: Outcomes,
    clients: TaskScope,
}

impl Storm {
    async fn begin(seed: u64) -> Self {
        let etcd = EtcdServer::start_with(Release::Current, &["--unsafe-no-fsync"]);
        let mut proxies = BTreeMap::new();
        for node in (1..=NODES).map(NodeId) {
            proxies.insert(node, Proxy::before(etcd.address()).await);
        }
        let mut storm = Self {
            clock: Clock::system(),
            rng: Rng::seeded(seed),
            etcd,
            proxies,
            nodes: BTreeMap::new(),
            scopes: BTreeMap::new(),
            outcomes: Outcomes::default(),
            clients: TaskScope::threaded(),
        };
        for node in (1..=NODES).map(NodeId) {
            storm.start(node).await;
        }
        storm
    }

    async fn start(&mut self, id: NodeId) {
        let config = config(id.0, &self.proxies[&id].address(), "/q");
        self.scopes.insert(id, config.runtime.tasks.clone());
        self.nodes.insert(id, start(config, Resume::default()).await);
    }

    /// Clients at every node that says that it leads.
    fn propose(&self, round: usize) {
        for (id, node) in &self.nodes {
            let Some(event) = node.running.leader_events().last() else { continue };
            if !matches!(event.leader, Leader::Me { .. }) {
                continue;
            }
            for number in 0..self.rng.below(20) {
                let data = format!("{round}.{id}.{number}");
                let client = client(node.running.clone(), event.epoch, data, self.outcomes.clone());
                self.clients.spawn(client);
            }
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let leads = |node: &&Node| {
            let event = node.running.leader_events().last();
            event.is_some_and(|event| matches!(event.leader, Leader::Me { .. }))
        };
        self.nodes.values().find(leads).map(|node| node.id)
    }

    /// One more fault, mostly against the leader, or the end of all.
    async fn fault(&mut self) {
        let any = NodeId(1 + i32::try_from(self.rng.below(3)).unwrap());
        let node = self.leader().filter(|_| self.rng.below(3) > 0).unwrap_or(any);
        let proxy = &self.proxies[&node];
        match self.rng.below(10) {
            0 => proxy.set(Fate::Hold, Fate::Hold),
            1 => proxy.set(Fate::Pass, Fate::Hold),
            2 => proxy.set(Fate::Pass, Fate::Drop),
            3 => proxy.cut(),
            4 => self.etcd.pause(),
            5 => {
                self.etcd.kill();
                self.etcd.restart();
            }
            6 => {
                if self.nodes.remove(&node).is_none() {
                    self.start(node).await;
                } else {
                    self.scopes[&node].kill();
                }
            }
            _ => self.calm(),
        }
    }

    fn calm(&self) {
        self.etcd.go_on();
        for proxy in self.proxies.values() {
            proxy.set(Fate::Pass, Fate::Pass);
        }
    }

    async fn pass(&mut self) {
        let end = self.clock.now().plus(STORM);
        let mut round = 0;
        while self.clock.now() < end {
            self.clock.sleep(Duration::from_millis(self.rng.below(40))).await;
            round += 1;
            self.propose(round);
            if self.rng.below(8) == 0 {
                self.fault().await;
            }
        }
        self.calm();
        for node in (1..=NODES).map(NodeId) {
            if !self.nodes.contains_key(&node) {
                self.start(node).await;
            }
        }
        self.clients.stop().await;
    }
}

async fn client(running: Arc<dyn Running>, epoch: Epoch, data: String, outcomes: Outcomes) {
    let outcome = running.propose(epoch, Bytes::from(data.clone())).await;
    outcomes.lock().insert(data, outcome);
}

#[tokio::test]
async fn a_storm_of_faults_loses_and_repeats_nothing() {
    let seed = Rng::system().below(1_000_000);
    println!("REPRODUCE (the order of the faults, not the time they take): seed {seed}");
    let mut storm = Storm::begin(seed).await;
    storm.pass().await;
    let leads = |node: &Node| {
        let event = node.running.leader_events().last()?;
        matches!(event.leader, Leader::Me { .. }).then_some(event.epoch)
    };
    let mut last = None;
    while last.is_none() {
        until("a leader", || storm.nodes.values().any(|node| leads(node).is_some())).await;
        let leader = storm.nodes.values().find_map(|node| Some((node, leads(node)?)));
        let Some((node, epoch)) = leader else { continue };
        last = node.propose(epoch, "last").await.ok();
    }
    let last = last.unwrap();
    let log = storm.nodes[&NodeId(1)].applied(last).await;
    for node in storm.nodes.values() {
        assert_eq!(node.applied(last).await, log, "node {} reads something else", node.id);
    }
    let mut places: BTreeMap<String, Vec<LogIndex>> = BTreeMap::new();
    for (index, _, data) in &log.entries {
        places.entry(String::from_utf8_lossy(data).into_owned()).or_default().push(LogIndex(*index));
    }
    let (mut acknowledged, mut refused, mut there, mut absent) = (0, 0, 0, 0);
    for (data, outcome) in &*storm.outcomes.lock() {
        let found = places.get(data).cloned().unwrap_or_default();
        match outcome {
            Ok(index) => {
                acknowledged += 1;
                assert_eq!(found, [*index], "'{data}' was acknowledged at {index}");
            }
            Err(ProposeError::Unknown) => {
                assert!(found.len() <= 1, "'{data}' stands at {found:?}");
                *(if found.is_empty() { &mut absent } else { &mut there }) += 1;
            }
            Err(_) => {
                refused += 1;
                assert!(found.is_empty(), "'{data}' was refused ({outcome:?}) and stands at {found:?}");
            }
        }
    }
    let epochs = log.entries.iter().map(|(_, epoch, _)| epoch).max();
    println!(
        "{acknowledged} acknowledged, {refused} refused, {} unknown ({there} in the log, {absent} not); epochs: {epochs:?}",
        there + absent
    );
    assert!(acknowledged > 0);
}
