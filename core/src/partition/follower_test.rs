use proptest::prelude::*;

use crate::{
    log::EpochStart,
    protocol::{builder::BatchBuilder, compression::Codec},
};

use super::*;

fn epochs(entries: &[(i32, i64)]) -> EpochCache {
    let mut cache = EpochCache::default();
    for (epoch, start) in entries {
        cache.assign(LeaderEpoch(*epoch), Offset(*start));
    }
    cache
}

fn leader_says(epoch: i32, end: i64) -> EpochEnd {
    EpochEnd { epoch: LeaderEpoch(epoch), end: Offset(end) }
}

fn cut(entries: &[(i32, i64)], log_end: i64, leader: EpochEnd) -> i64 {
    truncation_point(&epochs(entries), Offset(log_end), leader).0
}

#[test]
fn logs_agree_up_to_the_smaller_end_of_a_common_epoch() {
    assert_eq!(cut(&[(1, 0), (3, 10)], 20, leader_says(3, 15)), 15);
    assert_eq!(cut(&[(1, 0), (3, 10)], 20, leader_says(3, 25)), 20);
    assert_eq!(cut(&[(1, 0), (3, 10)], 20, leader_says(1, 30)), 10, "epoch 3 is not the leader's");
    assert_eq!(cut(&[(1, 0), (3, 10)], 20, leader_says(1, 5)), 5);
}

#[test]
fn an_epoch_that_the_follower_lacks_cuts_back_to_smaller_ones() {
    // KIP-279: the leader's epoch 2 is between the follower's 1 and 3; they part somewhere in 1 or at its end.
    assert_eq!(cut(&[(1, 0), (3, 10)], 20, leader_says(2, 18)), 10);
}

#[test]
fn a_leader_whose_log_begins_later_says_where() {
    // Older than all that the leader has: the answer repeats the epoch and says where the leader's log begins.
    assert_eq!(cut(&[(1, 0)], 20, leader_says(1, 12)), 12);
    assert_eq!(cut(&[], 20, leader_says(4, 12)), 12);
}

fn batch(base: i64, epoch: i32) -> Vec<u8> {
    BatchBuilder::new(Codec::None.into())
        .position(Offset(base), LeaderEpoch(epoch))
        .simple(0, None, Some(b"a"))
        .simple(0, None, Some(b"b"))
        .build()
        .unwrap()
}

fn checked(records: &[u8], log_end: i64, last: i32) -> Result<usize, ReplicationError> {
    check_replicated(records, Offset(log_end), LeaderEpoch(last), LeaderEpoch(5)).map(<[u8]>::len)
}

#[test]
fn batches_that_follow_the_log_are_taken() {
    let records = [batch(10, 3), batch(12, 5)].concat();
    assert_eq!(checked(&records, 10, 3), Ok(records.len()));
    assert_eq!(checked(&records, 8, -1), Ok(records.len()), "a compacted log has gaps");
}

#[test]
fn a_cut_batch_at_the_end_is_left_for_the_next_fetch() {
    let (first, second) = (batch(10, 3), batch(12, 3));
    for cut in 0..second.len() {
        assert_eq!(checked(&[first.clone(), second[..cut].to_vec()].concat(), 10, 3), Ok(first.len()));
    }
}

#[test]
fn what_does_not_follow_is_refused() {
    let gap = ReplicationError::Gap { sent: Offset(10), log_end: Offset(11) };
    assert_eq!(checked(&batch(10, 3), 11, 3), Err(gap));
    let again = ReplicationError::Gap { sent: Offset(10), log_end: Offset(12) };
    assert_eq!(checked(&batch(10, 3).repeat(2), 10, 3), Err(again));
    let fell = ReplicationError::EpochFell { sent: LeaderEpoch(3), last: LeaderEpoch(4) };
    assert_eq!(checked(&batch(10, 3), 10, 4), Err(fell.clone()));
    assert_eq!(checked(&[batch(10, 4), batch(12, 3)].concat(), 10, 3), Err(fell));
    let ahead = ReplicationError::EpochAhead { sent: LeaderEpoch(6), current: LeaderEpoch(5) };
    assert_eq!(checked(&batch(10, 6), 10, 3), Err(ahead));
}

#[test]
fn a_damaged_batch_is_never_appended() {
    for at in 17..batch(10, 3).len() {
        let mut records = [batch(8, 3), batch(10, 3)].concat();
        let first = batch(8, 3).len();
        records[first + at] ^= 1;
        assert!(matches!(checked(&records, 8, 3), Err(ReplicationError::Damaged(_))), "byte {at}");
    }
}

#[test]
fn the_high_watermark_follows_the_leader_as_far_as_the_log_reaches() {
    assert_eq!(high_watermark(Offset(5), Offset(20), Offset(10)), Offset(10));
    assert_eq!(high_watermark(Offset(5), Offset(7), Offset(10)), Offset(7));
    assert_eq!(high_watermark(Offset(5), Offset(3), Offset(10)), Offset(5));
}

/// A history of leaderships: each with its epoch and how many offsets it wrote.
fn lengths() -> impl Strategy<Value = Vec<(bool, i64)>> {
    prop::collection::vec((any::<bool>(), 1..20_i64), 1..8)
}

proptest! {
    /// Two logs that share a history up to some point and parted there: asking again and again ends at that point or
    /// before it, and never keeps anything on which they differ.
    #[test]
    fn truncation_ends_where_the_logs_part(shared in lengths(), leader_only in lengths(), follower_only in lengths()) {
        let mut epoch = 0;
        let mut grow = |from: &[(i32, i64)], end: i64, steps: &[(bool, i64)]| {
            let (mut entries, mut end) = (from.to_vec(), end);
            for (skip, count) in steps {
                epoch += if *skip { 2 } else { 1 };
                entries.push((epoch, end));
                end += count;
            }
            (entries, end)
        };
        let (common, parted) = grow(&[], 0, &shared);
        let (follower, follower_end) = grow(&common, parted, &follower_only);
        let (leader, leader_end) = grow(&common, parted, &leader_only);
        let (leader, mut own, mut end) = (epochs(&leader), epochs(&follower), Offset(follower_end));
        for _ in 0..20 {
            let Some(EpochStart { epoch, .. }) = own.latest() else { break };
            let answer = leader.end_of(epoch, Offset(leader_end)).unwrap();
            if answer.epoch == epoch && answer.end >= end {
                break;
            }
            let point = truncation_point(&own, end, answer);
            prop_assert!(point < end, "every round cuts something");
            end = point;
            own.truncate_to(end);
        }
        prop_assert_eq!(end, Offset(parted));
    }
}
