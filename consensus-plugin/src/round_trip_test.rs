//! The memory backend through the table and back: both sides of the interface in one process, without a file.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{
        Chain, Committed, CompactError, Consensus, Epoch, Leader, LogId, LogIndex, MembershipChange,
        MembershipError, NodeId, ProposeError, Resume, Running, Snapshot, SnapshotError, SnapshotMeta,
        StartError,
        memory::{Memory, MemoryCluster, MemoryConfig},
    },
    ids::DirectoryId,
    runtime::{Clock, Rng},
};

use crate::{Capability, Library, Limits, PluginConfig, author, raw};

static CLUSTERS: LazyLock<Mutex<BTreeMap<String, MemoryCluster>>> = LazyLock::new(Mutex::default);

/// Nodes of the memory backend, joined by the option `cluster`.
struct Joined;

impl author::Author for Joined {
    const NAME: &'static str = "joined";
    const VERSION: &'static str = "1.2.3";
    const CAPABILITIES: &'static [Capability] = &[Capability::Founders, Capability::Membership];
    const ENTRY_BYTES: u64 = 1 << 20;

    fn construct(config: PluginConfig) -> Result<Box<dyn Consensus>, StartError> {
        let name =
            config.option("cluster").ok_or_else(|| StartError::Config("cluster is not set".to_owned()))?;
        assert_ne!(name, "panic", "asked for");
        let cluster = CLUSTERS.lock().get(name).cloned();
        let cluster = cluster.ok_or_else(|| StartError::Config(format!("cluster: no '{name}'")))?;
        Ok(Box::new(Memory::new(&cluster, config.node)))
    }
}

static TABLE: raw::Plugin = author::table::<Joined>();

fn library() -> Arc<Library> {
    // SAFETY: the table is this crate's own, and static.
    Arc::new(unsafe { Library::read(&raw const TABLE, Limits::default()) }.unwrap())
}

fn cluster(name: &str, config: MemoryConfig) -> MemoryCluster {
    let cluster = MemoryCluster::new(config, Clock::system(), Rng::system());
    CLUSTERS.lock().insert(name.to_owned(), cluster.clone());
    cluster
}

fn config(node: i32, cluster: &str) -> String {
    let config = PluginConfig {
        node: NodeId(node),
        directory_id: DirectoryId::default(),
        folder: "/nowhere".into(),
        listener: None,
        peers: BTreeMap::new(),
        options: BTreeMap::from([("cluster".to_owned(), cluster.to_owned())]),
    };
    config.to_json()
}

async fn start(cluster: &str, node: i32) -> Arc<dyn Running> {
    library().construct(&config(node, cluster)).unwrap().start(Resume::default()).await.unwrap()
}

async fn in_time<F: Future>(future: F) -> F::Output {
    Clock::system().timeout(Duration::from_secs(20), future).await.expect("in time")
}

fn snapshot(meta: SnapshotMeta, chunks: Vec<Result<Bytes, SnapshotError>>) -> Snapshot {
    Snapshot { meta, chunks: stream::iter(chunks).boxed() }
}

#[test]
fn a_table_says_what_the_author_says() {
    let library = library();
    assert_eq!(
        (library.name(), library.version(), library.recorded_name()),
        ("joined", "1.2.3", "plugin:joined")
    );
    assert!(library.can(Capability::Founders) && !library.can(Capability::Votes));
}

#[test]
fn a_refused_configuration_comes_back_with_its_sentence_and_without_a_runtime() {
    let refusal = |config: &str| library().construct(config).err().unwrap();
    assert_eq!(refusal(&config(1, "absent")), StartError::Config("cluster: no 'absent'".to_owned()));
    assert!(refusal("{").to_string().contains("malformed"));
    assert!(refusal(&config(1, "panic")).to_string().contains("panicked in create"));
}

#[tokio::test]
async fn a_node_leads_commits_and_is_read() {
    let memory = cluster("leads", MemoryConfig::driven(3));
    let (one, two) = (start("leads", 1).await, start("leads", 2).await);
    let mut events = one.leader_events();
    memory.elect(NodeId(1));
    let event = in_time(events.next()).await.unwrap();
    assert_eq!((event.epoch, event.leader), (Epoch(1), Leader::Me { opened_at: LogIndex(1) }));
    assert_eq!(one.propose(Epoch(1), Bytes::from_static(b"a")).await, Ok(LogIndex(2)));
    assert_eq!(one.propose(Epoch(1), Bytes::from(vec![0; (1 << 20) + 1])).await, Err(ProposeError::TooLarge));
    let hint = Some(NodeId(1));
    assert_eq!(two.propose(Epoch(1), Bytes::from_static(b"b")).await, Err(ProposeError::NotLeader { hint }));
    assert_eq!(two.read_barrier().await, Ok(LogIndex(2)));
    let read: Vec<_> = in_time(two.committed(LogIndex(0)).take(2).collect::<Vec<_>>()).await;
    let Committed::Entry { index, epoch, data } = &read[1] else { panic!("{read:?}") };
    assert_eq!((index.0, epoch.0, data.as_ref()), (2, 1, b"a".as_slice()));
    let status = two.status();
    assert_eq!((status.backend, status.committed, status.voters.len()), ("plugin:joined", LogIndex(2), 3));
    assert_eq!(one.change_membership(MembershipChange::Remove(NodeId(3))).await, Ok(()));
    let refused = two.change_membership(MembershipChange::Remove(NodeId(2))).await;
    assert_eq!(refused, Err(MembershipError::NotLeader));
}

