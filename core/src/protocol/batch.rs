//! The header of a record batch, magic 2 (KIP-98), read from borrowed bytes and patched in place.
//!
//! ```text
//!  0 base offset      i64 |  8 length after this field  i32 | 12 leader epoch     i32 | 16 magic i8 | 17 CRC-32C u32
//! 21 attributes       i16 | 23 last offset delta        i32 | 27 base timestamp   i64
//! 35 max timestamp    i64 | 43 producer id              i64 | 51 producer epoch   i16
//! 53 base sequence    i32 | 57 count of records         i32 | 61 records …
//! ```
//! The CRC covers everything from the attributes on, so that the broker may set base offset and leader epoch without
//! computing it again. Nothing here allocates, and no length from the bytes is trusted before it is checked.

use thiserror::Error;

use crate::ids::{LeaderEpoch, Offset, ProducerId};

use super::compression::Codec;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 61;

/// Bytes before those that the length field counts.
pub const PREFIX_BYTES: usize = 12;

/// The largest batch that the format can hold, in bytes: the length field is an `i32`.
pub const BATCH_BYTES_MAX: usize = i32::MAX as usize + PREFIX_BYTES;

/// Kafka's -1: a record or batch without a timestamp.
pub const NO_TIMESTAMP: i64 = -1;

/// Kafka's -1: a batch that is not idempotent.
pub const NO_PRODUCER: ProducerId = ProducerId(-1);

/// Kafka's -1: no epoch of a producer.
pub const NO_PRODUCER_EPOCH: i16 = -1;

/// Kafka's -1: no sequence number.
pub const NO_SEQUENCE: i32 = -1;

const MAGIC: i8 = 2;
const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_AT: usize = 43;

/// What is wrong with the bytes of a batch.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than the batch says it has; more may be on the way, or the tail is torn.
    #[error("the batch ends after {have} bytes and needs {need}")]
    Incomplete {
        /// Bytes that are there.
        have: usize,
        /// Bytes that are needed, as far as is known.
        need: usize,
    },
    /// The length field is smaller than a header.
    #[error("a batch cannot be {0} bytes long")]
    Length(i32),
    /// Not magic 2.
    #[error("magic {0} is not served; only magic 2 is")]
    Magic(i8),
    /// The checksum does not fit the bytes.
    #[error("the CRC-32C is {computed:#010x} and the batch says {stored:#010x}")]
    Checksum {
        /// As the batch says.
        stored: u32,
        /// As the bytes give.
        computed: u32,
    },
    /// A negative or overflowing offset, or a negative last offset delta.
    #[error("the offsets from {base} with delta {delta} are no range")]
    Offsets {
        /// The base offset.
        base: i64,
        /// The last offset delta.
        delta: i32,
    },
}

/// The attributes of a batch, KIP-98's bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC: i16 = 0b111;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const DELETE_HORIZON: i16 = 1 << 6;
    const USED: i16 = 0x7f;

    /// The codec of the records; `None` for a number that stands for none.
    #[must_use]
    pub fn codec(self) -> Option<Codec> {
        Codec::from_id(self.0 & Self::CODEC)
    }

    /// Whether the timestamps are the leader's (`message.timestamp.type=LogAppendTime`).
    #[must_use]
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds a marker of a transaction and no data.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is the time after which compaction drops tombstones (KIP-534).
    #[must_use]
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    /// Whether a bit is set that means nothing.
    #[must_use]
    pub fn has_unused_bits(self) -> bool {
        self.0 & !Self::USED != 0
    }

    /// These attributes with another codec.
    #[must_use]
    pub fn with_codec(self, codec: Codec) -> Self {
        Self((self.0 & !Self::CODEC) | codec.id())
    }

    /// These attributes with the timestamp type.
    #[must_use]
    pub fn with_log_append_time(self, log_append_time: bool) -> Self {
        self.with(Self::LOG_APPEND_TIME, log_append_time)
    }

    /// These attributes with the bit of transactions.
    #[must_use]
    pub fn with_transactional(self, transactional: bool) -> Self {
        self.with(Self::TRANSACTIONAL, transactional)
    }

    /// These attributes with the bit of control batches.
    #[must_use]
    pub fn with_control(self, control: bool) -> Self {
        self.with(Self::CONTROL, control)
    }

    fn with(self, bit: i16, set: bool) -> Self {
        if set { Self(self.0 | bit) } else { Self(self.0 & !bit) }
    }
}

