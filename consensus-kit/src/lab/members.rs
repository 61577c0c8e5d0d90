//! Changes of the voters, one at a time.

use bytes::Bytes;
use quorate_core::{
    consensus::{MembershipChange, MembershipError, NodeId},
    runtime::simulated::Keep,
};

use super::{Backend, Lab, SECOND};

fn add(node: i32) -> MembershipChange {
    MembershipChange::Add { node: NodeId(node), endpoint: format!("n{node}:9000") }
}

/// Asks whoever leads until the change has come about.
async fn change(lab: &Lab, change: MembershipChange) {
    for _ in 0..20 {
        let (leader, _) = lab.elected(10 * SECOND).await;
        match lab.running(leader).change_membership(change.clone()).await {
            Ok(()) => return,
            Err(MembershipError::Unsupported) => panic!("unsupported"),
            Err(_) => lab.clock.sleep(SECOND / 2).await,
        }
    }
    panic!("{change:?} does not come about: {}", lab.describe());
}

fn voters(lab: &Lab, node: i32) -> Vec<i32> {
    lab.running(node).status().voters.keys().map(|node| node.0).collect()
}

pub async fn a_new_node_learns_then_votes(backend: Backend) {
    let mut lab = Lab::new(backend, 6, &[0]);
    lab.start_all().await;
    lab.commit("before").await;
    for node in [3, 4] {
        lab.add_machine(node);
        lab.start(node).await;
        change(&lab, add(node)).await;
    }
    change(&lab, add(4)).await;
    lab.converge().await;
    lab.until(5 * SECOND, "voters", |lab| lab.live().iter().all(|node| voters(lab, *node) == [0, 3, 4]))
        .await;
    lab.crash(0, Keep::None);
    let (leader, _) = lab.elected(5 * SECOND).await;
    assert_ne!(leader, 0);
    lab.commit("after").await;
    // The members are known after a restart, too.
    for node in [3, 4] {
        lab.crash(node, Keep::None);
        lab.start(node).await;
    }
    lab.elected(5 * SECOND).await;
    lab.start(0).await;
    lab.converge().await;
}

pub async fn a_removed_follower_does_not_disturb(backend: Backend) {
    let mut lab = Lab::new(backend, 6, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("before").await;
    let (leader, epoch) = lab.leader().unwrap();
    let removed = (leader + 1) % 3;
    change(&lab, MembershipChange::Remove(NodeId(removed))).await;
    change(&lab, MembershipChange::Remove(NodeId(removed))).await;
    lab.clock.sleep(10 * SECOND).await;
    assert_eq!(lab.leader(), Some((leader, epoch)), "{}", lab.describe());
    assert_eq!(voters(&lab, leader).len(), 2);
    lab.crash(removed, Keep::None);
    lab.start(removed).await;
    lab.clock.sleep(10 * SECOND).await;
    assert_eq!(lab.leader(), Some((leader, epoch)), "{}", lab.describe());
}

pub async fn a_leader_that_is_to_go_hands_over_first(backend: Backend) {
    let mut lab = Lab::new(backend, 6, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("before").await;
    let (leader, _) = lab.leader().unwrap();
    change(&lab, MembershipChange::Remove(NodeId(leader))).await;
    let (next, _) = lab.elected(5 * SECOND).await;
    assert_ne!(next, leader);
    lab.commit("after").await;
    assert!(!voters(&lab, next).contains(&leader));
}

pub async fn a_wiped_voter_comes_back_by_being_removed_and_added(backend: Backend) {
    let mut lab = Lab::new(backend, 8, &[0, 1, 2]);
    lab.start_all().await;
    for number in 0..20 {
        lab.commit(&format!("entry {number}")).await;
    }
    let (leader, _) = lab.leader().unwrap();
    let wiped = (leader + 1) % 3;
    lab.crash(wiped, Keep::None);
    lab.add_machine(wiped);
    lab.start(wiped).await;
    change(&lab, MembershipChange::Remove(NodeId(wiped))).await;
    change(&lab, add(wiped)).await;
    lab.converge().await;
    lab.crash(leader, Keep::None);
    lab.commit("with its vote").await;
}

pub async fn a_new_node_gets_a_snapshot_that_is_older_than_its_admission(backend: Backend) {
    let mut lab = Lab::new(backend, 8, &[0]);
    lab.start_all().await;
    let mut index = lab.commit("first").await;
    for number in 0..30 {
        index = lab.commit(&format!("entry {number}")).await;
    }
    lab.compact(0, index).await;
    assert!(lab.running(0).status().first.0 > 1);
    lab.add_machine(5);
    lab.start(5).await;
    change(&lab, add(5)).await;
    lab.converge().await;
    lab.crash(5, Keep::None);
    lab.start(5).await;
    lab.converge().await;
}

pub async fn what_cannot_be_is_said(backend: Backend) {
    let mut lab = Lab::new(backend, 8, &[0, 1]);
    lab.start_all().await;
    lab.commit("first").await;
    let (leader, epoch) = lab.leader().unwrap();
    let running = lab.running(leader).clone();
    let nobody = MembershipChange::Add { node: NodeId(9), endpoint: "n9:9000".into() };
    let error = running.change_membership(nobody).await.unwrap_err();
    assert!(error.to_string().contains("node 9 at n9:9000: connecting"), "{error}");
    let follower = lab.running(1 - leader).clone();
    assert_eq!(follower.change_membership(add(9)).await, Err(MembershipError::NotLeader));
    lab.crash(1 - leader, Keep::All);
    let alone = running.propose(epoch, Bytes::from_static(b"x"));
    let removal = running.change_membership(MembershipChange::Remove(NodeId(1 - leader)));
    let (_, removed) = tokio::join!(alone, removal);
    assert!(removed.is_err(), "without a quorum nothing changes");
}
