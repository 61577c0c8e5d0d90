//! What a produced batch must satisfy before it is appended, to the record: Kafka's `LogValidator` for magic 2.
//!
//! A batch that passes is appended verbatim, but for base offset and leader epoch. Three things make it another one:
//! `message.timestamp.type=LogAppendTime`, a largest timestamp in the header that is not the records', and a topic's
//! `compression.type` that is not the batch's.

use std::{borrow::Cow, fmt};

use smallvec::SmallVec;
use thiserror::Error;

use super::{
    batch::{
        Batch, BatchError, BatchHeader, HEADER_BYTES, NO_PRODUCER, NO_TIMESTAMP, patch_timestamps, rewrite,
    },
    compression::{Codec, Compression, CompressionError, Decompressor, decompressed_bytes_max, recompress},
    errors::ErrorCode,
    records::{RecordError, RecordShape, walk, walk_stream},
};

/// What a topic asks of its batches.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The wall clock, in ms.
    pub now_ms: i64,
    /// `message.timestamp.type` and its bounds.
    pub timestamps: Timestamps,
    /// `compression.type`; `None` is `producer`: as the producer compressed.
    pub compression: Option<Compression>,
    /// Whether the topic is compacted, so that every record needs a key.
    pub keys: bool,
    /// `max.message.bytes`: the largest batch, header included.
    pub batch_bytes_max: usize,
}

/// Whose clock stamps the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamps {
    /// The producer's, within bounds (KIP-937).
    Create {
        /// `message.timestamp.before.max.ms`: how far in the past. `i64::MAX` for any.
        before_ms_max: i64,
        /// `message.timestamp.after.max.ms`: how far in the future. `i64::MAX` for any.
        after_ms_max: i64,
    },
    /// The leader's.
    LogAppend,
}

/// A batch that may be appended.
#[derive(Clone, Debug)]
pub struct Produced<'a> {
    /// The header of `bytes`; base offset 0.
    pub header: BatchHeader,
    /// The batch: the producer's own bytes unless a rule changed them.
    pub bytes: Cow<'a, [u8]>,
}

/// Why a batch is not appended.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidBatch {
    /// Not one batch.
    #[error("a Produce request holds exactly one batch per partition")]
    NotOne,
    /// No batch in these bytes, or damaged on the way.
    #[error(transparent)]
    Malformed(#[from] BatchError),
    /// Larger than the topic takes; as sent, after recompression, or when decompressed.
    #[error("the batch has more than {0} bytes; see the topic's max.message.bytes")]
    TooLarge(u64),
    /// The header contradicts itself or claims what is the broker's.
    #[error("{0}")]
    Header(&'static str),
    /// Part of a transaction.
    #[error("transactions are not served yet")]
    Transactional,
    /// The records are not what the header says.
    #[error(transparent)]
    Records(RecordError),
    /// The offset deltas of the records have a gap, or do not begin at 0.
    #[error("record {index} of the batch has the offset delta {delta}")]
    OffsetDelta {
        /// Which record, from 0.
        index: i32,
        /// The delta that it has.
        delta: i32,
    },
    /// Records break the topic's rules. Never empty; holds the first [`RECORD_FAULTS_MAX`] of them.
    #[error("{} records break the topic's rules, the first: {}", .0.len(), FirstFault(.0))]
    RecordFaults(Vec<RecordFault>),
}

/// Faulty records that are told to the client, so that an answer stays small.
pub const RECORD_FAULTS_MAX: usize = 100;

/// A record that breaks a topic's rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordFault {
    /// Which record of the batch, from 0: Kafka's `batch_index`.
    pub index: i32,
    /// Which rule.
    pub fault: Fault,
}

/// A rule that a record breaks.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// No key, in a compacted topic.
    #[error("a compacted topic takes no record without a key")]
    NoKey,
    /// The timestamp is too far from the leader's clock.
    #[error("the timestamp {0} is out of the range that the topic takes")]
    Timestamp(i64),
    /// The timestamp does not fit its type.
    #[error("the timestamp overflows")]
    TimestampOverflow,
    /// The producer claims that the leader stamped the batch.
    #[error("a producer may not set the timestamp type LogAppendTime")]
    TimestampType,
}

