//! The log as it should be: elections, order, limits, snapshots.

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use quorate_core::consensus::{
    Chain, Committed, Epoch, Leader, LogIndex, MembershipChange, MembershipError, NodeId, ProposeError,
    Resume, Snapshot, SnapshotMeta,
};
use quorate_tests::etcd::{EtcdServer, Release};

use super::common::{Node, config, fresh, start, until, within};

async fn elects_proposes_and_hands_over(release: Release) {
    let etcd = EtcdServer::start_with(release, &[]);
    let address = etcd.address();
    let nodes = join_all((0..3).map(|id| fresh(id, &address, "/q"))).await;
    let leader = first_leader(&nodes).await;
    let (epoch, opened_at) = nodes[leader].leads().await;
    assert_eq!((epoch, opened_at), (Epoch(1), LogIndex(1)));
    for (index, data) in ["a", "b", "c"].iter().enumerate() {
        assert_eq!(nodes[leader].propose(epoch, data).await, Ok(LogIndex(index as u64 + 2)));
    }
    let follower = &nodes[(leader + 1) % 3];
    let refused = follower.propose(epoch, "x").await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    assert_eq!(follower.running.read_barrier().await, Ok(LogIndex(4)));
    let first = nodes[0].applied(LogIndex(4)).await;
    assert_eq!(first.data(), ["a", "b", "c"]);
    for node in &nodes {
        assert_eq!(node.applied(LogIndex(4)).await, first);
        until("every candidate", || node.status().voters.len() == 3).await;
        assert_eq!(node.status().log_id, Some(first.log));
    }
    nodes[leader].running.resign(epoch).await;
    let next = first_leader_after(&nodes, epoch).await;
    assert_ne!(next, leader, "who resigns does not campaign for a while");
    let stale = nodes[leader].propose(epoch, "y").await;
    assert!(matches!(stale, Err(ProposeError::NotLeader { .. })), "{stale:?}");
    join_all(nodes.iter().map(|node| node.running.shutdown())).await;
}

/// The number of the node that leads first.
async fn first_leader(nodes: &[Node]) -> usize {
    first_leader_after(nodes, Epoch(0)).await
}

async fn first_leader_after(nodes: &[Node], epoch: Epoch) -> usize {
    let leads = |node: &Node| {
        let event = node.running.leader_events().last();
        event.is_some_and(|event| event.epoch > epoch && matches!(event.leader, Leader::Me { .. }))
    };
    until("a leader", || nodes.iter().any(leads)).await;
    nodes.iter().position(leads).expect("a leader")
}

#[tokio::test]
async fn three_nodes_elect_propose_and_hand_over() {
    elects_proposes_and_hands_over(Release::Current).await;
}

#[tokio::test]
async fn three_nodes_elect_propose_and_hand_over_on_the_oldest_release() {
    elects_proposes_and_hands_over(Release::Floor).await;
}

#[tokio::test]
async fn a_leader_that_crashes_and_starts_again_does_not_wait_for_its_own_lease() {
    let etcd = EtcdServer::start();
    let mut config = config(1, &etcd.address(), "/q");
    config.lease_ttl = std::time::Duration::from_secs(60);
    let node = start(config.clone(), Resume::default()).await;
    let (epoch, _) = node.leads().await;
    node.propose(epoch, "a").await.unwrap();
    let applied = node.applied(LogIndex(2)).await;
    drop(node);
    config.runtime = quorate_core::runtime::Runtime::real();
    let node = start(config, applied.resume()).await;
    assert_eq!(node.leads().await, (Epoch(2), LogIndex(3)));
    assert_eq!(node.applied(LogIndex(3)).await.data(), ["a"]);
}

#[tokio::test]
async fn two_clusters_share_one_etcd_by_their_prefixes() {
    let etcd = EtcdServer::start();
    let (one, two) = (fresh(1, &etcd.address(), "/q/a").await, fresh(1, &etcd.address(), "/q/ab").await);
    for (node, data) in [(&one, "one"), (&two, "two")] {
        let (epoch, _) = node.leads().await;
        assert_eq!(node.propose(epoch, data).await, Ok(LogIndex(2)));
        assert_eq!(node.applied(LogIndex(2)).await.data(), [data]);
    }
    let (mine, other) = (one.applied(LogIndex(2)).await, two.applied(LogIndex(2)).await);
    assert_ne!(mine.log, other.log);
    // A node with the history of one under the prefix of the other is told so.
    let lost = start(config(2, &etcd.address(), "/q/ab"), mine.resume()).await;
    let sentence = lost.fails().await;
    assert!(
        sentence.contains(&mine.log.to_string()) && sentence.contains(&other.log.to_string()),
        "{sentence}"
    );
    assert_eq!(lost.propose(Epoch(1), "x").await, Err(ProposeError::Stopped));
    assert!(lost.running.leader_events().next().await.is_none());
}

