use proptest::prelude::*;

use crate::{
    ids::LeaderEpoch,
    protocol::{batch::Attributes, builder::BatchBuilder, compression::Codec},
};

use super::*;

const PRODUCER: ProducerId = ProducerId(4000);

fn batch(epoch: i16, base_sequence: i32, count: i32, base_offset: i64) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(base_offset),
        size_bytes: 100,
        leader_epoch: LeaderEpoch(0),
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: count - 1,
        base_timestamp: 1_000,
        max_timestamp: 1_000 + base_offset,
        producer_id: PRODUCER,
        producer_epoch: epoch,
        base_sequence,
        count,
    }
}

fn after(batches: &[BatchHeader]) -> Producers {
    let mut producers = Producers::default();
    for header in batches {
        assert_eq!(producers.check(header), Ok(Verdict::Append));
        producers.apply_data(header);
    }
    producers
}

#[test]
fn sequences_follow_without_a_gap() {
    let producers = after(&[batch(0, 0, 10, 0), batch(0, 10, 5, 10)]);
    assert_eq!(producers.check(&batch(0, 15, 1, 0)), Ok(Verdict::Append));
    for sent in [14, 16, 20] {
        let error = SequenceError::OutOfOrder { producer: PRODUCER, sent, last: 14 };
        assert_eq!(producers.check(&batch(0, sent, 1, 0)), Err(error));
    }
}

#[test]
fn the_last_five_batches_are_answered_with_their_offsets() {
    let batches: Vec<BatchHeader> = (0..7).map(|n| batch(0, n * 10, 10, i64::from(n) * 100)).collect();
    let producers = after(&batches);
    for header in &batches[2..] {
        let Ok(Verdict::Duplicate(written)) = producers.check(header) else {
            panic!("no duplicate: {header:?}")
        };
        assert_eq!(written.base_offset(), header.base_offset);
        assert_eq!(written.timestamp, header.max_timestamp);
    }
    for header in &batches[..2] {
        assert!(matches!(producers.check(header), Err(SequenceError::OutOfOrder { .. })));
    }
    // The same first sequence number with another count is another batch.
    assert!(producers.check(&batch(0, 60, 9, 0)).is_err());
}

#[test]
fn sequence_numbers_wrap_after_the_largest() {
    let producers = after(&[batch(0, i32::MAX - 9, 10, 0)]);
    assert_eq!(producers.check(&batch(0, 0, 3, 10)), Ok(Verdict::Append));

    let across = batch(0, i32::MAX - 1, 5, 0);
    let mut producers = after(&[batch(0, i32::MAX - 3, 2, 0), across]);
    assert_eq!(producers.get(PRODUCER).unwrap().last_sequence(), 2);
    assert!(matches!(producers.check(&across), Ok(Verdict::Duplicate(_))));
    assert_eq!(producers.check(&batch(0, 3, 1, 0)), Ok(Verdict::Append));
    producers.apply_data(&batch(0, 3, 1, 7));
    assert!(matches!(producers.check(&across), Ok(Verdict::Duplicate(_))));
}

#[test]
fn a_new_epoch_begins_at_zero_and_ends_the_old_one() {
    let mut producers = after(&[batch(3, 0, 10, 0)]);
    let gap = SequenceError::OutOfOrder { producer: PRODUCER, sent: 10, last: -1 };
    assert_eq!(producers.check(&batch(4, 10, 1, 0)), Err(gap));
    assert_eq!(producers.check(&batch(4, 0, 1, 0)), Ok(Verdict::Append));
    producers.apply_data(&batch(4, 0, 1, 10));
    let old = SequenceError::OldEpoch { producer: PRODUCER, sent: 3, current: 4 };
    assert_eq!(producers.check(&batch(3, 10, 1, 0)), Err(old));
    // Not even what was a duplicate an epoch ago.
    assert_eq!(producers.check(&batch(3, 0, 10, 0)), Err(old));
}

#[test]
fn an_unknown_producer_may_begin_anywhere() {
    assert_eq!(Producers::default().check(&batch(5, 1_234, 1, 0)), Ok(Verdict::Append));
}

#[test]
fn batches_without_a_producer_are_not_tracked() {
    let mut producers = Producers::default();
    let header = BatchHeader { producer_id: ProducerId(-1), ..batch(-1, -1, 3, 0) };
    assert_eq!(producers.check(&header), Ok(Verdict::Append));
    producers.apply_data(&header);
    assert!(producers.is_empty());
}

