//! A restored backup is noticed, before and after new entries have overtaken the lost ones.

use quorate_core::consensus::{LogIndex, Resume};
use quorate_tests::etcd::{EtcdServer, Release};

use super::common::{Node, config, fresh, start, until, within};

/// A node that leads and has entries up to `index`.
async fn filled(node: &Node, index: u64) {
    let (epoch, _) = node.leads().await;
    while node.status().committed < LogIndex(index) {
        node.propose(epoch, "entry").await.unwrap();
    }
    until("a tail", || node.status().committed == LogIndex(index)).await;
}

async fn restored_under_running_nodes(release: Release) {
    let mut etcd = EtcdServer::start_with(release, &[]);
    let (leader, follower) = (fresh(1, &etcd.address(), "/q").await, fresh(2, &etcd.address(), "/q").await);
    let leader = if leader_is(&leader).await { [leader, follower] } else { [follower, leader] };
    filled(&leader[0], 10).await;
    let backup = etcd.back_up().await;
    filled(&leader[0], 20).await;
    let applied = leader[1].applied(LogIndex(20)).await;
    etcd.restore(&backup);
    for node in &leader {
        let sentence = node.fails().await;
        assert!(sentence.contains("rewound") && sentence.contains("accept-restore"), "{sentence}");
        assert!(node.running.leader_events().next().await.is_none(), "events end");
        assert!(node.running.read_barrier().await.is_err());
    }
    // A node that was down meanwhile, before the new history is as long as the old one, and after.
    let late = start(config(3, &etcd.address(), "/q"), applied.resume()).await;
    assert!(late.fails().await.contains("rewound"));
    let other = fresh(4, &etcd.address(), "/q").await;
    filled(&other, 30).await;
    let late = start(config(3, &etcd.address(), "/q"), applied.resume()).await;
    let mut stream = late.running.committed(LogIndex(20));
    let end = within("the end", futures_util::StreamExt::next(&mut stream)).await;
    assert!(end.is_none(), "an entry of another history: {end:?}");
    let sentence = late.fails().await;
    assert!(sentence.contains("diverged") && sentence.contains("accept-restore"), "{sentence}");
}

async fn leader_is(node: &Node) -> bool {
    until("a leader", || {
        node.running.leader_events().last().is_some_and(|event| {
            event.epoch.0 > 0 && event.leader != quorate_core::consensus::Leader::Unknown
        })
    })
    .await;
    let last = node.running.leader_events().last();
    matches!(last.map(|event| event.leader), Some(quorate_core::consensus::Leader::Me { .. }))
}

#[tokio::test]
async fn a_restored_backup_is_noticed_before_and_after_it_is_overtaken() {
    restored_under_running_nodes(Release::Current).await;
}

#[tokio::test]
async fn a_restored_backup_is_noticed_on_the_oldest_release() {
    restored_under_running_nodes(Release::Floor).await;
}

#[tokio::test]
async fn an_emptied_etcd_is_not_founded_again_by_a_node_that_knows_better() {
    let etcd = EtcdServer::start();
    let node = fresh(1, &etcd.address(), "/q").await;
    filled(&node, 5).await;
    let applied = node.applied(LogIndex(5)).await;
    node.running.shutdown().await;
    let empty = EtcdServer::start();
    let node = start(config(1, &empty.address(), "/q"), applied.resume()).await;
    let sentence = node.fails().await;
    assert!(sentence.contains("not in etcd") && sentence.contains("consensus.etcd.prefix"), "{sentence}");
    assert!(empty.client().await.get("/q/1/id", None).await.unwrap().kvs().is_empty());
}

#[tokio::test]
async fn a_deleted_entry_is_a_hole_that_nobody_reads_over() {
    let etcd = EtcdServer::start();
    let node = fresh(1, &etcd.address(), "/q").await;
    filled(&node, 9).await;
    let mut direct = etcd.client().await;
    direct.delete("/q/1/log/00000000000000000005", None).await.unwrap();
    let reader = start(config(2, &etcd.address(), "/q"), Resume::default()).await;
    let mut stream = reader.running.committed(LogIndex(0));
    while within("the end", futures_util::StreamExt::next(&mut stream)).await.is_some() {}
    let sentence = reader.fails().await;
    assert!(sentence.contains("hole") && sentence.contains("entry 5"), "{sentence}");
}

#[tokio::test]
async fn three_members_restored_from_an_old_backup_are_noticed() {
    let mut members = EtcdServer::start_cluster(3);
    let endpoints: Vec<String> = members.iter().map(EtcdServer::address).collect();
    let with_all = |id: i32| {
        let mut config = config(id, &endpoints[0], "/q");
        config.endpoints.clone_from(&endpoints);
        config
    };
    let node = start(with_all(1), Resume::default()).await;
    filled(&node, 5).await;
    let backup = members[1].back_up().await;
    filled(&node, 9).await;
    EtcdServer::restore_cluster(&mut members, &backup);
    assert!(node.fails().await.contains("rewound"));
    // A fresh node takes the restored log for what it is.
    let other = start(with_all(2), Resume::default()).await;
    filled(&other, 8).await;
}
