use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::{Memory, MemoryCluster, MemoryConfig};
use crate::{
    consensus::{
        Chain, Committed, CompactError, Consensus as _, Epoch, Leader, LogId, LogIndex, MembershipChange,
        NodeId, ProposeError, Resume, Running, Snapshot, SnapshotMeta, StartError,
    },
    runtime::{Clock, Rng},
};

fn cluster(config: MemoryConfig) -> MemoryCluster {
    MemoryCluster::new(config, Clock::simulated(0).0, Rng::seeded(7))
}

async fn start(cluster: &MemoryCluster, node: i32) -> Arc<dyn Running> {
    Box::new(Memory::new(cluster, NodeId(node))).start(Resume::default()).await.unwrap()
}

async fn three(config: MemoryConfig) -> (MemoryCluster, [Arc<dyn Running>; 3]) {
    let cluster = cluster(config);
    let nodes = [start(&cluster, 1).await, start(&cluster, 2).await, start(&cluster, 3).await];
    (cluster, nodes)
}

async fn read(running: &Arc<dyn Running>, after: u64, count: usize) -> Vec<(u64, u64, Bytes)> {
    let entry = |item| match item {
        Committed::Entry { index, epoch, data } => (index.0, epoch.0, data),
        Committed::Snapshot(snapshot) => (snapshot.meta.index.0, 0, Bytes::from_static(b"snapshot")),
    };
    running.committed(LogIndex(after)).map(entry).take(count).collect().await
}

fn snapshot(index: u64, epoch: u64, chain: Chain) -> Snapshot {
    let state = Bytes::from(format!("state at {index}"));
    let meta = SnapshotMeta { index: LogIndex(index), epoch: Epoch(epoch), chain, bytes: state.len() as u64 };
    Snapshot { meta, chunks: stream::iter([Ok(state)]).boxed() }
}

#[tokio::test]
async fn a_leader_commits_and_every_node_reads_the_same() {
    let (cluster, [one, two, _three]) = three(MemoryConfig::driven(3)).await;
    assert_eq!(one.leader_events().last(), None);
    assert_eq!(cluster.elect(NodeId(1)), Some(Epoch(1)));
    assert_eq!(one.leader_events().next().await.unwrap().leader, Leader::Me { opened_at: LogIndex(1) });
    assert_eq!(two.leader_events().next().await.unwrap().leader, Leader::Other(NodeId(1)));
    assert_eq!(one.propose(Epoch(1), Bytes::from_static(b"a")).await, Ok(LogIndex(2)));
    let hint = Some(NodeId(1));
    assert_eq!(two.propose(Epoch(1), Bytes::from_static(b"b")).await, Err(ProposeError::NotLeader { hint }));
    assert_eq!(read(&two, 0, 2).await, [(1, 1, Bytes::new()), (2, 1, Bytes::from_static(b"a"))]);
    assert_eq!(two.read_barrier().await, Ok(LogIndex(2)));
}

#[tokio::test]
async fn a_cut_leader_commits_nothing_and_a_paused_one_is_fenced() {
    let (cluster, [one, two, _three]) = three(MemoryConfig::driven(3)).await;
    cluster.elect(NodeId(1));
    cluster.cut(NodeId(1));
    let mut proposal = one.propose(Epoch(1), Bytes::from_static(b"a"));
    assert!(futures_util::poll!(&mut proposal).is_pending());
    cluster.suspect(NodeId(1));
    assert_eq!(proposal.await, Err(ProposeError::Unknown));
    assert_eq!(one.leader_events().last().unwrap().leader, Leader::Unknown);
    cluster.heal(NodeId(1));
    assert_eq!(one.leader_events().last().unwrap().leader, Leader::Me { opened_at: LogIndex(1) });
    assert_eq!(read(&two, 1, 1).await, [(2, 1, Bytes::from_static(b"a"))]);
    cluster.pause(NodeId(1));
    assert_eq!(cluster.elect(NodeId(2)), Some(Epoch(2)));
    assert_eq!(one.leader_events().last().unwrap().leader, Leader::Me { opened_at: LogIndex(1) });
    let mut proposal = one.propose(Epoch(1), Bytes::from_static(b"b"));
    assert!(futures_util::poll!(&mut proposal).is_pending());
    cluster.resume(NodeId(1));
    assert_eq!(proposal.await, Err(ProposeError::NotLeader { hint: Some(NodeId(2)) }));
    assert_eq!(one.leader_events().last().unwrap().leader, Leader::Other(NodeId(2)));
}

