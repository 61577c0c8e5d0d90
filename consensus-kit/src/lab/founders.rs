//! Who becomes a cluster, and who does not.

use std::{path::Path, time::Duration};

use quorate_core::runtime::{Disk as _, simulated::Keep};

use super::{Backend, Lab, SECOND};

pub async fn a_missing_founder_is_named_and_awaited(backend: Backend) {
    let mut lab = Lab::new(backend, 4, &[0, 1, 2]);
    lab.start(0).await;
    lab.start(2).await;
    lab.clock.sleep(5 * SECOND).await;
    for node in [0, 2] {
        let status = lab.running(node).status();
        assert!(status.log_id.is_none(), "{status:?}");
        let awaited = status.awaited();
        assert!(awaited.contains("node 1 at n1:9000") && awaited.contains("refused"), "{awaited}");
    }
    lab.start(1).await;
    lab.elected(4 * SECOND).await;
    lab.converge().await;
}

pub async fn two_wiped_nodes_of_three_do_not_become_a_second_cluster(backend: Backend) {
    let mut lab = Lab::new(backend, 4, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("of the first cluster").await;
    let log = lab.running(2).status().log_id;
    for node in [0, 1] {
        lab.crash(node, Keep::None);
        lab.add_machine(node);
        lab.start(node).await;
    }
    lab.clock.sleep(20 * SECOND).await;
    for node in [0, 1] {
        let status = lab.running(node).status();
        assert!(status.log_id.is_none(), "{status:?}");
        let awaited = status.awaited();
        assert!(awaited.contains("knows node") && awaited.contains("remove this voter"), "{awaited}");
    }
    let survivor = lab.running(2).status();
    assert_eq!(survivor.log_id, log);
    let missing = survivor.awaited();
    assert!(missing.contains("another data directory"), "{missing}");
    assert_eq!(lab.leader(), None);
}

pub async fn an_emptied_voter_does_not_vote_and_the_others_go_on(backend: Backend) {
    let mut lab = Lab::new(backend, 5, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("one").await;
    let (leader, _) = lab.leader().unwrap();
    let victim = if leader == 1 { 2 } else { 1 };
    lab.crash(victim, Keep::None);
    lab.add_machine(victim);
    lab.start(victim).await;
    lab.commit("two").await;
    lab.clock.sleep(5 * SECOND).await;
    assert!(lab.running(victim).status().founding.is_some());
    // With one more gone there is no majority, and the emptied one does not lend itself for one.
    let (leader, _) = lab.leader().unwrap();
    lab.crash(leader, Keep::None);
    lab.clock.sleep(10 * SECOND).await;
    assert_eq!(lab.leader(), None);
    lab.start(leader).await;
    lab.elected(5 * SECOND).await;
}

pub async fn lists_that_differ_hold_the_founding_up_and_say_so(backend: Backend) {
    let mut lab = Lab::new(backend, 4, &[0, 1]);
    lab.start(0).await;
    lab.add_machine(2);
    lab.list(&[0, 1, 2]);
    lab.start(1).await;
    lab.start(2).await;
    lab.clock.sleep(5 * SECOND).await;
    assert_eq!(lab.leader(), None);
    let awaited = lab.running(1).status().awaited();
    assert!(awaited.contains("node 0") && awaited.contains("lists other voters: 0, 1"), "{awaited}");
}

pub async fn a_node_that_is_no_voter_waits_to_be_added(backend: Backend) {
    let mut lab = Lab::new(backend, 4, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("one").await;
    lab.add_machine(7);
    let stranger = lab.start(7).await;
    lab.clock.sleep(Duration::from_secs(5)).await;
    let status = stranger.status();
    assert!(status.log_id.is_none() && status.awaited().contains("not added to yet"), "{status:?}");
}

pub async fn a_voter_whose_consensus_folder_alone_was_emptied_is_no_voter_either(backend: Backend) {
    let mut lab = Lab::new(backend, 5, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("one").await;
    let (leader, _) = lab.leader().unwrap();
    let victim = (leader + 1) % 3;
    lab.crash(victim, Keep::All);
    lab.disk(victim).remove_dir_all(Path::new("/data/raft")).unwrap();
    lab.start(victim).await;
    lab.commit("two").await;
    lab.clock.sleep(5 * SECOND).await;
    let status = lab.running(victim).status();
    assert!(status.log_id.is_none(), "{status:?}");
    assert!(status.awaited().contains("votes and entries are lost"), "{}", status.awaited());
    let missing = lab.running(lab.leader().unwrap().0).status().awaited();
    assert!(missing.contains("was emptied"), "{missing}");
}

pub async fn a_founder_that_is_lost_right_after_the_founding_is_not_missed(backend: Backend) {
    let mut founded = 0;
    for operations in 0..60 {
        let mut lab = Lab::new(backend, operations, &[0, 1, 2]);
        lab.disk(0).cut_power_after(operations);
        lab.start_all_that_can().await;
        lab.clock.sleep(SECOND).await;
        lab.crash(0, Keep::None);
        if [1, 2].into_iter().all(|node| lab.running(node).status().log_id.is_some()) {
            founded += 1;
            lab.elected(10 * SECOND).await;
            lab.commit("without it").await;
        }
    }
    println!("{founded} clusters were founded and lost a founder at once");
    assert!(founded > 10, "{founded}");
}
