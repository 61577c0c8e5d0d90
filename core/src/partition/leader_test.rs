use smallvec::smallvec;

use crate::{ids::PartitionEpoch, protocol::errors::ErrorCode};

use super::*;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const LAG: Duration = Duration::from_secs(30);
const START: Moment = Moment(1_000_000_000);

fn after(seconds: u64) -> Moment {
    START.plus(Duration::from_secs(seconds))
}

fn state(isr: &[NodeId], version: i32) -> Partition {
    Partition {
        leader: ONE,
        leader_epoch: LeaderEpoch(4),
        partition_epoch: PartitionEpoch(version),
        replicas: smallvec![ONE, TWO, THREE],
        isr: isr.iter().copied().collect(),
        ..Partition::default()
    }
}

fn everybody(node: NodeId) -> Option<BrokerEpoch> {
    Some(BrokerEpoch(i64::from(node.0) * 100))
}

fn leading(isr: &[NodeId], min_isr: usize, epoch_start: i64) -> Leadership {
    let rules = LeaderRules { min_isr, lag_max: LAG };
    Leadership::begin(ONE, &state(isr, 7), Offset(epoch_start), rules, START, everybody)
}

fn fetch(leader: &mut Leadership, node: NodeId, end: i64, own_end: i64, hw: i64, now: Moment) {
    let fetch = FollowerFetch { node, broker_epoch: everybody(node).unwrap(), end: Offset(end) };
    leader.fetched(fetch, Offset(own_end), Offset(hw), now).unwrap();
}

fn settle(leader: &mut Leadership, isr: &[NodeId], version: i32) {
    let proposal = leader.take_proposal().unwrap();
    let verdict = Verdict::Accepted {
        leader_epoch: LeaderEpoch(4),
        partition_epoch: PartitionEpoch(version),
        isr: isr.iter().copied().collect(),
    };
    assert_eq!(leader.answered(&proposal, &verdict, Offset(0)), Effect::Settled);
}

#[test]
fn the_high_watermark_is_the_smallest_end_of_the_isr() {
    let mut leader = leading(&[ONE, TWO, THREE], 2, 0);
    assert_eq!(leader.high_watermark(Offset(0), Offset(10), START), Offset(0));
    fetch(&mut leader, TWO, 8, 10, 0, START);
    assert_eq!(leader.high_watermark(Offset(0), Offset(10), START), Offset(0), "THREE has not fetched yet");
    fetch(&mut leader, THREE, 5, 10, 0, START);
    assert_eq!(leader.high_watermark(Offset(0), Offset(10), START), Offset(5));
    assert_eq!(leader.high_watermark(Offset(0), Offset(3), START), Offset(3), "its own sync counts as well");
}

#[test]
fn the_high_watermark_never_falls() {
    let mut leader = leading(&[ONE, TWO], 1, 0);
    fetch(&mut leader, TWO, 4, 10, 0, START);
    assert_eq!(leader.high_watermark(Offset(9), Offset(10), START), Offset(9));
}

#[test]
fn the_high_watermark_stands_still_while_the_isr_is_too_small() {
    let leader = leading(&[ONE], 2, 0);
    assert!(!leader.has_min_isr());
    assert_eq!(leader.high_watermark(Offset(3), Offset(10), after(100)), Offset(3));
}

#[test]
fn members_that_were_asked_to_leave_take_no_part_in_acks_all() {
    let mut leader = leading(&[ONE, TWO], 2, 0);
    assert!(leader.can_acknowledge());
    assert!(leader.shrink(Offset(10), after(100_000)));
    assert!(!leader.can_acknowledge(), "whether or not a controller is there to take the change in");
    assert!(leader.has_min_isr(), "and until one has, the high watermark waits for them");
}