#[tokio::test]
async fn a_new_life_keeps_what_is_durable_and_begins_as_a_follower() {
    let (cluster, [one, two, three]) = three(MemoryConfig::driven(3)).await;
    cluster.elect(NodeId(1));
    one.propose(Epoch(1), Bytes::from_static(b"a")).await.unwrap();
    drop((one, two, three));
    let one = start(&cluster, 1).await;
    assert_eq!(read(&one, 0, 2).await.len(), 2);
    assert_eq!(cluster.elect(NodeId(1)), None, "one of three is no quorum");
    let _two = start(&cluster, 2).await;
    assert_eq!(one.leader_events().last(), None);
    assert_eq!(cluster.elect(NodeId(1)), Some(Epoch(2)));
    assert_eq!(one.leader_events().last().unwrap().leader, Leader::Me { opened_at: LogIndex(3) });
    let twice = Box::new(Memory::new(&cluster, NodeId(1))).start(Resume::default()).await;
    assert!(matches!(twice, Err(StartError::Config(_))));
}

#[tokio::test]
async fn a_foreign_history_is_refused_at_the_start() {
    let (cluster, [one, two, _three]) = three(MemoryConfig::driven(3)).await;
    cluster.elect(NodeId(2));
    drop(one);
    let id = LogId([0x51; 16]);
    let good = Resume { log_id: Some(id), applied: LogIndex(1), chain: Chain::start(id).link(Epoch(1), b"") };
    let foreign = [
        Resume { log_id: Some(LogId([1; 16])), ..good },
        Resume { chain: Chain::start(id), ..good },
        Resume { applied: LogIndex(9), ..good },
    ];
    for resume in foreign {
        let started = Box::new(Memory::new(&cluster, NodeId(1))).start(resume).await;
        assert!(matches!(started, Err(StartError::Foreign(_))));
    }
    Box::new(Memory::new(&cluster, NodeId(1))).start(good).await.unwrap();
    two.shutdown().await;
    assert_eq!(two.leader_events().next().await, None);
    assert_eq!(two.propose(Epoch(1), Bytes::from_static(b"a")).await, Err(ProposeError::Stopped));
}

#[tokio::test]
async fn a_late_reader_gets_the_snapshot_and_then_the_tail() {
    let mut config = MemoryConfig::driven(3);
    config.kept_tail = 0;
    let (cluster, [one, two, three]) = three(config).await;
    cluster.elect(NodeId(1));
    drop(three);
    let mut chain = Chain::start(LogId([0x51; 16])).link(Epoch(1), b"");
    for data in ["a", "b", "c"] {
        one.propose(Epoch(1), data.into()).await.unwrap();
    }
    for data in ["a", "b"] {
        chain = chain.link(Epoch(1), data.as_bytes());
    }
    assert_eq!(one.compact(snapshot(9, 1, chain)).await, Err(CompactError::Foreign));
    assert_eq!(one.compact(snapshot(2, 1, chain)).await, Err(CompactError::Foreign));
    one.compact(snapshot(3, 1, chain)).await.unwrap();
    one.compact(snapshot(3, 1, chain)).await.unwrap();
    assert_eq!(one.status().first, LogIndex(4));
    let expected = [(3, 0, Bytes::from_static(b"snapshot")), (4, 1, Bytes::from_static(b"c"))];
    assert_eq!(read(&one, 0, 2).await, expected);
    assert_eq!(read(&two, 0, 1).await, [(1, 1, Bytes::new())], "it kept its log");
    let three = start(&cluster, 3).await;
    assert_eq!(read(&three, 0, 2).await, expected, "it was sent the snapshot");
}

