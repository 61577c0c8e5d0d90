//! Cut, held and lost traffic; a killed etcd.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use quorate_conformance::proxy::{Fate, Proxy};
use quorate_core::{
    consensus::{Committed, Leader, LogIndex, ProposeError, Resume},
    runtime::Clock,
};
use quorate_tests::etcd::EtcdServer;

use super::common::{config, fresh, start, until, within};

#[tokio::test]
async fn a_paused_leader_is_fenced_even_where_its_write_was_on_the_way() {
    let etcd = EtcdServer::start();
    let proxy = Proxy::before(etcd.address()).await;
    let paused = fresh(1, &proxy.address(), "/q").await;
    let (epoch, _) = paused.leads().await;
    assert_eq!(paused.propose(epoch, "before").await, Ok(LogIndex(2)));
    let other = fresh(2, &etcd.address(), "/q").await;
    until("a follower", || other.running.leader_events().last().is_some()).await;
    proxy.set(Fate::Hold, Fate::Hold);
    let zombie = paused.propose(epoch, "zombie");
    let takeover = async {
        let (next, opened_at) = other.leads().await;
        assert!(next > epoch && opened_at == LogIndex(3));
        assert_eq!(other.propose(next, "after").await, Ok(LogIndex(4)));
        // What the paused leader has sent arrives now.
        proxy.set(Fate::Pass, Fate::Pass);
    };
    let (zombie, ()) = tokio::join!(zombie, takeover);
    assert!(matches!(zombie, Err(ProposeError::Unknown | ProposeError::NotLeader { .. })), "{zombie:?}");
    assert_eq!(other.applied(LogIndex(4)).await.data(), ["before", "after"]);
    let last = || paused.running.leader_events().last().map(|event| event.leader);
    until("the old leader follows", || last() == Some(Leader::Other(other.id))).await;
    assert_eq!(other.running.read_barrier().await, Ok(LogIndex(4)));
}

