//! A crash at each write and sync of one node of three, from the first moment on.

use std::time::Duration;

use quorate_core::runtime::simulated::Keep;

use super::{Backend, Lab, SECOND};

/// What the cluster goes through: founding, elections, entries, a change of leader, a snapshot.
async fn live(lab: &mut Lab, victim: i32) {
    lab.start_all_that_can().await;
    for data in ["one", "two", "three"] {
        lab.commit(data).await;
    }
    let (leader, epoch) = lab.elected(10 * SECOND).await;
    lab.running(leader).resign(epoch).await;
    let index = lab.commit("after a change of leader").await;
    if lab.is_live(victim) {
        lab.compact(victim, index).await;
    }
    lab.commit("after a snapshot").await;
    lab.commit("and another").await;
}

async fn crash_after(backend: Backend, operations: u64, victim: i32, keep: Keep) -> bool {
    let mut lab = Lab::new(backend, operations, &[0, 1, 2]);
    let disk = lab.disk(victim).clone();
    disk.cut_power_after(operations);
    let living = live(&mut lab, victim);
    // A founder whose power is gone is awaited: then there is nothing to live through.
    let clock = quorate_core::runtime::Clock::system();
    let ended = clock.timeout(Duration::from_secs(9), living).await.is_ok();
    let whole = ended && !disk.is_without_power();
    lab.crash(victim, keep);
    lab.start(victim).await;
    lab.converge().await;
    whole
}

pub async fn a_crash_at_each_write_and_sync_loses_no_acknowledged_entry_and_gives_no_vote_twice(
    backend: Backend,
) {
    let mut points = 0;
    for (victim, keep) in [(0, Keep::None), (1, Keep::Some)] {
        let mut operations = 0;
        while !crash_after(backend, operations, victim, keep).await {
            operations += 1;
            points += 1;
        }
    }
    println!("crashed one node of three at {points} writes and syncs");
    assert!(points > 60);
}
