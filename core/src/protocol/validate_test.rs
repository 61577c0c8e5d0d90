use crate::{
    ids::{LeaderEpoch, Offset, ProducerId},
    protocol::{
        batch::{Attributes, patch_producer},
        builder::{BatchBuilder, NewRecord},
    },
};

use super::*;

const NOW: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn rules() -> Rules {
    Rules {
        now_ms: NOW,
        timestamps: Timestamps::Create { before_ms_max: i64::MAX, after_ms_max: HOUR },
        compression: None,
        keys: false,
        batch_bytes_max: 1 << 20,
    }
}

fn three(codec: Codec) -> BatchBuilder {
    BatchBuilder::new(codec.into())
        .simple(NOW - 5, Some(b"a"), Some(b"1"))
        .simple(NOW - 1, Some(b"b"), Some(b"2"))
        .simple(NOW - 9, Some(b"c"), None)
}

fn valid(codec: Codec) -> Vec<u8> {
    three(codec).build().unwrap()
}

/// The batch with its header changed and its checksum mended.
fn altered(codec: Codec, change: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
    let mut bytes = valid(codec);
    let mut header = BatchHeader::parse(&bytes).unwrap();
    change(&mut header);
    rewrite(&mut bytes, &header);
    bytes
}

fn code(bytes: &[u8], rules: &Rules) -> ErrorCode {
    validate_produced(bytes, rules).map_or_else(|error| error.error_code(), |_| ErrorCode::NONE)
}

#[test]
fn a_sound_batch_passes_verbatim_with_every_codec() {
    for codec in CODECS {
        let bytes = valid(codec);
        let produced = validate_produced(&bytes, &rules()).unwrap();
        assert!(matches!(produced.bytes, Cow::Borrowed(verbatim) if verbatim == bytes), "{codec:?}");
        assert_eq!(produced.header.count, 3);
        assert_eq!(produced.header.max_timestamp, NOW - 1);
    }
}

#[test]
fn exactly_one_batch_is_taken() {
    assert_eq!(validate_produced(&[], &rules()).unwrap_err(), InvalidBatch::NotOne);
    let two = valid(Codec::None).repeat(2);
    assert_eq!(validate_produced(&two, &rules()).unwrap_err(), InvalidBatch::NotOne);
    assert_eq!(code(&two, &rules()), ErrorCode::INVALID_RECORD);
}

#[test]
fn a_batch_cut_or_flipped_anywhere_is_refused() {
    let bytes = valid(Codec::Lz4);
    for cut in 0..bytes.len() {
        assert!(validate_produced(&bytes[..cut], &rules()).is_err(), "cut at {cut}");
    }
    // Base offset, length, leader epoch and magic are outside of the checksum; the epoch is the broker's to write.
    for at in (0..12).chain(16..bytes.len()) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x40;
        assert!(validate_produced(&flipped, &rules()).is_err(), "flip at {at}");
    }
}

#[test]
fn damage_on_the_way_is_corrupt_and_a_bad_client_is_invalid() {
    let mut flipped = valid(Codec::None);
    flipped[70] ^= 1;
    assert_eq!(code(&flipped, &rules()), ErrorCode::CORRUPT_MESSAGE);
    for magic in [0, 1, 3] {
        let mut old = valid(Codec::None);
        old[16] = magic;
        assert_eq!(code(&old, &rules()), ErrorCode::INVALID_RECORD, "magic {magic}");
    }
}

#[test]
fn what_the_header_says_must_hold() {
    let cases: [fn(&mut BatchHeader); 14] = [
        |header| header.base_offset = Offset(1),
        |header| header.count = 0,
        |header| header.count = -1,
        |header| header.count = i32::MAX,
        |header| header.count = 2,
        |header| header.last_offset_delta = 1,
        |header| header.last_offset_delta = i32::MAX,
        |header| (header.count, header.last_offset_delta) = (i32::MAX, i32::MAX - 1),
        |header| (header.count, header.last_offset_delta) = (2, 1),
        |header| (header.count, header.last_offset_delta) = (4, 3),
        |header| header.attributes = header.attributes.with_control(true),
        |header| header.attributes = Attributes(header.attributes.0 | 1 << 6),
        |header| header.attributes = Attributes(header.attributes.0 | 1 << 7),
        |header| header.attributes = Attributes(5),
    ];
    for codec in CODECS {
        for (number, case) in cases.iter().enumerate() {
            assert_eq!(
                code(&altered(codec, case), &rules()),
                ErrorCode::INVALID_RECORD,
                "{codec:?} case {number}"
            );
        }
    }
}