#[test]
fn a_minimum_beyond_the_replicas_is_all_of_them() {
    let mut leader = leading(&[ONE, TWO, THREE], 5, 0);
    assert!(leader.has_min_isr());
    fetch(&mut leader, TWO, 10, 10, 0, START);
    fetch(&mut leader, THREE, 10, 10, 0, START);
    assert_eq!(leader.high_watermark(Offset(0), Offset(10), START), Offset(10));
}

#[test]
fn a_replica_that_joins_holds_the_high_watermark_before_the_controller_agrees() {
    let mut leader = leading(&[ONE, TWO], 1, 0);
    fetch(&mut leader, TWO, 10, 10, 5, START);
    fetch(&mut leader, THREE, 5, 10, 5, START);
    assert_eq!(leader.in_sync().maximal().as_slice(), [ONE, TWO, THREE]);
    assert_eq!(leader.high_watermark(Offset(5), Offset(10), after(100)), Offset(5));
}

#[test]
fn a_replica_that_leaves_holds_the_high_watermark_until_the_controller_agrees() {
    let mut leader = leading(&[ONE, TWO, THREE], 2, 0);
    fetch(&mut leader, TWO, 10, 10, 0, after(40));
    assert!(leader.shrink(Offset(10), after(40)));
    assert_eq!(leader.high_watermark(Offset(0), Offset(10), after(40)), Offset(0));
    settle(&mut leader, &[ONE, TWO], 8);
    assert_eq!(leader.high_watermark(Offset(0), Offset(10), after(40)), Offset(10));
}

#[test]
fn a_caught_up_replica_outside_of_the_isr_is_waited_for() {
    let mut leader = leading(&[ONE], 1, 100);
    // Before the start of the leadership, so that it may not join yet; but it fetched everything a moment ago.
    fetch(&mut leader, TWO, 90, 90, 90, START);
    assert!(!leader.in_sync().is_changing());
    assert_eq!(leader.high_watermark(Offset(90), Offset(120), after(1)), Offset(90));
    assert_eq!(leader.high_watermark(Offset(90), Offset(120), after(31)), Offset(120));

    leader.brokers_changed(|node| everybody(node).filter(|_| node != TWO));
    assert_eq!(leader.high_watermark(Offset(90), Offset(120), after(1)), Offset(120), "a fenced one is not");
}

#[test]
fn joining_needs_the_high_watermark_and_the_start_of_the_leadership() {
    let mut leader = leading(&[ONE], 1, 100);
    fetch(&mut leader, TWO, 99, 150, 50, START);
    assert!(!leader.in_sync().is_changing(), "below the start of the leadership");
    fetch(&mut leader, TWO, 119, 150, 120, START);
    assert!(!leader.in_sync().is_changing(), "below the high watermark");
    fetch(&mut leader, TWO, 120, 150, 120, START);
    assert!(leader.in_sync().may_contain(TWO));
}

#[test]
fn an_isr_below_its_minimum_grows_although_the_high_watermark_lags() {
    let mut leader = leading(&[ONE], 2, 100);
    assert!(!leader.is_high_watermark_known(Offset(50)));
    fetch(&mut leader, TWO, 100, 100, 50, START);
    settle(&mut leader, &[ONE, TWO], 8);
    assert_eq!(leader.high_watermark(Offset(50), Offset(100), START), Offset(100));
    assert!(leader.is_high_watermark_known(Offset(100)));
}

#[test]
fn fenced_and_unknown_brokers_do_not_join() {
    let rules = LeaderRules { min_isr: 1, lag_max: LAG };
    let mut leader = Leadership::begin(ONE, &state(&[ONE], 7), Offset(0), rules, START, |node| {
        everybody(node).filter(|_| node != TWO)
    });
    fetch(&mut leader, TWO, 10, 10, 0, START);
    assert!(!leader.in_sync().is_changing());
    leader.brokers_changed(everybody);
    fetch(&mut leader, TWO, 10, 10, 0, START);
    assert!(leader.in_sync().may_contain(TWO));
}