#[tokio::test]
async fn a_cut_off_leader_steps_down_within_its_patience() {
    let etcd = EtcdServer::start();
    let proxy = Proxy::before(etcd.address()).await;
    let node = fresh(1, &proxy.address(), "/q").await;
    let (epoch, _) = node.leads().await;
    let cut = Clock::system().now();
    proxy.open(false);
    let last = || node.running.leader_events().last().map(|event| event.leader);
    until("it steps down", || last() == Some(Leader::Unknown)).await;
    assert!(Clock::system().now().since(cut) < Duration::from_secs(2), "later than its lease");
    assert!(node.running.read_barrier().await.is_err());
    let refused = node.propose(epoch, "x").await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    proxy.open(true);
    let (next, _) = node.leads_after(epoch).await;
    assert!(node.propose(next, "y").await.is_ok());
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_and_committed_once() {
    let etcd = EtcdServer::start();
    let proxy = Proxy::before(etcd.address()).await;
    let mut config = config(1, &proxy.address(), "/q");
    config.lease_ttl = Duration::from_secs(10);
    let node = start(config, Resume::default()).await;
    let (epoch, _) = node.leads().await;
    let mut direct = etcd.client().await;
    for round in 0..5_u64 {
        let data = format!("once {round}");
        proxy.set(Fate::Pass, Fate::Drop);
        let arrival = async {
            let key = format!("/q/1/log/{:020}", round + 2);
            while direct.get(key.as_str(), None).await.unwrap().kvs().is_empty() {
                Clock::system().sleep(Duration::from_millis(5)).await;
            }
            proxy.set(Fate::Pass, Fate::Pass);
            proxy.cut();
        };
        let (proposed, ()) = tokio::join!(node.propose(epoch, &data), within("the entry in etcd", arrival));
        assert_eq!(proposed, Ok(LogIndex(round + 2)));
    }
    let once: Vec<String> = (0..5).map(|round| format!("once {round}")).collect();
    assert_eq!(node.applied(LogIndex(6)).await.data(), once);
    assert_eq!(node.running.read_barrier().await, Ok(LogIndex(6)));
}

#[tokio::test]
async fn a_campaign_whose_reply_is_lost_is_won_all_the_same() {
    let etcd = EtcdServer::start();
    let proxy = Proxy::before(etcd.address()).await;
    let mut direct = etcd.client().await;
    let held = fresh(1, &etcd.address(), "/q").await;
    let (epoch, _) = held.leads().await;
    let mut patient = config(2, &proxy.address(), "/q");
    patient.lease_ttl = Duration::from_secs(10);
    let node = start(patient, Resume::default()).await;
    until("a candidate", || node.status().voters.len() == 2).await;
    // The watch still passes what comes before; the campaign's own answer does not.
    held.running.shutdown().await;
    proxy.set(Fate::Pass, Fate::Drop);
    proxy.cut();
    proxy.set(Fate::Pass, Fate::Pass);
    let (next, _) = node.leads_after(epoch).await;
    assert!(node.propose(next, "x").await.is_ok());
    assert!(!direct.get("/q/1/leader", None).await.unwrap().kvs().is_empty());
}

#[tokio::test]
async fn compaction_of_etcd_under_the_watch_loses_no_entry() {
    let etcd = EtcdServer::start();
    let proxy = Proxy::before(etcd.address()).await;
    let leader = fresh(1, &etcd.address(), "/q").await;
    let (epoch, _) = leader.leads().await;
    let reader = fresh(2, &proxy.address(), "/q").await;
    let mut stream = reader.running.committed(LogIndex(0));
    within("the opening", stream.next()).await;
    // While the reader's traffic is held, the log grows and etcd forgets every revision that the watch needs.
    proxy.set(Fate::Hold, Fate::Hold);
    let mut direct = etcd.client().await;
    for number in 0..50 {
        leader.propose(epoch, &number.to_string()).await.unwrap();
    }
    let revision = direct.get("/q/1/tail", None).await.unwrap().header().unwrap().revision();
    direct.compact(revision, None).await.unwrap();
    proxy.set(Fate::Pass, Fate::Pass);
    proxy.cut();
    for number in 0..50_u64 {
        let Some(Committed::Entry { index, data, .. }) = within("an entry", stream.next()).await else {
            panic!("no entry")
        };
        assert_eq!((index, data), (LogIndex(number + 2), Bytes::from(number.to_string())));
    }
}

#[tokio::test]
async fn a_killed_etcd_leaves_readers_and_proposers_waiting_and_no_entry_twice() {
    let mut etcd = EtcdServer::start();
    let mut config = config(1, &etcd.address(), "/q");
    config.lease_ttl = Duration::from_secs(30);
    let node = start(config, Resume::default()).await;
    let (epoch, _) = node.leads().await;
    let mut stream = node.running.committed(LogIndex(1));
    etcd.kill();
    let proposed = node.propose(epoch, "in the dark");
    let restarted = async {
        node.problem("unreachable").await;
        etcd.restart();
    };
    let (proposed, ()) = tokio::join!(proposed, restarted);
    assert_eq!(proposed, Ok(LogIndex(2)));
    assert_eq!(node.propose(epoch, "in the light").await, Ok(LogIndex(3)));
    for expected in ["in the dark", "in the light"] {
        let Some(Committed::Entry { data, .. }) = within("an entry", stream.next()).await else {
            panic!("no entry")
        };
        assert_eq!(data, expected);
    }
    until("no problem", || node.status().peers.iter().all(|peer| peer.problem.is_none())).await;
}

#[tokio::test]
async fn proposals_end_as_unknown_when_etcd_stays_away() {
    let mut etcd = EtcdServer::start();
    let node = fresh(1, &etcd.address(), "/q").await;
    let (epoch, _) = node.leads().await;
    let mut client = etcd.client().await;
    client.put("/other", "x", None).await.unwrap();
    etcd.pause();
    let proposed = node.propose(epoch, "nobody knows").await;
    assert_eq!(proposed, Err(ProposeError::Unknown));
    let last = node.running.leader_events().last().map(|event| event.leader);
    assert_eq!(last, Some(Leader::Unknown));
    etcd.go_on();
    let (next, opened_at) = node.leads_after(epoch).await;
    assert!(next > epoch);
    // Whatever became of it, everybody reads the same for ever.
    let first = node.applied(opened_at).await;
    assert_eq!(node.applied(opened_at).await, first);
    etcd.kill();
    etcd.restart();
    assert_eq!(node.applied(opened_at).await, first);
}