#[test]
fn a_leader_epoch_from_the_client_is_not_looked_at() {
    assert_eq!(
        code(&altered(Codec::None, |header| header.leader_epoch = LeaderEpoch(99)), &rules()),
        ErrorCode::NONE
    );
}

#[test]
fn a_producer_id_needs_epoch_and_sequence() {
    let with = |id, epoch, sequence| {
        let mut bytes = valid(Codec::None);
        patch_producer(&mut bytes, ProducerId(id), epoch, sequence).unwrap();
        code(&bytes, &rules())
    };
    assert_eq!(with(7, 0, 0), ErrorCode::NONE);
    assert_eq!(with(7, 0, i32::MAX), ErrorCode::NONE);
    assert_eq!(with(7, -1, 0), ErrorCode::INVALID_RECORD);
    assert_eq!(with(7, 0, -1), ErrorCode::INVALID_RECORD);
    assert_eq!(with(-2, 0, 0), ErrorCode::INVALID_RECORD);
}

#[test]
fn transactional_batches_are_refused_until_they_are_served() {
    let transactional = |header: &mut BatchHeader| {
        header.attributes = header.attributes.with_transactional(true);
    };
    assert_eq!(code(&altered(Codec::None, transactional), &rules()), ErrorCode::INVALID_RECORD);
    let mut bytes = altered(Codec::None, transactional);
    patch_producer(&mut bytes, ProducerId(7), 0, 0).unwrap();
    assert_eq!(code(&bytes, &rules()), ErrorCode::INVALID_TXN_STATE);
}

#[test]
fn offset_deltas_have_no_gap() {
    for codec in CODECS {
        // The same record twice has the delta 0 twice.
        let one = BatchBuilder::new(Codec::None.into()).simple(NOW, None, None).build().unwrap();
        let (batch, _) = Batch::split_first(&one).unwrap();
        let payload = batch.payload().repeat(2);
        let mut bytes = vec![0; HEADER_BYTES];
        crate::protocol::compression::compress(codec.into(), &payload, &mut bytes).unwrap();
        let attributes = Attributes(0).with_codec(codec);
        rewrite(&mut bytes, &BatchHeader { attributes, count: 2, last_offset_delta: 1, ..*batch.header() });
        let error = validate_produced(&bytes, &rules()).unwrap_err();
        assert_eq!(error, InvalidBatch::OffsetDelta { index: 1, delta: 0 }, "{codec:?}");
    }
}

#[test]
fn too_large_a_batch_is_refused_as_sent() {
    let bytes = valid(Codec::None);
    let exact = Rules { batch_bytes_max: bytes.len(), ..rules() };
    assert_eq!(code(&bytes, &exact), ErrorCode::NONE);
    let less = Rules { batch_bytes_max: bytes.len() - 1, ..rules() };
    assert_eq!(code(&bytes, &less), ErrorCode::MESSAGE_TOO_LARGE);
}

#[test]
fn a_bomb_is_refused_whatever_its_codec() {
    let record = NewRecord { timestamp: NOW, value: Some(vec![0; 80 << 20]), ..NewRecord::default() };
    for codec in [Codec::Gzip, Codec::Zstd] {
        let bytes = BatchBuilder::new(codec.into()).record(&record).build().unwrap();
        assert!(bytes.len() < 1 << 20);
        assert_eq!(code(&bytes, &rules()), ErrorCode::MESSAGE_TOO_LARGE, "{codec:?}");
    }
}

#[test]
fn compressed_garbage_is_an_invalid_record() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bytes = altered(Codec::None, |header| header.attributes = header.attributes.with_codec(codec));
        assert_eq!(code(&bytes, &rules()), ErrorCode::INVALID_RECORD, "{codec:?}");
    }
}

#[test]
fn a_compacted_topic_names_the_records_without_keys() {
    let rules = Rules { keys: true, ..rules() };
    assert_eq!(code(&valid(Codec::Zstd), &rules), ErrorCode::NONE);
    let bytes = three(Codec::Zstd).simple(NOW, None, Some(b"x")).simple(NOW, None, None).build().unwrap();
    let error = validate_produced(&bytes, &rules).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::INVALID_RECORD);
    let indexes: Vec<i32> = error.record_faults().iter().map(|fault| fault.index).collect();
    assert_eq!(indexes, [3, 4]);
}

#[test]
fn faults_are_told_up_to_a_limit() {
    let batch =
        (0..500).fold(BatchBuilder::new(Codec::None.into()), |batch, _| batch.simple(NOW, None, None));
    let error = validate_produced(&batch.build().unwrap(), &Rules { keys: true, ..rules() }).unwrap_err();
    assert_eq!(error.record_faults().len(), RECORD_FAULTS_MAX);
}