#[test]
fn a_silent_follower_that_is_unfenced_joins_without_another_fetch() {
    let mut leader = leading(&[ONE, TWO], 2, 0);
    leader.brokers_changed(|node| everybody(node).filter(|_| node != THREE));
    fetch(&mut leader, THREE, 10, 10, 10, START);
    assert!(!leader.has_proposal());
    leader.brokers_changed(everybody);
    leader.expand(Offset(10));
    assert!(leader.in_sync().may_contain(THREE));
}

#[test]
fn a_process_that_is_not_the_registered_one_does_not_join() {
    let mut leader = leading(&[ONE], 1, 0);
    let at =
        |broker_epoch| FollowerFetch { node: TWO, broker_epoch: BrokerEpoch(broker_epoch), end: Offset(10) };
    let old = leader.fetched(at(199), Offset(10), Offset(0), START);
    assert_eq!(old, Err(NotAFollower::OldBroker));
    assert_eq!(leader.follower_end(TWO), None, "an emptied disk under an old registration leaves no trace");
    // Newer than this node's image: it may fetch and is taken in once the image knows it.
    leader.fetched(at(201), Offset(10), Offset(0), START).unwrap();
    assert!(!leader.in_sync().is_changing());
}

#[test]
fn a_node_without_a_replica_is_no_follower() {
    let mut leader = leading(&[ONE, TWO], 1, 0);
    let fetch = FollowerFetch { node: NodeId(9), broker_epoch: BrokerEpoch(900), end: Offset(0) };
    assert_eq!(leader.fetched(fetch, Offset(0), Offset(0), START), Err(NotAFollower::NoReplica));
}

#[test]
fn members_that_fall_behind_are_asked_to_leave() {
    let mut leader = leading(&[ONE, TWO, THREE], 1, 0);
    fetch(&mut leader, TWO, 10, 10, 0, after(1));
    fetch(&mut leader, THREE, 9, 10, 0, after(1));
    assert!(!leader.shrink(Offset(10), after(30)), "THREE has the time of lag from the leadership's start");
    assert!(leader.shrink(Offset(10), after(31)));
    assert_eq!(leader.take_proposal().unwrap().isr, [(ONE, BrokerEpoch(100)), (TWO, BrokerEpoch(200))]);
}

#[test]
fn a_member_that_never_fetched_leaves_after_the_time_of_lag() {
    let mut leader = leading(&[ONE, TWO], 1, 0);
    assert!(!leader.shrink(Offset(0), after(30)));
    assert!(leader.shrink(Offset(0), after(31)));
}

#[test]
fn a_member_that_is_always_a_batch_behind_stays() {
    let mut leader = leading(&[ONE, TWO], 1, 0);
    for second in 0..100 {
        let end = i64::try_from(second).unwrap() * 10;
        fetch(&mut leader, TWO, end, end + 10, 0, after(second));
        assert!(!leader.shrink(Offset(end + 20), after(second)), "second {second}");
    }
    assert!(leader.shrink(Offset(2_000), after(200)));
}

#[test]
fn a_silent_follower_of_an_idle_partition_stays_and_gets_its_time_once_something_is_written() {
    let mut leader = leading(&[ONE, TWO], 1, 0);
    fetch(&mut leader, TWO, 10, 10, 0, START);
    assert!(!leader.shrink(Offset(10), after(3_600)));
    leader.appended(Offset(10), after(3_600));
    assert!(!leader.shrink(Offset(12), after(3_630)));
    assert!(leader.shrink(Offset(12), after(3_631)));
}

#[test]
fn what_a_follower_was_in_an_earlier_leadership_is_forgotten() {
    let mut leader = leading(&[ONE], 1, 0);
    fetch(&mut leader, TWO, 10, 10, 0, START);
    let newer = Partition { leader_epoch: LeaderEpoch(5), ..state(&[ONE], 8) };
    let rules = LeaderRules { min_isr: 1, lag_max: LAG };
    let again = Leadership::begin(ONE, &newer, Offset(10), rules, START, everybody);
    assert_eq!(again.follower_end(TWO), None);
    assert!(!again.in_sync().is_changing());
}