struct FirstFault<'a>(&'a [RecordFault]);

impl fmt::Display for FirstFault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            Some(RecordFault { index, fault }) => write!(f, "record {index}: {fault}"),
            None => Ok(()),
        }
    }
}

impl From<RecordError> for InvalidBatch {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Compression(CompressionError::TooLarge(bytes)) => Self::TooLarge(bytes),
            other => Self::Records(other),
        }
    }
}

impl InvalidBatch {
    /// Kafka's code for it.
    #[must_use]
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::Malformed(BatchError::Magic(_) | BatchError::Offsets { .. })
            | Self::NotOne
            | Self::Header(_)
            | Self::Records(_)
            | Self::OffsetDelta { .. } => ErrorCode::INVALID_RECORD,
            Self::Malformed(_) => ErrorCode::CORRUPT_MESSAGE,
            Self::TooLarge(_) => ErrorCode::MESSAGE_TOO_LARGE,
            Self::Transactional => ErrorCode::INVALID_TXN_STATE,
            Self::RecordFaults(faults) if faults.iter().all(|fault| fault.fault == Fault::NoKey) => {
                ErrorCode::INVALID_RECORD
            }
            Self::RecordFaults(_) => ErrorCode::INVALID_TIMESTAMP,
        }
    }

    /// The faulty records, for the answer's `record_errors`.
    #[must_use]
    pub fn record_faults(&self) -> &[RecordFault] {
        match self {
            Self::RecordFaults(faults) => faults,
            _ => &[],
        }
    }
}

/// Checks what a client wants appended to a partition: one batch, whole and consistent to the record.
///
/// # Errors
/// The first thing that is wrong; all records that break a topic's rule at once.
pub fn validate_produced<'a>(records: &'a [u8], rules: &Rules) -> Result<Produced<'a>, InvalidBatch> {
    let batch = single_batch(records)?;
    if records.len() > rules.batch_bytes_max {
        return Err(InvalidBatch::TooLarge(rules.batch_bytes_max as u64));
    }
    batch.check_crc()?;
    let header = *batch.header();
    let codec = check_header(&header)?;
    let max_timestamp = check_records(&batch, codec, rules)?;
    let log_append_time = rules.timestamps == Timestamps::LogAppend;
    let max_timestamp = if log_append_time { rules.now_ms } else { max_timestamp };
    let bytes = match rules.compression {
        Some(wanted) if wanted.codec != codec => {
            let mut bytes = vec![0; HEADER_BYTES];
            let source = Decompressor::new(codec, batch.payload(), decompressed_bytes_max(records.len()))
                .map_err(RecordError::from)?;
            recompress(source, wanted, &mut bytes, rules.batch_bytes_max).map_err(RecordError::from)?;
            let attributes = header.attributes.with_codec(wanted.codec).with_log_append_time(log_append_time);
            rewrite(&mut bytes, &BatchHeader { attributes, max_timestamp, ..header });
            Cow::Owned(bytes)
        }
        _ if header.attributes.is_log_append_time() == log_append_time
            && header.max_timestamp == max_timestamp =>
        {
            return Ok(Produced { header, bytes: Cow::Borrowed(batch.bytes()) });
        }
        _ => {
            let mut bytes = batch.bytes().to_vec();
            patch_timestamps(&mut bytes, log_append_time, max_timestamp)?;
            Cow::Owned(bytes)
        }
    };
    let header = BatchHeader::parse(&bytes)?;
    Ok(Produced { header, bytes })
}

fn single_batch(records: &[u8]) -> Result<Batch<'_>, InvalidBatch> {
    if records.is_empty() {
        return Err(InvalidBatch::NotOne);
    }
    match Batch::split_first(records)? {
        (batch, []) => Ok(batch),
        _ => Err(InvalidBatch::NotOne),
    }
}

