//! A cluster of three nodes.

use std::time::Duration;

use quorate_core::runtime::simulated::Keep;

use super::{Backend, Lab, SECOND};

/// Founding, then an election of at most one second, sometimes two.
const STARTED: Duration = Duration::from_secs(4);

pub async fn three_nodes_found_elect_and_agree(backend: Backend) {
    let mut lab = Lab::new(backend, 2, &[0, 1, 2]);
    lab.start_all().await;
    lab.elected(STARTED).await;
    let index = lab.commit("hello").await;
    lab.spread(index).await;
    let log = lab.log(0, 0, index).await;
    for node in [1, 2] {
        assert_eq!(lab.log(node, 0, index).await, log);
    }
    let ids: Vec<_> =
        lab.nodes().into_iter().map(|node| lab.running(node).status().log_id.unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
}

pub async fn a_killed_leader_is_replaced_within_the_bound(backend: Backend) {
    for seed in 0..8 {
        let mut lab = Lab::new(backend, seed, &[0, 1, 2]);
        lab.start_all().await;
        let index = lab.commit("before").await;
        let (leader, epoch) = lab.leader().unwrap();
        lab.crash(leader, Keep::None);
        let (next, later) = lab.elected(3 * SECOND).await;
        assert!(next != leader && later > epoch);
        let after = lab.commit("after").await;
        assert!(after > index);
        lab.start(leader).await;
        lab.spread(after).await;
    }
}