#[tokio::test]
async fn the_largest_entry_is_exact_and_many_proposals_keep_their_order() {
    let etcd = EtcdServer::start();
    let node = fresh(1, &etcd.address(), "/q").await;
    let (epoch, _) = node.leads().await;
    let limit = node.status().max_entry_bytes;
    let propose = |bytes: usize| node.running.propose(epoch, Bytes::from(vec![7; bytes]));
    assert_eq!(within("the largest", propose(limit)).await, Ok(LogIndex(2)));
    assert_eq!(propose(limit + 1).await, Err(ProposeError::TooLarge));
    assert_eq!(propose(0).await, Err(ProposeError::TooLarge));
    let entry = |number: usize| Bytes::from(number.to_string());
    let answers = join_all((0..1_000).map(|number| node.running.propose(epoch, entry(number)))).await;
    let expected: Vec<_> = (0..1_000).map(|number| Ok(LogIndex(3 + number))).collect();
    assert_eq!(answers, expected);
    let applied = node.applied(LogIndex(1_002)).await;
    assert!((0..1_000).all(|number| applied.entries[number + 2].2 == entry(number)));
    let overload: Vec<_> =
        join_all((0..10_000).map(|number| node.running.propose(epoch, entry(number)))).await;
    assert!(overload.contains(&Err(ProposeError::Busy)), "a queue without bound");
    let change = MembershipChange::Remove(NodeId(1));
    assert_eq!(node.running.change_membership(change).await, Err(MembershipError::Unsupported));
}

#[tokio::test]
async fn an_etcd_with_smaller_limits_gets_smaller_batches() {
    let limits = ["--max-txn-ops", "8", "--max-request-bytes", "65536"];
    let etcd = EtcdServer::start_with(Release::Current, &limits);
    let node = fresh(1, &etcd.address(), "/q").await;
    let (epoch, _) = node.leads().await;
    let entries = (0..40).map(|_| node.running.propose(epoch, Bytes::from(vec![1; 10_000])));
    let answers = within("small batches", join_all(entries)).await;
    assert_eq!(answers, (0..40).map(|number| Ok(LogIndex(2 + number))).collect::<Vec<_>>());
    let large = node.running.propose(epoch, Bytes::from(vec![1; 100_000]));
    assert_eq!(within("an answer", large).await, Err(ProposeError::TooLarge));
    assert_eq!(node.propose(epoch, "on it goes").await, Ok(LogIndex(42)));
}

#[tokio::test]
async fn a_late_reader_gets_the_snapshot_and_the_tail() {
    let etcd = EtcdServer::start();
    let mut small = config(1, &etcd.address(), "/q");
    small.keep_entries = 10;
    let leader = start(small, Resume::default()).await;
    let (epoch, _) = leader.leads().await;
    for number in 0..40 {
        leader.propose(epoch, &number.to_string()).await.unwrap();
    }
    let applied = leader.applied(LogIndex(41)).await;
    let at = |index: usize| {
        let start = Chain::start(applied.log);
        applied.entries[..index].iter().fold(start, |chain, (_, epoch, data)| chain.link(Epoch(*epoch), data))
    };
    // Uneven chunks that are larger and smaller than those in etcd.
    let state: Vec<u8> = (0..2_500_000_u32).map(|number| (number % 251) as u8).collect();
    let snapshot = |chain: Chain| {
        let chunks: Vec<_> = state.chunks(999_999).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let bytes = state.len() as u64;
        let meta = SnapshotMeta { index: LogIndex(35), epoch, chain, bytes };
        Snapshot { meta, chunks: stream::iter(chunks).boxed() }
    };
    assert!(
        leader.running.compact(snapshot(Chain::default())).await.is_err(),
        "a snapshot of another history"
    );
    leader.running.compact(snapshot(at(35))).await.unwrap();
    leader.running.compact(snapshot(at(35))).await.unwrap();
    until("the log begins later", || leader.status().first == LogIndex(32)).await;
    let late = fresh(2, &etcd.address(), "/q").await;
    let mut stream = late.running.committed(LogIndex(0));
    let Some(Committed::Snapshot(found)) = within("a snapshot", stream.next()).await else {
        panic!("no snapshot")
    };
    assert_eq!((found.meta.index, found.meta.chain), (LogIndex(35), at(35)));
    let chunks: Vec<Bytes> = found.chunks.map(|chunk| chunk.unwrap()).collect().await;
    assert_eq!(chunks.concat(), state);
    for index in 36..=41 {
        let entry = within("the tail", stream.next()).await;
        assert!(
            matches!(entry, Some(Committed::Entry { index: found, .. }) if found == LogIndex(index)),
            "{entry:?}"
        );
    }
    // Whoever is only a little behind reads entries.
    let resume = Resume { log_id: Some(applied.log), applied: LogIndex(31), chain: at(31) };
    let near = start(config(3, &etcd.address(), "/q"), resume).await;
    let mut stream = near.running.committed(LogIndex(31));
    let entry = within("an entry", stream.next()).await;
    assert!(matches!(entry, Some(Committed::Entry { index: LogIndex(32), .. })), "{entry:?}");
}

#[tokio::test]
async fn a_node_that_does_not_campaign_reads_and_never_leads() {
    let etcd = EtcdServer::start();
    let mut quiet = config(2, &etcd.address(), "/q");
    quiet.campaigns = false;
    let reader = start(quiet, Resume::default()).await;
    until("the reader has seen that nobody leads", || reader.status().quorum_contact_age.is_some()).await;
    let leader = fresh(1, &etcd.address(), "/q").await;
    let (epoch, opened_at) = leader.leads().await;
    assert_eq!((epoch, opened_at), (Epoch(1), LogIndex(1)), "nobody has led before");
    assert_eq!(leader.propose(epoch, "a").await, Ok(LogIndex(2)));
    assert_eq!(reader.applied(LogIndex(2)).await.data(), ["a"]);
    let voters: Vec<NodeId> = reader.status().voters.into_keys().collect();
    assert_eq!(voters, [NodeId(1)], "the leader is a voter, a reader is none");
}
