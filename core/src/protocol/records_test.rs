use proptest::prelude::*;

use crate::protocol::{
    batch::Batch,
    builder::{BatchBuilder, NewRecord, write_varint},
    compression::{Codec, decompressed_bytes_max},
};

use super::*;

fn arbitrary_record() -> impl Strategy<Value = NewRecord> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let headers = prop::collection::vec((bytes(), prop::option::of(bytes())), 0..4);
    (0..i64::MAX / 2, prop::option::of(bytes()), prop::option::of(bytes()), headers)
        .prop_map(|(timestamp, key, value, headers)| NewRecord { timestamp, key, value, headers })
}

fn read_back(payload: &[u8], count: i32, base_timestamp: i64) -> Vec<NewRecord> {
    Records::of(payload, count)
        .map(|record| {
            let record = record.unwrap();
            NewRecord {
                timestamp: base_timestamp + record.timestamp_delta,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record
                    .headers
                    .map(|header| (header.name.to_vec(), header.value.map(<[u8]>::to_vec)))
                    .collect(),
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn records_come_back_with_their_headers_in_order(records in prop::collection::vec(arbitrary_record(), 1..20)) {
        let batch = records.iter().fold(BatchBuilder::new(Codec::None.into()), |batch, record| batch.record(record));
        let bytes = batch.build().unwrap();
        let (batch, _) = Batch::split_first(&bytes).unwrap();
        let header = batch.header();
        prop_assert_eq!(read_back(batch.payload(), header.count, header.base_timestamp), records);
    }

    #[test]
    fn the_stream_sees_the_shapes_that_the_slice_sees(records in prop::collection::vec(arbitrary_record(), 1..20)) {
        let batch = records.iter().fold(BatchBuilder::new(Codec::None.into()), |batch, record| batch.record(record));
        let bytes = batch.build().unwrap();
        let (batch, _) = Batch::split_first(&bytes).unwrap();
        let shapes = shapes(batch.payload(), batch.header().count).unwrap();
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut compressed = Vec::new();
            crate::protocol::compression::compress(codec.into(), batch.payload(), &mut compressed).unwrap();
            prop_assert_eq!(&stream_shapes(codec, &compressed, batch.header().count).unwrap(), &shapes);
        }
    }

    #[test]
    fn arbitrary_bytes_walk_to_an_error_or_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300), count in -2..50_i32) {
        prop_assert_eq!(shapes(&bytes, count).is_ok(), stream_shapes(Codec::None, &bytes, count).is_ok() || count <= 0);
    }
}

fn shapes(payload: &[u8], count: i32) -> Result<Vec<RecordShape>, RecordError> {
    let mut shapes = Vec::new();
    walk(payload, count, |shape| {
        shapes.push(shape);
        Ok::<(), RecordError>(())
    })?;
    Ok(shapes)
}

fn stream_shapes(codec: Codec, payload: &[u8], count: i32) -> Result<Vec<RecordShape>, RecordError> {
    let mut shapes = Vec::new();
    let decompressor = Decompressor::new(codec, payload, decompressed_bytes_max(payload.len()))?;
    walk_stream(decompressor, count, |shape| {
        shapes.push(shape);
        Ok::<(), RecordError>(())
    })?;
    Ok(shapes)
}

/// A record from its fields: null key, null value, and what follows them.
fn record(tail: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 1, 1];
    body.extend_from_slice(tail);
    let mut bytes = Vec::new();
    write_varint(&mut bytes, i32::try_from(body.len()).unwrap());
    bytes.extend_from_slice(&body);
    bytes
}

fn both(payload: &[u8], count: i32) -> RecordError {
    let error = shapes(payload, count).unwrap_err();
    stream_shapes(Codec::None, payload, count).unwrap_err();
    error
}

#[test]
fn header_counts_are_not_believed() {
    let mut tail = Vec::new();
    write_varint(&mut tail, i32::MAX);
    assert_eq!(both(&record(&tail), 1), RecordError::Truncated);
    tail.clear();
    write_varint(&mut tail, -1);
    assert_eq!(both(&record(&tail), 1), RecordError::Length(-1));
}

#[test]
fn a_null_header_name_is_refused() {
    assert_eq!(both(&record(&[2, 1, 1]), 1), RecordError::Length(-1));
}

#[test]
fn a_record_must_fill_its_length() {
    assert_eq!(both(&record(&[0, 0]), 1), RecordError::Mismatch);
}

#[test]
fn nothing_may_follow_the_last_record_and_none_may_be_missing() {
    let two = record(&[0]).repeat(2);
    assert_eq!(shapes(&two, 2).unwrap().len(), 2);
    assert_eq!(both(&two, 1), RecordError::Trailing);
    assert_eq!(both(&two, 3), RecordError::Truncated);
}

#[test]
fn numbers_with_too_many_bytes_or_bits_are_refused() {
    assert_eq!(both(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01], 1), RecordError::Overflow);
    assert_eq!(both(&[0xff, 0xff, 0xff, 0xff, 0x1f], 1), RecordError::Overflow);
    let mut long = vec![22, 0];
    long.extend_from_slice(&[0xff; 9]);
    long.push(0x02);
    assert_eq!(both(&long, 1), RecordError::Overflow);
}

#[test]
fn a_negative_length_is_refused() {
    let mut bytes = Vec::new();
    write_varint(&mut bytes, -2);
    assert_eq!(both(&bytes, 1), RecordError::Length(-2));
    assert_eq!(both(&[10, 0, 0, 0, 3, 1], 1), RecordError::Length(-2));
}

#[test]
fn duplicate_headers_stay_two() {
    let headers = vec![
        (b"h".to_vec(), Some(b"1".to_vec())),
        (b"h".to_vec(), Some(b"2".to_vec())),
        (b"".to_vec(), None),
    ];
    let written = NewRecord { timestamp: 5, key: None, value: None, headers };
    let bytes = BatchBuilder::new(Codec::None.into()).record(&written).build().unwrap();
    let (batch, _) = Batch::split_first(&bytes).unwrap();
    assert_eq!(read_back(batch.payload(), 1, 5), [written]);
}
