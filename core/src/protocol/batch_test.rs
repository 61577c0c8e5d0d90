use super::*;

/// A batch of one record with the value "quorate", as the Java client writes it.
fn sample() -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    // length 13, attributes 0, timestamp delta 0, offset delta 0, no key, 7 bytes of value, no headers
    bytes.extend_from_slice(&[26, 0, 0, 0, 1, 14]);
    bytes.extend_from_slice(b"quorate\0");
    let header = BatchHeader {
        base_offset: Offset(0),
        size_bytes: 0,
        leader_epoch: LeaderEpoch(-1),
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: 0,
        base_timestamp: 1_700_000_000_000,
        max_timestamp: 1_700_000_000_000,
        producer_id: NO_PRODUCER,
        producer_epoch: NO_PRODUCER_EPOCH,
        base_sequence: NO_SEQUENCE,
        count: 1,
    };
    rewrite(&mut bytes, &header);
    bytes
}

#[test]
fn a_header_reads_back_as_it_was_written() {
    let bytes = sample();
    let header = BatchHeader::parse(&bytes).unwrap();
    assert_eq!(header.size_bytes, bytes.len());
    assert_eq!(header.count, 1);
    assert_eq!(header.base_timestamp, 1_700_000_000_000);
    assert_eq!(header.crc, checksum(&bytes));
    assert!(!header.has_producer());
    assert_eq!(header.last_sequence(), NO_SEQUENCE);
}

#[test]
fn offset_and_leader_epoch_are_outside_the_checksum() {
    let mut bytes = sample();
    patch_position(&mut bytes, Offset(77), LeaderEpoch(5)).unwrap();
    let (batch, rest) = Batch::split_first(&bytes).unwrap();
    assert!(rest.is_empty());
    batch.check_crc().unwrap();
    assert_eq!(batch.header().base_offset, Offset(77));
    assert_eq!(batch.header().next_offset(), Offset(78));
    assert_eq!(batch.header().leader_epoch, LeaderEpoch(5));
}

#[test]
fn timestamps_are_under_the_checksum_and_patching_mends_it() {
    let mut bytes = sample();
    patch_timestamps(&mut bytes, true, 99).unwrap();
    let (batch, _) = Batch::split_first(&bytes).unwrap();
    batch.check_crc().unwrap();
    assert!(batch.header().attributes.is_log_append_time());
    assert_eq!(batch.header().max_timestamp, 99);
}

#[test]
fn every_flipped_bit_under_the_checksum_is_found() {
    let bytes = sample();
    for bit in ATTRIBUTES_AT * 8..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = match Batch::split_first(&flipped) {
            Ok((batch, _)) => batch.check_crc().is_err(),
            Err(_) => true,
        };
        assert!(found, "bit {bit}");
    }
}

#[test]
fn a_batch_cut_at_any_byte_is_incomplete() {
    let bytes = sample();
    for cut in 0..bytes.len() {
        let error = Batch::split_first(&bytes[..cut]).unwrap_err();
        assert!(
            matches!(error, BatchError::Incomplete { have, need } if have == cut && need > cut),
            "{cut}: {error}"
        );
    }
}

#[test]
fn other_magics_bad_lengths_and_bad_offsets_are_refused() {
    for magic in [0_i8, 1, 3, -1] {
        let mut bytes = sample();
        put(&mut bytes, CRC_AT - 1, &magic.to_be_bytes());
        assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::Magic(magic)));
        // Shorter formats are told apart before their end is missed.
        assert_eq!(BatchHeader::parse(&bytes[..20]), Err(BatchError::Magic(magic)));
    }
    for length in [i32::MIN, -1, 0, 48] {
        let mut bytes = sample();
        put(&mut bytes, LENGTH_AT, &length.to_be_bytes());
        assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::Length(length)));
        assert_eq!(peek_size(&bytes), Err(BatchError::Length(length)));
    }
    for base in [-1, i64::MIN, i64::MAX] {
        let mut bytes = sample();
        patch_position(&mut bytes, Offset(base), LeaderEpoch(0)).unwrap();
        assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::Offsets { base, delta: 0 }));
    }
    let mut bytes = sample();
    put(&mut bytes, LENGTH_AT, &i32::MAX.to_be_bytes());
    assert_eq!(
        Batch::split_first(&bytes).unwrap_err(),
        BatchError::Incomplete { have: bytes.len(), need: BATCH_BYTES_MAX }
    );
}

#[test]
fn batches_are_walked_in_order_and_a_torn_tail_is_an_error() {
    let mut bytes = sample();
    bytes.extend_from_slice(&sample());
    assert_eq!(Batches::of(&bytes).filter(Result::is_ok).count(), 2);
    bytes.extend_from_slice(&sample()[..30]);
    let walked: Vec<bool> = Batches::of(&bytes).map(|batch| batch.is_ok()).collect();
    assert_eq!(walked, [true, true, false]);
}

#[test]
fn sequence_numbers_wrap_after_two_to_the_thirty_one() {
    assert_eq!(sequence_plus(5, 3), 8);
    assert_eq!(sequence_plus(i32::MAX, 0), i32::MAX);
    assert_eq!(sequence_plus(i32::MAX, 1), 0);
    assert_eq!(sequence_plus(i32::MAX - 1, 3), 1);
}