/// The fields of a batch's header. Parsed from 61 bytes, so that a log can look at a batch without reading it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first offset that the batch stands for; compaction may have taken its record.
    pub base_offset: Offset,
    /// The length of the whole batch in bytes, header included. At least [`HEADER_BYTES`].
    pub size_bytes: usize,
    /// The leadership that appended it.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec, timestamp type, transaction bits.
    pub attributes: Attributes,
    /// Distance of the last offset from the first. Not negative.
    pub last_offset_delta: i32,
    /// The timestamp that the records' deltas are counted from, in ms.
    pub base_timestamp: i64,
    /// The largest timestamp, in ms; [`NO_TIMESTAMP`] if there is none.
    pub max_timestamp: i64,
    /// The idempotent producer; [`NO_PRODUCER`] if it is none.
    pub producer_id: ProducerId,
    /// The producer's epoch; [`NO_PRODUCER_EPOCH`] if there is none.
    pub producer_epoch: i16,
    /// The sequence number of the first record; [`NO_SEQUENCE`] if there is none.
    pub base_sequence: i32,
    /// Records in the batch, as the header says: a hostile number until they have been walked.
    pub count: i32,
}

impl BatchHeader {
    /// Reads a header. `bytes` need not hold the whole batch.
    ///
    /// # Errors
    /// [`BatchError::Incomplete`] below 61 bytes; magic, length and offset range as they are refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // The magic is looked at first: batches of magic 0 and 1 are shorter, and deserve their own answer.
        if let Some(magic) = bytes.get(CRC_AT - 1).map(|byte| i8::from_be_bytes([*byte]))
            && magic != MAGIC
        {
            return Err(BatchError::Magic(magic));
        }
        let mut fields = Fields::of(bytes)?;
        let base_offset = fields.i64();
        let length = fields.i32();
        let leader_epoch = LeaderEpoch(fields.i32());
        fields.skip_magic();
        let header = Self {
            base_offset: Offset(base_offset),
            size_bytes: size_of_length(length)?,
            leader_epoch,
            crc: fields.u32(),
            attributes: Attributes(fields.i16()),
            last_offset_delta: fields.i32(),
            base_timestamp: fields.i64(),
            max_timestamp: fields.i64(),
            producer_id: ProducerId(fields.i64()),
            producer_epoch: fields.i16(),
            base_sequence: fields.i32(),
            count: fields.i32(),
        };
        let delta = header.last_offset_delta;
        // The offset after the last one must exist too.
        if base_offset < 0 || delta < 0 || base_offset.checked_add(i64::from(delta) + 1).is_none() {
            return Err(BatchError::Offsets { base: base_offset, delta });
        }
        Ok(header)
    }

    /// The last offset that the batch stands for.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset of the batch that follows.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Whether an idempotent producer wrote it.
    #[must_use]
    pub fn has_producer(&self) -> bool {
        self.producer_id > NO_PRODUCER
    }

    /// The sequence number of the last record; wraps to 0 after 2³¹−1. [`NO_SEQUENCE`] if there is none.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            return NO_SEQUENCE;
        }
        sequence_plus(self.base_sequence, self.last_offset_delta)
    }

    /// The codec of the records; `None` for a number that stands for none.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        self.attributes.codec()
    }
}

/// The sequence number `delta` records later: 2³¹−1 is followed by 0 (KIP-98). `delta` is not negative.
#[must_use]
pub fn sequence_plus(sequence: i32, delta: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(delta);
    let wrapped = if sum > i64::from(i32::MAX) { sum - (i64::from(i32::MAX) + 1) } else { sum };
    i32::try_from(wrapped).unwrap_or(i32::MAX)
}

/// The length of the first batch in `bytes`, once twelve of them are there.
///
/// # Errors
/// [`BatchError::Incomplete`] below twelve bytes, [`BatchError::Length`] if it is smaller than a header.
pub fn peek_size(bytes: &[u8]) -> Result<usize, BatchError> {
    let length = bytes.get(LENGTH_AT..).and_then(|rest| rest.first_chunk());
    let Some(length) = length else {
        return Err(BatchError::Incomplete { have: bytes.len(), need: PREFIX_BYTES });
    };
    size_of_length(i32::from_be_bytes(*length))
}

fn size_of_length(length: i32) -> Result<usize, BatchError> {
    match usize::try_from(length) {
        Ok(length) if length >= HEADER_BYTES - PREFIX_BYTES => Ok(length + PREFIX_BYTES),
        _ => Err(BatchError::Length(length)),
    }
}

