//! Builds batches: for clients (the command line, tests), never for what a producer has sent, which stays verbatim.

use crate::ids::{LeaderEpoch, Offset, ProducerId};

use super::{
    batch::{
        Attributes, BatchHeader, HEADER_BYTES, NO_PRODUCER, NO_PRODUCER_EPOCH, NO_SEQUENCE, NO_TIMESTAMP,
        rewrite,
    },
    compression::{Compression, CompressionError, compress},
};

/// A record that is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The key; `None` for none.
    pub key: Option<Vec<u8>>,
    /// The value; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Names and values of the headers, in order.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A batch that is being written.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    compression: Compression,
    records: Vec<u8>,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let header = BatchHeader {
            base_offset: Offset(0),
            size_bytes: HEADER_BYTES,
            leader_epoch: LeaderEpoch::NONE,
            crc: 0,
            attributes: Attributes::default().with_codec(compression.codec),
            last_offset_delta: -1,
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            producer_id: NO_PRODUCER,
            producer_epoch: NO_PRODUCER_EPOCH,
            base_sequence: NO_SEQUENCE,
            count: 0,
        };
        Self { header, compression, records: Vec::new() }
    }

    /// With an idempotent producer's identity and the sequence number of the first record.
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// As it lies in a log: with its first offset and the leadership that appended it.
    #[must_use]
    pub fn position(mut self, base_offset: Offset, epoch: LeaderEpoch) -> Self {
        self.header.base_offset = base_offset;
        self.header.leader_epoch = epoch;
        self
    }

    /// With attributes beyond the codec.
    #[must_use]
    pub fn attributes(mut self, change: impl FnOnce(Attributes) -> Attributes) -> Self {
        self.header.attributes = change(self.header.attributes);
        self
    }

    /// Appends a record.
    #[must_use]
    pub fn record(mut self, record: &NewRecord) -> Self {
        if self.header.count == 0 {
            self.header.base_timestamp = record.timestamp;
        }
        let delta = record.timestamp.wrapping_sub(self.header.base_timestamp);
        write_record(&mut self.records, delta, self.header.count, record);
        self.header.max_timestamp = self.header.max_timestamp.max(record.timestamp);
        self.header.count += 1;
        self.header.last_offset_delta += 1;
        self
    }

    /// Appends a record of key, value and timestamp.
    #[must_use]
    pub fn simple(self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        self.record(&NewRecord { timestamp, key, value, headers: Vec::new() })
    }

    /// The bytes of the records so far, uncompressed.
    #[must_use]
    pub fn records_bytes(&self) -> usize {
        self.records.len()
    }

    /// The batch.
    ///
    /// # Errors
    /// As [`compress`].
    pub fn build(&self) -> Result<Vec<u8>, CompressionError> {
        let mut bytes = vec![0; HEADER_BYTES];
        compress(self.compression, &self.records, &mut bytes)?;
        rewrite(&mut bytes, &self.header);
        Ok(bytes)
    }
}

fn write_record(into: &mut Vec<u8>, timestamp_delta: i64, offset_delta: i32, record: &NewRecord) {
    let mut body = vec![0];
    write_varlong(&mut body, timestamp_delta);
    write_varint(&mut body, offset_delta);
    write_nullable(&mut body, record.key.as_deref());
    write_nullable(&mut body, record.value.as_deref());
    write_varint(&mut body, i32::try_from(record.headers.len()).unwrap_or(i32::MAX));
    for (name, value) in &record.headers {
        write_nullable(&mut body, Some(name));
        write_nullable(&mut body, value.as_deref());
    }
    write_nullable(into, Some(&body));
}

fn write_nullable(into: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return write_varint(into, -1) };
    write_varint(into, i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    into.extend_from_slice(bytes);
}

/// Writes a zigzag varint.
pub(super) fn write_varint(into: &mut Vec<u8>, value: i32) {
    write_varlong(into, i64::from(value));
}

fn write_varlong(into: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw > 0x7f {
        into.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    into.push(raw as u8);
}