/// The header alone; returns the codec.
fn check_header(header: &BatchHeader) -> Result<Codec, InvalidBatch> {
    let refuse = |reason| Err(InvalidBatch::Header(reason));
    let attributes = header.attributes;
    if header.base_offset.0 != 0 {
        return refuse("the base offset of a produced batch is 0");
    }
    if header.count <= 0 {
        return refuse("a produced batch holds at least one record");
    }
    if header.count.checked_sub(1) != Some(header.last_offset_delta) {
        return refuse("the last offset delta is not the count of records less one");
    }
    if attributes.is_control() {
        return refuse("clients may not write control records");
    }
    if attributes.has_delete_horizon() {
        return refuse("clients may not set a delete horizon");
    }
    if attributes.has_unused_bits() {
        return refuse("an attribute is set that means nothing");
    }
    if header.has_producer() {
        if header.producer_epoch < 0 {
            return refuse("a producer id needs an epoch");
        }
        if header.base_sequence < 0 {
            return refuse("a producer id needs a sequence number");
        }
    } else if header.producer_id != NO_PRODUCER {
        return refuse("the producer id is negative");
    } else if attributes.is_transactional() {
        return refuse("a transactional batch needs a producer id");
    }
    if attributes.is_transactional() {
        return Err(InvalidBatch::Transactional);
    }
    attributes.codec().ok_or(InvalidBatch::Header("the codec's number stands for none"))
}

/// Every record; returns the largest timestamp.
fn check_records(batch: &Batch<'_>, codec: Codec, rules: &Rules) -> Result<i64, InvalidBatch> {
    let header = batch.header();
    let mut check =
        RecordCheck { header, rules, index: 0, max_timestamp: NO_TIMESTAMP, faults: SmallVec::new() };
    if codec == Codec::None {
        walk(batch.payload(), header.count, |shape| check.record(shape))?;
    } else {
        let cap = decompressed_bytes_max(batch.bytes().len());
        let source = Decompressor::new(codec, batch.payload(), cap).map_err(RecordError::from)?;
        walk_stream(source, header.count, |shape| check.record(shape))?;
    }
    if check.faults.is_empty() {
        return Ok(check.max_timestamp);
    }
    Err(InvalidBatch::RecordFaults(check.faults.into_vec()))
}

struct RecordCheck<'a> {
    header: &'a BatchHeader,
    rules: &'a Rules,
    index: i32,
    max_timestamp: i64,
    faults: SmallVec<[RecordFault; 1]>,
}

impl RecordCheck<'_> {
    fn record(&mut self, shape: RecordShape) -> Result<(), InvalidBatch> {
        let index = self.index;
        if shape.offset_delta != index {
            return Err(InvalidBatch::OffsetDelta { index, delta: shape.offset_delta });
        }
        self.index = index.saturating_add(1);
        if let Err(fault) = self.check(shape)
            && self.faults.len() < RECORD_FAULTS_MAX
        {
            self.faults.push(RecordFault { index, fault });
        }
        Ok(())
    }

    fn check(&mut self, shape: RecordShape) -> Result<(), Fault> {
        if self.rules.keys && shape.key_bytes.is_none() {
            return Err(Fault::NoKey);
        }
        let stamped_by_leader = self.header.attributes.is_log_append_time();
        let timestamp = if stamped_by_leader {
            self.header.max_timestamp
        } else {
            self.header.base_timestamp.checked_add(shape.timestamp_delta).ok_or(Fault::TimestampOverflow)?
        };
        match self.rules.timestamps {
            Timestamps::Create { before_ms_max, after_ms_max } if timestamp != NO_TIMESTAMP => {
                // Wider than the operands, so that no pair of them overflows.
                let age = i128::from(self.rules.now_ms) - i128::from(timestamp);
                if age > i128::from(before_ms_max) || -age > i128::from(after_ms_max) {
                    return Err(Fault::Timestamp(timestamp));
                }
            }
            _ if stamped_by_leader => return Err(Fault::TimestampType),
            _ => {}
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        Ok(())
    }
}

#[cfg(test)]
#[path = "validate_test.rs"]
mod tests;