#[test]
fn a_replica_that_was_removed_and_added_again_starts_over() {
    let mut leader = leading(&[ONE, TWO, THREE], 1, 0);
    fetch(&mut leader, THREE, 10, 10, 0, START);
    leader.observe(&Partition { replicas: smallvec![ONE, TWO], ..state(&[ONE, TWO], 8) }, START, everybody);
    leader.observe(&state(&[ONE, TWO], 9), START, everybody);
    assert_eq!(leader.follower_end(THREE), None);
}

#[test]
fn one_follower_after_the_other_joins() {
    let mut leader = leading(&[ONE], 1, 0);
    fetch(&mut leader, TWO, 10, 10, 0, START);
    fetch(&mut leader, THREE, 10, 10, 0, START);
    settle(&mut leader, &[ONE, TWO], 8);
    assert!(leader.in_sync().may_contain(THREE), "the next is asked for when the one before is settled");
    settle(&mut leader, &[ONE, TWO, THREE], 9);
    assert!(!leader.has_proposal());
}

#[test]
fn a_refused_replica_is_asked_for_again_only_at_its_next_fetch() {
    let mut leader = leading(&[ONE], 1, 0);
    fetch(&mut leader, TWO, 10, 10, 0, START);
    let proposal = leader.take_proposal().unwrap();
    let refused = Verdict::Refused(ErrorCode::INELIGIBLE_REPLICA);
    assert_eq!(leader.answered(&proposal, &refused, Offset(0)), Effect::Settled);
    assert!(!leader.has_proposal());
    fetch(&mut leader, TWO, 10, 10, 0, after(1));
    assert!(leader.has_proposal());
}

#[test]
fn an_uncleanly_elected_leader_says_that_it_has_recovered_before_anything_else() {
    let rules = LeaderRules { min_isr: 1, lag_max: LAG };
    let recovering = Partition { recovering: true, ..state(&[ONE], 7) };
    let mut leader = Leadership::begin(ONE, &recovering, Offset(5), rules, START, everybody);
    fetch(&mut leader, TWO, 5, 5, 0, START);
    assert_eq!(leader.in_sync().maximal().as_slice(), [ONE], "the ISR of a leader in recovery is the leader");
    assert_eq!(leader.high_watermark(Offset(2), Offset(5), after(60)), Offset(2));
    settle(&mut leader, &[ONE], 8);
    assert!(leader.in_sync().may_contain(TWO));
}

#[test]
fn with_nothing_under_way_the_maximal_isr_is_the_isr() {
    let mut leader = leading(&[ONE, TWO], 1, 0);
    assert_eq!(leader.in_sync().maximal().as_slice(), leader.in_sync().current());
    fetch(&mut leader, THREE, 0, 0, 0, START);
    settle(&mut leader, &[ONE, TWO, THREE], 8);
    assert_eq!(leader.in_sync().maximal().as_slice(), leader.in_sync().current());
}

#[test]
fn another_process_of_a_refused_replica_is_asked_for_without_waiting_for_its_next_fetch() {
    let mut leader = leading(&[ONE], 1, 0);
    fetch(&mut leader, TWO, 10, 10, 10, START);
    let proposal = leader.take_proposal().unwrap();
    // Its process ends, and the next one fetches, before the answer comes.
    let next = BrokerEpoch(201);
    leader.brokers_changed(|node| if node == TWO { Some(next) } else { everybody(node) });
    let again = FollowerFetch { node: TWO, broker_epoch: next, end: Offset(10) };
    leader.fetched(again, Offset(10), Offset(10), START).unwrap();
    let refused = Verdict::Refused(ErrorCode::INELIGIBLE_REPLICA);
    assert_eq!(leader.answered(&proposal, &refused, Offset(10)), Effect::Settled);
    assert_eq!(leader.take_proposal().unwrap().isr.last(), Some(&(TWO, next)));
}