#[test]
fn timestamps_out_of_bounds_are_refused() {
    let at = |timestamp, before_ms_max| {
        let bytes = BatchBuilder::new(Codec::None.into()).simple(timestamp, None, None).build().unwrap();
        let timestamps = Timestamps::Create { before_ms_max, after_ms_max: HOUR };
        code(&bytes, &Rules { timestamps, ..rules() })
    };
    assert_eq!(at(NOW + HOUR, i64::MAX), ErrorCode::NONE);
    assert_eq!(at(NOW + HOUR + 1, i64::MAX), ErrorCode::INVALID_TIMESTAMP);
    assert_eq!(at(NOW - HOUR, HOUR), ErrorCode::NONE);
    assert_eq!(at(NOW - HOUR - 1, HOUR), ErrorCode::INVALID_TIMESTAMP);
    assert_eq!(at(NO_TIMESTAMP, HOUR), ErrorCode::NONE);
    assert_eq!(at(i64::MAX, i64::MAX), ErrorCode::INVALID_TIMESTAMP);
    assert_eq!(at(i64::MIN, i64::MAX), ErrorCode::INVALID_TIMESTAMP);
}

#[test]
fn timestamps_that_overflow_are_refused() {
    let bytes = altered(Codec::None, |header| header.base_timestamp = i64::MAX);
    assert_eq!(code(&bytes, &rules()), ErrorCode::INVALID_TIMESTAMP);
}

#[test]
fn a_wrong_largest_timestamp_is_mended() {
    let bytes = altered(Codec::Gzip, |header| header.max_timestamp = NOW + 77);
    let produced = validate_produced(&bytes, &rules()).unwrap();
    assert_eq!(produced.header.max_timestamp, NOW - 1);
    Batch::split_first(&produced.bytes).unwrap().0.check_crc().unwrap();
}

#[test]
fn log_append_time_stamps_the_batch_with_the_leaders_clock() {
    let rules = Rules { timestamps: Timestamps::LogAppend, ..rules() };
    for codec in CODECS {
        let bytes = valid(codec);
        let produced = validate_produced(&bytes, &rules).unwrap();
        let (batch, _) = Batch::split_first(&produced.bytes).unwrap();
        batch.check_crc().unwrap();
        assert!(batch.header().attributes.is_log_append_time());
        assert_eq!(batch.header().max_timestamp, NOW);
        assert_eq!(batch.payload(), Batch::split_first(&bytes).unwrap().0.payload());
    }
}

#[test]
fn a_producer_may_not_claim_log_append_time() {
    let bytes =
        altered(Codec::None, |header| header.attributes = header.attributes.with_log_append_time(true));
    let append = Rules { timestamps: Timestamps::LogAppend, ..rules() };
    assert_eq!(code(&bytes, &append), ErrorCode::INVALID_TIMESTAMP);
    // With CreateTime the claim is taken back, as Kafka does.
    let produced = validate_produced(&bytes, &rules()).unwrap();
    assert!(!produced.header.attributes.is_log_append_time());
}

#[test]
fn a_topics_own_codec_recompresses_and_keeps_the_records() {
    for from in CODECS {
        for to in CODECS {
            let mut bytes = valid(from);
            patch_producer(&mut bytes, ProducerId(7), 3, 9).unwrap();
            let produced =
                validate_produced(&bytes, &Rules { compression: Some(to.into()), ..rules() }).unwrap();
            assert_eq!(matches!(produced.bytes, Cow::Borrowed(_)), from == to);
            let (batch, _) = Batch::split_first(&produced.bytes).unwrap();
            batch.check_crc().unwrap();
            assert_eq!(batch.header().codec(), Some(to));
            assert_eq!(batch.header().producer_id, ProducerId(7));
            assert_eq!(batch.header().base_sequence, 9);
            let mut plain = Vec::new();
            Decompressor::new(to, batch.payload(), 1 << 20).unwrap().read_to_end(&mut plain).unwrap();
            assert_eq!(plain, Batch::split_first(&valid(Codec::None)).unwrap().0.payload());
        }
    }
}

#[test]
fn recompression_may_not_outgrow_the_topic() {
    let record = NewRecord { timestamp: NOW, value: Some(vec![0; 1 << 20]), ..NewRecord::default() };
    let bytes = BatchBuilder::new(Codec::Zstd.into()).record(&record).build().unwrap();
    let rules = Rules { compression: Some(Codec::None.into()), batch_bytes_max: 10_000, ..rules() };
    assert_eq!(code(&bytes, &rules), ErrorCode::MESSAGE_TOO_LARGE);
}