#[tokio::test(start_paused = true)]
async fn a_timed_cluster_founds_itself_elects_and_replaces_a_dead_leader() {
    let mut config = MemoryConfig::timed(3, Duration::from_millis(500));
    config.delay = Duration::from_millis(1)..Duration::from_millis(5);
    let cluster = cluster(config);
    let mut nodes = vec![start(&cluster, 1).await, start(&cluster, 2).await];
    Clock::system().sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.leader(), None);
    let status = nodes[0].status();
    assert_eq!(status.log_id, None);
    assert!(status.awaited().contains("node 3 at memory:3 (does not run)"), "{}", status.awaited());
    nodes.push(start(&cluster, 3).await);
    let mut events: Vec<_> = nodes.iter().map(|node| node.leader_events()).collect();
    let mut leader = None;
    for (node, events) in events.iter_mut().enumerate() {
        let first = events.next().await.unwrap();
        if let Leader::Me { opened_at } = first.leader {
            assert_eq!((first.epoch, opened_at), (Epoch(1), LogIndex(1)));
            leader = Some(node);
        }
    }
    let leader = leader.unwrap();
    assert_eq!(nodes[leader].propose(Epoch(1), Bytes::from_static(b"a")).await, Ok(LogIndex(2)));
    drop(nodes.remove(leader));
    events.remove(leader);
    while cluster.leader().is_none_or(|(_, epoch)| epoch < Epoch(2)) {
        events[0].next().await.unwrap();
    }
    assert_eq!(read(&nodes[0], 1, 1).await, [(2, 1, Bytes::from_static(b"a"))]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_out_of_reach_says_so_and_its_waiting_proposals_end_unknown() {
    let cluster = cluster(MemoryConfig::timed(3, Duration::from_millis(500)));
    let nodes = [start(&cluster, 1).await, start(&cluster, 2).await, start(&cluster, 3).await];
    while cluster.leader().is_none() {
        Clock::system().sleep(Duration::from_millis(10)).await;
    }
    let (leader, epoch) = cluster.leader().unwrap();
    let old = &nodes[usize::try_from(leader.0 - 1).unwrap()];
    let mut events = old.leader_events();
    assert_eq!(events.next().await.unwrap().epoch, epoch);
    cluster.cut(leader);
    assert_eq!(old.propose(epoch, Bytes::from_static(b"a")).await, Err(ProposeError::Unknown));
    assert_eq!(events.next().await.unwrap().leader, Leader::Unknown);
    while cluster.leader().is_none() {
        Clock::system().sleep(Duration::from_millis(10)).await;
    }
    let (next, epoch) = cluster.leader().unwrap();
    assert_ne!(next, leader);
    cluster.heal(leader);
    assert_eq!(old.leader_events().last().unwrap().leader, Leader::Other(next));
    let new = &nodes[usize::try_from(next.0 - 1).unwrap()];
    new.resign(epoch).await;
    assert!(cluster.leader().is_some_and(|(node, newer)| node != next && newer > epoch), "handed over");
}

#[tokio::test]
async fn voters_come_and_go_one_at_a_time() {
    let (cluster, [one, two, _three]) = three(MemoryConfig::driven(3)).await;
    cluster.elect(NodeId(1));
    let add = MembershipChange::Add { node: NodeId(4), endpoint: "memory:4".to_owned() };
    assert!(two.change_membership(add.clone()).await.is_err());
    one.change_membership(add.clone()).await.unwrap();
    one.change_membership(add).await.unwrap();
    assert_eq!(one.status().committed, LogIndex(2), "the same change twice is one entry");
    let _four = start(&cluster, 4).await;
    one.change_membership(MembershipChange::Remove(NodeId(1))).await.unwrap();
    assert_eq!(cluster.leader(), None);
    assert_eq!(cluster.elect(NodeId(1)), None, "no voter any more");
    assert_eq!(cluster.elect(NodeId(4)), Some(Epoch(2)));
}
