use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use quorate_core::{
    consensus::{Chain, SnapshotMeta},
    ids::{DirectoryId, Epoch, LogIndex, NodeId},
    runtime::{
        Clock, Connection, Rng, Runtime, TaskScope,
        simulated::{SimulatedDisk, SimulatedNetwork},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use uuid::Uuid;

use super::{Event, PREAMBLE, Transport, TransportConfig, frame::put_frame};
use crate::{
    founding::{Founding, FoundingConfig, Phase},
    snapshot::Snapshots,
};

const SECOND: Duration = Duration::from_secs(1);
const CAP: usize = 64 << 10;

/// Nodes of one network; what they list is given.
struct Net {
    clock: Clock,
    network: SimulatedNetwork,
}

struct Node {
    runtime: Runtime,
    founding: Arc<Founding>,
    transport: Transport,
    events: mpsc::Receiver<Event>,
}

impl Net {
    fn new() -> Self {
        let (clock, _wall) = Clock::simulated(0);
        let tasks = TaskScope::single_threaded();
        Self { network: SimulatedNetwork::new(clock.clone(), Rng::seeded(3), tasks), clock }
    }

    fn runtime(&self, node: i32) -> Runtime {
        let disk = SimulatedDisk::new(self.clock.clone(), Rng::seeded(4));
        disk.mount(Path::new("/data")).unwrap();
        Runtime {
            clock: self.clock.clone(),
            rng: Rng::seeded(u64::try_from(node).unwrap()),
            disk: Arc::new(disk),
            network: self.network.machine(&format!("n{node}")),
            tasks: TaskScope::single_threaded(),
        }
    }

    fn incoming(runtime: &Runtime) -> mpsc::Receiver<(Connection, SocketAddr)> {
        let mut listener = runtime.network.listen("0.0.0.0:9000".parse().unwrap()).unwrap();
        let (sender, incoming) = mpsc::channel(8);
        runtime.tasks.spawn(async move {
            while let Ok(accepted) = listener.accept().await {
                if sender.send(accepted).await.is_err() {
                    return;
                }
            }
        });
        incoming
    }

    fn node(&self, node: i32, listed: &[i32], engine: &'static str) -> Node {
        let runtime = self.runtime(node);
        let incoming = Self::incoming(&runtime);
        let directory = DirectoryId(Uuid::from_u128(u128::try_from(node).unwrap() + 1));
        let voters: BTreeMap<NodeId, String> =
            listed.iter().map(|node| (NodeId(*node), format!("n{node}:9000"))).collect();
        let path = "/data/raft/founding".into();
        let config = FoundingConfig { node: NodeId(node), directory, voters: voters.clone(), path };
        let founding = Arc::new(Founding::open(config, &runtime).unwrap());
        let config = TransportConfig {
            engine,
            node: NodeId(node),
            directory,
            endpoints: voters,
            message_bytes: CAP,
            patience: SECOND,
        };
        let (transport, events) = Transport::start(config, founding.clone(), incoming, &runtime);
        Node { runtime, founding, transport, events }
    }

    /// Three nodes that have founded a cluster and send to each other.
    async fn founded(&self) -> [Node; 3] {
        let nodes = [0, 1, 2].map(|node| self.node(node, &[0, 1, 2], "test"));
        for node in &nodes {
            let mut phase = node.founding.phase();
            let founded = phase.wait_for(|phase| matches!(phase, Phase::Final(_)));
            let _phase = self.clock.timeout(5 * SECOND, founded).await.unwrap().unwrap();
        }
        for node in &nodes {
            node.transport.set_members(&node.founding.founders().unwrap().1, LogIndex(0));
        }
        self.clock.sleep(SECOND / 2).await;
        nodes
    }
}

impl Node {
    async fn message(&mut self, within: Duration) -> Option<(NodeId, Bytes)> {
        let clock = self.runtime.clock.clone();
        loop {
            match clock.timeout(within, self.events.recv()).await.ok()?? {
                Event::Message { from, body } => return Some((from, body)),
                _ => continue,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn messages_arrive_in_order_with_their_sender() {
    let net = Net::new();
    let [first, second, mut third] = net.founded().await;
    for number in 0..50_u8 {
        assert!(first.transport.send(NodeId(2), Bytes::from(vec![number; 1000])));
    }
    for number in 0..50_u8 {
        assert_eq!(third.message(SECOND).await, Some((NodeId(0), Bytes::from(vec![number; 1000]))));
    }
    assert!(!second.transport.send(NodeId(9), Bytes::new()), "nobody");
    assert!(second.transport.problems().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_accepts_and_never_answers_holds_nobody_up() {
    let net = Net::new();
    let [first, second, mut third] = net.founded().await;
    second.runtime.tasks.kill();
    net.network.kill("n1");
    let silent = net.runtime(1);
    let mut held = Vec::new();
    let mut incoming = Net::incoming(&silent);
    silent.tasks.spawn(async move {
        while let Some(accepted) = incoming.recv().await {
            held.push(accepted);
        }
    });
    let mut refused = 0;
    for _ in 0..200 {
        for _ in 0..50 {
            refused += u32::from(!first.transport.send(NodeId(1), Bytes::from(vec![1; CAP / 2])));
        }
        let before = net.clock.now();
        assert!(first.transport.send(NodeId(2), Bytes::from_static(b"in time")));
        let arrived = third.message(SECOND).await;
        assert_eq!(arrived, Some((NodeId(0), Bytes::from_static(b"in time"))));
        assert!(net.clock.now().since(before) < SECOND / 20);
        net.clock.sleep(SECOND / 100).await;
    }
    assert!(refused > 100, "its queue is bounded");
    let problem = first.transport.problems().remove(&NodeId(1)).unwrap();
    assert!(problem.contains("no answer within") || problem.contains("closed"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_of_another_cluster_engine_or_id_is_refused() {
    let net = Net::new();
    let [first, ..] = net.founded().await;
    let met = net.node(7, &[7], "test").transport.meet(NodeId(1), "n0:9000").await;
    assert!(met.unwrap_err().contains("this is node 0, not node 1"));
    let other = net.node(8, &[8], "other");
    let met = other.transport.meet(NodeId(0), "n0:9000").await;
    assert!(met.unwrap_err().contains("this is a cluster of test, not of other"));
    // A node of another cluster that takes node 0 for a member of its own.
    let stranger = net.node(9, &[9], "test");
    stranger.founding.advance().await.unwrap();
    let mut members = stranger.founding.founders().unwrap().1;
    members.voters.extend(first.founding.founders().unwrap().1.voters);
    stranger.transport.set_members(&members, LogIndex(0));
    net.clock.sleep(SECOND).await;
    let problem = stranger.transport.problems().remove(&NodeId(0)).unwrap();
    assert!(problem.contains("the folder of node 9 is of the cluster"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn hostile_bytes_cost_their_connection_and_nothing_else() {
    let net = Net::new();
    let [first, _second, mut third] = net.founded().await;
    let enemy = net.runtime(66);
    let mut huge = PREAMBLE.to_vec();
    huge.extend_from_slice(&u32::MAX.to_le_bytes());
    huge.extend_from_slice(&[0; 100]);
    let mut nonsense = PREAMBLE.to_vec();
    put_frame(&mut nonsense, &[0xff; 40]);
    let mut mute = PREAMBLE.to_vec();
    mute.truncate(2);
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), huge, nonsense, mute] {
        let mut connection = enemy.network.connect("n2:9000").await.unwrap();
        connection.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let ended = net.clock.timeout(3 * SECOND, connection.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() && answer.is_empty(), "closed without a word: {answer:?}");
    }
    // Many that say nothing do not keep a peer out for longer than its patience.
    let mut mutes = Vec::new();
    for _ in 0..200 {
        mutes.push(net.clock.timeout(SECOND / 100, enemy.network.connect("n2:9000")).await);
    }
    assert!(first.transport.send(NodeId(2), Bytes::from_static(b"still here")));
    assert_eq!(third.message(SECOND).await.unwrap().1, "still here");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_long_is_lost_and_the_next_one_arrives() {
    let net = Net::new();
    let [first, _second, mut third] = net.founded().await;
    assert!(first.transport.send(NodeId(2), Bytes::from(vec![0; CAP + 1])));
    assert_eq!(third.message(SECOND).await, None);
    assert!(first.transport.send(NodeId(2), Bytes::from_static(b"next")));
    assert_eq!(third.message(SECOND).await.unwrap().1, "next");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_arrives_beside_the_messages() {
    let net = Net::new();
    let [first, _second, mut third] = net.founded().await;
    let log = first.founding.founders().unwrap().0;
    let open = |node: &Node| Snapshots::open("/data/snapshots".into(), log, &node.runtime).unwrap();
    let (from, to) = (open(&first), Arc::new(open(&third)));
    let chunk = vec![5; 1 << 20];
    let meta = SnapshotMeta { index: LogIndex(9), epoch: Epoch(2), chain: Chain([1; 16]), bytes: 20 << 20 };
    let mut writer = from.begin(meta, Bytes::from_static(b"voters")).unwrap();
    for _ in 0..20 {
        writer.push(&chunk).unwrap();
    }
    let file = from.publish(writer.finish().unwrap()).await.unwrap();
    first.transport.send_snapshot(NodeId(2), Bytes::from_static(b"refused"), file.clone());
    net.clock.sleep(SECOND).await;
    third.transport.set_snapshots(to.clone());
    first.transport.send_snapshot(NodeId(2), Bytes::from_static(b"head"), file);
    assert!(first.transport.send(NodeId(2), Bytes::from_static(b"beside")));
    assert_eq!(third.message(SECOND).await.unwrap().1, "beside");
    let Some(Event::Snapshot { from, body, engine, staged, taken }) = third.events.recv().await else {
        panic!("no snapshot")
    };
    assert_eq!((from, body.as_ref(), engine.as_ref()), (NodeId(0), b"head".as_slice(), b"voters".as_slice()));
    assert_eq!(staged.meta(), meta);
    let kept = to.publish(staged).await.unwrap();
    let read: Vec<Bytes> = kept.chunks().try_collect().await.unwrap();
    assert!(read.len() == 20 && read.iter().all(|read| *read == chunk));
    taken.send(true).unwrap();
    let mut first = first;
    let mut outcomes = Vec::new();
    while outcomes.len() < 2 {
        if let Some(Event::SnapshotSent { to: NodeId(2), taken }) = first.events.recv().await {
            outcomes.push(taken);
        }
    }
    assert_eq!(outcomes, [false, true]);
}