#[tokio::test]
async fn concurrent_proposals_keep_the_order_of_their_first_poll() {
    let memory = cluster("order", MemoryConfig::driven(1));
    let one = start("order", 1).await;
    memory.elect(NodeId(1));
    let proposals = (0..200u32).map(|n| one.propose(Epoch(1), Bytes::copy_from_slice(&n.to_be_bytes())));
    let indexes = in_time(futures_util::future::join_all(proposals)).await;
    let indexes: Vec<u64> = indexes.into_iter().map(|index| index.unwrap().0).collect();
    assert_eq!(indexes, (2..202).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_snapshot_goes_in_and_comes_out_in_chunks() {
    let memory = cluster("snapshot", MemoryConfig { kept_tail: 0, ..MemoryConfig::driven(1) });
    let one = start("snapshot", 1).await;
    memory.elect(NodeId(1));
    let last = one.propose(Epoch(1), Bytes::from_static(b"a")).await.unwrap();
    let chain = Chain::start(LogId([0x51; 16])).link(Epoch(1), b"").link(Epoch(1), b"a");
    let chunk = |byte: u8, bytes: usize| Ok(Bytes::from(vec![byte; bytes]));
    let meta = SnapshotMeta { index: last, epoch: Epoch(1), chain, bytes: (3 << 20) + 5 };
    let whole = || vec![chunk(1, 1 << 20), chunk(2, 1 << 20), chunk(3, 1 << 20), chunk(4, 5)];

    let torn = vec![chunk(1, 1 << 20), Err(SnapshotError("torn".to_owned()))];
    let refused = in_time(one.compact(snapshot(meta, torn))).await;
    assert_eq!(refused, Err(CompactError::Snapshot(SnapshotError("torn".to_owned()))));
    let short = SnapshotMeta { bytes: 4 << 20, ..meta };
    assert!(matches!(in_time(one.compact(snapshot(short, whole()))).await, Err(CompactError::Snapshot(_))));
    let ahead = SnapshotMeta { index: LogIndex(9), ..meta };
    assert_eq!(in_time(one.compact(snapshot(ahead, whole()))).await, Err(CompactError::Foreign));

    assert_eq!(in_time(one.compact(snapshot(meta, whole()))).await, Ok(()));
    let mut log = one.committed(LogIndex(0));
    let Some(Committed::Snapshot(found)) = in_time(log.next()).await else { panic!("no snapshot") };
    assert_eq!(found.meta, meta);
    let chunks: Vec<Bytes> = in_time(found.chunks.map(Result::unwrap).collect()).await;
    assert!(chunks.iter().all(|chunk| chunk.len() <= 1 << 20));
    let wanted: Vec<Bytes> = whole().into_iter().map(Result::unwrap).collect();
    assert_eq!(chunks.concat(), wanted.concat());
    one.propose(Epoch(1), Bytes::from_static(b"b")).await.unwrap();
    let next = in_time(log.next()).await;
    assert!(matches!(next, Some(Committed::Entry { index: LogIndex(3), .. })), "{next:?}");
}

#[tokio::test]
async fn shutdown_answers_what_is_outstanding_and_ends_the_streams() {
    let memory = cluster("stops", MemoryConfig::driven(2));
    let (one, _two) = (start("stops", 1).await, start("stops", 2).await);
    memory.elect(NodeId(1));
    memory.cut(NodeId(1));
    let (mut events, mut log) = (one.leader_events(), one.committed(LogIndex(1)));
    let proposing = one.clone();
    let proposal = async move { proposing.propose(Epoch(1), Bytes::from_static(b"a")).await };
    let waiting = async { while log.next().await.is_some() {} };
    let shutdown = async {
        one.shutdown().await;
        one.shutdown().await;
        while events.next().await.is_some() {}
    };
    let (proposed, (), ()) = in_time(async { tokio::join!(proposal, waiting, shutdown) }).await;
    assert!(matches!(proposed, Err(ProposeError::Unknown | ProposeError::Stopped)), "{proposed:?}");
    assert_eq!(one.propose(Epoch(1), Bytes::from_static(b"a")).await, Err(ProposeError::Stopped));
    assert!(one.read_barrier().await.is_err());
    assert_eq!(one.status().backend, "plugin:joined");
}

#[tokio::test]
async fn dropping_the_handle_is_a_crash_and_the_next_life_starts() {
    let memory = cluster("crash", MemoryConfig::driven(1));
    let one = start("crash", 1).await;
    memory.elect(NodeId(1));
    one.propose(Epoch(1), Bytes::from_static(b"a")).await.unwrap();
    let mut log = one.committed(LogIndex(0));
    drop(one);
    assert!(in_time(log.next()).await.is_none(), "a stream that outlives its node");
    let one = start("crash", 1).await;
    memory.elect(NodeId(1));
    assert!(in_time(one.committed(LogIndex(1)).next()).await.is_some());
}