/// One whole batch in borrowed bytes: the length fits, the magic is 2, the offsets are a range. The checksum and the
/// records are another matter: [`Batch::check_crc`], [`super::records`].
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The first batch of `bytes`, and what follows it.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`]; [`BatchError::Incomplete`] if the batch goes on after the bytes.
    pub fn split_first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BatchError> {
        let header = BatchHeader::parse(bytes)?;
        match bytes.split_at_checked(header.size_bytes) {
            Some((batch, rest)) => Ok((Self { header, bytes: batch }, rest)),
            None => Err(BatchError::Incomplete { have: bytes.len(), need: header.size_bytes }),
        }
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// All its bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The records, compressed as the attributes say.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Compares the checksum.
    ///
    /// # Errors
    /// [`BatchError::Checksum`] if it does not fit.
    pub fn check_crc(&self) -> Result<(), BatchError> {
        let computed = checksum(self.bytes);
        if computed == self.header.crc {
            return Ok(());
        }
        Err(BatchError::Checksum { stored: self.header.crc, computed })
    }
}

/// The batches that lie one after the other in some bytes. Ends after the first error.
#[derive(Clone, Copy, Debug)]
pub struct Batches<'a>(&'a [u8]);

impl<'a> Batches<'a> {
    /// The batches of `bytes`.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes that have not been walked.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match Batch::split_first(self.0) {
            Ok((batch, rest)) => {
                self.0 = rest;
                Some(Ok(batch))
            }
            Err(error) => {
                self.0 = &[];
                Some(Err(error))
            }
        }
    }
}

/// CRC-32C of a whole batch, from the attributes on. 0 for fewer bytes than that.
#[must_use]
pub fn checksum(batch: &[u8]) -> u32 {
    batch.get(ATTRIBUTES_AT..).map_or(0, crc_fast::crc32_iscsi)
}

/// Sets base offset and leader epoch of the first batch in `bytes`; neither is under the checksum.
///
/// # Errors
/// [`BatchError::Incomplete`] if there is no whole header.
pub fn patch_position(bytes: &mut [u8], base: Offset, epoch: LeaderEpoch) -> Result<(), BatchError> {
    let have = bytes.len();
    let Some(header) = bytes.first_chunk_mut::<HEADER_BYTES>() else {
        return Err(BatchError::Incomplete { have, need: HEADER_BYTES });
    };
    put(header, 0, &base.0.to_be_bytes());
    put(header, LEADER_EPOCH_AT, &epoch.0.to_be_bytes());
    Ok(())
}

/// Sets timestamp type and largest timestamp of the one batch that `bytes` is, and computes the checksum again.
///
/// # Errors
/// [`BatchError::Incomplete`] if there is no whole header.
pub fn patch_timestamps(
    bytes: &mut [u8],
    log_append_time: bool,
    max_timestamp: i64,
) -> Result<(), BatchError> {
    let attributes = BatchHeader::parse(bytes)?.attributes.with_log_append_time(log_append_time);
    put(bytes, ATTRIBUTES_AT, &attributes.0.to_be_bytes());
    put(bytes, MAX_TIMESTAMP_AT, &max_timestamp.to_be_bytes());
    seal(bytes);
    Ok(())
}

/// Sets the producer of the one batch that `bytes` is, and computes the checksum again: for clients and tests.
///
/// # Errors
/// [`BatchError::Incomplete`] if there is no whole header.
pub fn patch_producer(bytes: &mut [u8], id: ProducerId, epoch: i16, sequence: i32) -> Result<(), BatchError> {
    BatchHeader::parse(bytes)?;
    put(bytes, PRODUCER_AT, &id.0.to_be_bytes());
    put(bytes, PRODUCER_AT + 8, &epoch.to_be_bytes());
    put(bytes, PRODUCER_AT + 10, &sequence.to_be_bytes());
    seal(bytes);
    Ok(())
}

/// Writes a header into a batch that holds [`HEADER_BYTES`] at its start and the records behind them. Length and
/// checksum are computed; `header`'s are not looked at. Shorter bytes stay a torn batch.
pub fn rewrite(into: &mut [u8], header: &BatchHeader) {
    let length = i32::try_from(into.len().saturating_sub(PREFIX_BYTES)).unwrap_or(i32::MAX);
    put(into, 0, &header.base_offset.0.to_be_bytes());
    put(into, LENGTH_AT, &length.to_be_bytes());
    put(into, LEADER_EPOCH_AT, &header.leader_epoch.0.to_be_bytes());
    put(into, CRC_AT - 1, &MAGIC.to_be_bytes());
    put(into, ATTRIBUTES_AT, &header.attributes.0.to_be_bytes());
    put(into, ATTRIBUTES_AT + 2, &header.last_offset_delta.to_be_bytes());
    put(into, ATTRIBUTES_AT + 6, &header.base_timestamp.to_be_bytes());
    put(into, MAX_TIMESTAMP_AT, &header.max_timestamp.to_be_bytes());
    put(into, PRODUCER_AT, &header.producer_id.0.to_be_bytes());
    put(into, PRODUCER_AT + 8, &header.producer_epoch.to_be_bytes());
    put(into, PRODUCER_AT + 10, &header.base_sequence.to_be_bytes());
    put(into, PRODUCER_AT + 14, &header.count.to_be_bytes());
    seal(into);
}

fn seal(batch: &mut [u8]) {
    let crc = checksum(batch);
    put(batch, CRC_AT, &crc.to_be_bytes());
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The header's bytes, read field after field; all 61 are there, so that no read can fail.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, BatchError> {
        match bytes.first_chunk::<HEADER_BYTES>() {
            Some(header) => Ok(Self(header)),
            None => Err(BatchError::Incomplete { have: bytes.len(), need: HEADER_BYTES }),
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((value, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *value
    }

    fn skip_magic(&mut self) {
        let _: [u8; 1] = self.take();
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }
}

#[cfg(test)]
#[path = "batch_test.rs"]
mod tests;