#[test]
fn silent_producers_are_forgotten() {
    let mut producers = after(&[batch(0, 0, 1, 0)]);
    producers.expire(1_000 + 99, 100);
    assert_eq!(producers.len(), 1);
    producers.expire(1_000 + 100, 100);
    assert!(producers.is_empty());

    let attributes = Attributes(0).with_transactional(true);
    let mut producers = after(&[BatchHeader { attributes, ..batch(0, 0, 1, 0) }]);
    producers.expire(i64::MAX, 100);
    assert_eq!(producers.len(), 1, "an open transaction keeps its producer");
}

#[test]
fn a_marker_ends_the_transaction_and_begins_the_sequence_anew() {
    let attributes = Attributes(0).with_transactional(true);
    let mut producers = after(&[BatchHeader { attributes, ..batch(0, 0, 4, 20) }]);
    assert_eq!(producers.first_open_transaction(), Some(Offset(20)));
    assert_eq!(producers.check(&batch(0, 4, 1, 0)), Err(SequenceError::OutsideTransaction(PRODUCER)));

    let marker = BatchBuilder::new(Codec::None.into())
        .producer(PRODUCER, 1, -1)
        .position(Offset(24), LeaderEpoch(0))
        .attributes(|attributes| attributes.with_transactional(true).with_control(true))
        .simple(5_000, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]))
        .build()
        .unwrap();
    producers.apply(&Batch::split_first(&marker).unwrap().0);
    let producer = producers.get(PRODUCER).unwrap();
    assert_eq!((producer.epoch, producer.coordinator_epoch, producer.last_timestamp), (1, 9, 5_000));
    assert_eq!(producers.first_open_transaction(), None);
    assert_eq!(producers.check(&batch(1, 0, 1, 0)), Ok(Verdict::Append));
}

#[test]
fn a_snapshot_is_kafkas_file_byte_for_byte() {
    let producers = after(&[batch(2, 0, 3, 40)]);
    let bytes = producers.encode();
    let entry = [
        &4_000_i64.to_be_bytes()[..],
        &2_i16.to_be_bytes(),
        &2_i32.to_be_bytes(),
        &42_i64.to_be_bytes(),
        &2_i32.to_be_bytes(),
        &1_040_i64.to_be_bytes(),
        &(-1_i32).to_be_bytes(),
        &(-1_i64).to_be_bytes(),
    ]
    .concat();
    assert_eq!(bytes[..2], [0, 1]);
    assert_eq!(bytes[6..10], [0, 0, 0, 1]);
    assert_eq!(bytes[10..], entry);
    assert_eq!(Producers::decode(&bytes), Ok(producers));
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let bytes = after(&[batch(2, 0, 3, 40)]).encode();
    for cut in 0..bytes.len() {
        assert!(Producers::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(Producers::decode(&flipped).is_err(), "flip at {at}");
    }
    // A count that the bytes do not hold, under a checksum that fits.
    let mut entries = i32::MAX.to_be_bytes().to_vec();
    entries.extend_from_slice(&[0; ENTRY_BYTES]);
    let mut lying = vec![0, 1];
    lying.extend_from_slice(&crc_fast::crc32_iscsi(&entries).to_be_bytes());
    lying.extend_from_slice(&entries);
    assert_eq!(Producers::decode(&lying), Err(SnapshotDecodeError::Length(lying.len())));
}

proptest! {
    #[test]
    fn what_a_snapshot_keeps_is_the_last_batch(
        counts in prop::collection::vec((1..100_i32, 0..3_i64), 1..20),
        first in prop_oneof![Just(0), Just(i32::MAX - 200)],
    ) {
        let mut producers = Producers::default();
        let (mut sequences, mut offset) = ([first; 3], 0_i64);
        for (count, id) in counts {
            let sequence = &mut sequences[usize::try_from(id).unwrap()];
            let header = BatchHeader { producer_id: ProducerId(id), ..batch(0, *sequence, count, offset) };
            prop_assert_eq!(producers.check(&header), Ok(Verdict::Append));
            producers.apply_data(&header);
            *sequence = crate::protocol::batch::sequence_plus(*sequence, count);
            offset += i64::from(count);
        }
        let read = Producers::decode(&producers.encode()).unwrap();
        prop_assert_eq!(read.len(), producers.len());
        for (id, producer) in producers.iter() {
            let kept = read.get(id).unwrap();
            prop_assert_eq!(kept.batches().last(), producer.batches().last());
            let next = BatchHeader { producer_id: id, ..batch(0, sequences[usize::try_from(id.0).unwrap()], 1, 0) };
            prop_assert_eq!(read.check(&next), Ok(Verdict::Append));
        }
    }
}
