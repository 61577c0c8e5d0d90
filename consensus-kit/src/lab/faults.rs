//! Disks and links at their worst, and random mixtures of both.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    consensus::{Leader, ProposeError},
    runtime::{
        Rng,
        simulated::{Fault, Keep},
    },
};

use super::{Backend, Lab, SECOND, name};

pub async fn a_leader_whose_disk_hangs_says_that_it_does_not_know_who_leads(backend: Backend) {
    let mut lab = Lab::new(backend, 3, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("before").await;
    let (leader, epoch) = lab.leader().unwrap();
    let running = lab.running(leader).clone();
    lab.disk(leader).inject(".log", Fault::HangSync, 1);
    let hanging = running.propose(epoch, Bytes::from_static(b"hangs"));
    let meanwhile = async {
        lab.until(5 * SECOND, "another leader", |lab| lab.leader().is_some_and(|(node, _)| node != leader))
            .await;
        let last = running.leader_events().last().unwrap();
        assert_eq!((last.epoch, last.leader), (epoch, Leader::Unknown));
        lab.commit("after").await;
        lab.disk(leader).heal();
    };
    let (outcome, ()) = tokio::join!(hanging, meanwhile);
    // The followers had it before the disk hung: the next leader may have kept it.
    assert!(!matches!(outcome, Err(ProposeError::TooLarge | ProposeError::Busy)), "{outcome:?}");
    lab.converge().await;
}

pub async fn a_disk_that_forgot_is_found_out_by_the_log_or_by_the_leader(backend: Backend) {
    let mut lab = Lab::new(backend, 3, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("before").await;
    let (leader, _) = lab.leader().unwrap();
    let liar = (leader + 1) % 3;
    lab.disk(liar).inject("/log/", Fault::ForgetSync, 1000);
    let index = lab.commit("forgotten").await;
    lab.spread(index).await;
    lab.crash(liar, Keep::None);
    lab.disk(liar).heal();
    let sentence = match lab.try_start(liar, Default::default()).await {
        Err(error) => error.to_string(),
        Ok(running) => {
            lab.until(5 * SECOND, "a verdict", |_| running.status().fatal.is_some()).await;
            running.status().fatal.unwrap()
        }
    };
    assert!(sentence.contains("remove and add this voter"), "{sentence}");
    assert!(sentence.contains("acknowledged"), "{sentence}");
    lab.commit("the others go on").await;
}

pub async fn a_crash_at_each_write_and_sync_of_a_snapshot_that_arrives_is_all_or_nothing(backend: Backend) {
    let mut points = 0;
    for keep in [Keep::None, Keep::Some] {
        for operations in 0.. {
            let mut lab = Lab::new(backend, operations, &[0, 1, 2]);
            lab.start_all().await;
            let (leader, _) = lab.elected(5 * SECOND).await;
            let late = (leader + 1) % 3;
            let mut index = lab.commit("first").await;
            lab.spread(index).await;
            lab.crash(late, keep);
            for number in 0..25 {
                index = lab.commit(&format!("entry {number}")).await;
            }
            lab.compact(leader, index).await;
            let disk = lab.disk(late).clone();
            let started = disk.operations();
            lab.start(late).await;
            disk.cut_power_after(started + operations);
            let caught_up = |lab: &Lab| lab.running(late).status().committed >= index;
            let done = |lab: &Lab| disk.is_without_power() || caught_up(lab);
            lab.until(10 * SECOND, "a snapshot or an end", done).await;
            let whole = caught_up(&lab) && operations > 40;
            lab.crash(late, keep);
            lab.start(late).await;
            lab.converge().await;
            if whole {
                break;
            }
            points += 1;
        }
    }
    println!("crashed the installing of a snapshot at {points} points");
    assert!(points > 30);
}

pub async fn a_read_barrier_on_any_node_covers_what_was_acknowledged(backend: Backend) {
    let mut lab = Lab::new(backend, 3, &[0, 1, 2]);
    lab.start_all().await;
    for number in 0..10 {
        let index = lab.commit(&format!("entry {number}")).await;
        for node in lab.live() {
            let barrier = lab.running(node).read_barrier().await.unwrap();
            assert!(barrier >= index, "node {node}: {barrier} < {index}");
        }
    }
    let (leader, _) = lab.leader().unwrap();
    lab.isolate(leader);
    let index = lab.commit("without the old leader").await;
    let refused = lab.running(leader).read_barrier().await;
    assert!(refused.is_err(), "a leader that is cut off confirms nothing: {refused:?}, {index}");
    assert!(refused.unwrap_err().to_string().contains("missing"));
}

pub async fn leadership_is_handed_over_at_once(backend: Backend) {
    let mut lab = Lab::new(backend, 3, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("before").await;
    for _ in 0..5 {
        let (leader, epoch) = lab.elected(5 * SECOND).await;
        let before = lab.clock.now();
        lab.running(leader).resign(epoch).await;
        lab.until(SECOND, "the next leader", |lab| lab.leader().is_some_and(|(_, later)| later > epoch))
            .await;
        assert!(lab.clock.now().since(before) < Duration::from_millis(300), "faster than an election");
        assert_ne!(lab.leader().unwrap().0, leader);
        lab.running(leader).resign(epoch).await;
    }
    let (leader, _) = lab.leader().unwrap();
    let before = lab.clock.now();
    lab.shutdown(leader).await;
    lab.elected(SECOND).await;
    assert!(lab.clock.now().since(before) < Duration::from_millis(300), "faster than an election");
}

/// Crashes, cuts, slow and full disks and changes of leader for a while, then peace. What has happened is returned.
pub async fn storm(backend: Backend, seed: u64) -> String {
    let rng = Rng::seeded(seed ^ 0x5eed);
    let mut lab = Lab::new(backend, seed, &[0, 1, 2]);
    lab.start_all().await;
    lab.commit("first").await;
    for step in 0..40 {
        let node = i32::try_from(rng.below(3)).unwrap();
        match rng.below(8) {
            0 => lab.crash(node, [Keep::None, Keep::Some, Keep::All][usize::try_from(rng.below(3)).unwrap()]),
            1 => lab.isolate(node),
            2 => {
                let other = (node + 1 + i32::try_from(rng.below(2)).unwrap()) % 3;
                lab.network.cut(&name(node), &name(other));
            }
            3 => lab.disk(node).inject(".log", Fault::HangSync, 1),
            4 => lab.disk(node).set_capacity(Some(0)),
            5 => {
                if let Some((leader, epoch)) = lab.leader() {
                    let running = lab.running(leader).clone();
                    let _late = lab.clock.timeout(SECOND / 10, running.resign(epoch)).await;
                }
            }
            _ => lab.network.heal_all(),
        }
        if let Some((leader, epoch)) = lab.leader() {
            let running = lab.running(leader).clone();
            let data = format!("step {step}");
            let proposing = running.propose(epoch, Bytes::from(data.clone()));
            if let Ok(Ok(index)) = lab.clock.timeout(SECOND / 5, proposing).await {
                lab.note_acknowledged(index, data);
                if rng.below(4) == 0 {
                    lab.compact(leader, index).await;
                }
            }
        }
        lab.clock.sleep(Duration::from_millis(rng.below(700))).await;
        for node in lab.nodes() {
            if rng.below(3) == 0 {
                lab.disk(node).heal();
            }
            if !lab.live().contains(&node) && rng.below(2) == 0 {
                lab.disk(node).heal();
                lab.start(node).await;
            }
        }
    }
    lab.network.heal_all();
    for node in lab.nodes() {
        lab.disk(node).heal();
        if !lab.live().contains(&node) {
            lab.start(node).await;
        }
        assert_eq!(lab.running(node).status().fatal, None);
    }
    lab.converge().await;
    lab.trace().await
}

pub async fn after_a_storm_everything_acknowledged_is_there_and_the_cluster_goes_on(backend: Backend) {
    for seed in 0..12 {
        println!("REPRODUCE: seed {seed}");
        storm(backend, seed).await;
    }
}
