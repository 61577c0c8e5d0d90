//! Idempotent producers of one partition (KIP-98): which batch comes next, which one has come before.
//!
//! A producer id writes with an epoch, and within an epoch its batches carry sequence numbers without a gap, modulo
//! 2³¹. The last five batches of each producer are remembered, so that one that is sent again is answered with the
//! offset that it already has. Pure state: the log calls [`Producers::apply`] for every batch that it holds, in order,
//! and keeps [`Producers::encode`]'s bytes in `.snapshot` files, in Kafka's format.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use crate::{
    ids::{Offset, ProducerId},
    planted::{Bug, planted},
    protocol::{
        batch::{Batch, BatchHeader, NO_PRODUCER_EPOCH, NO_SEQUENCE, NO_TIMESTAMP},
        records::Records,
    },
};

/// Batches that are remembered for each producer. A client has at most five requests in flight
/// (`max.in.flight.requests.per.connection` with idempotence), so that no retry is older.
pub const BATCHES_KEPT: usize = 5;

/// The producers of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    entries: BTreeMap<ProducerId, Producer>,
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The newest epoch that was seen.
    pub epoch: i16,
    /// The largest timestamp of the last batch, in ms: what [`Producers::expire`] goes by.
    pub last_timestamp: i64,
    /// The transaction coordinator that wrote the last marker; −1 if none did.
    pub coordinator_epoch: i32,
    /// Where the open transaction begins.
    pub transaction_start: Option<Offset>,
    batches: VecDeque<Written>,
}

/// A batch that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The sequence number of its last record.
    pub last_sequence: i32,
    /// The offset of its last record.
    pub last_offset: Offset,
    /// Records less one.
    pub delta: i32,
    /// Its largest timestamp, in ms.
    pub timestamp: i64,
}

/// What becomes of a produced batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one.
    Append,
    /// It is in the log already; the answer is the one that was lost.
    Duplicate(Written),
}

/// Why a produced batch is not the next one.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SequenceError {
    /// A batch before it is missing.
    #[error("producer {producer} sent sequence number {sent} after {last}")]
    OutOfOrder {
        /// Who.
        producer: ProducerId,
        /// The first sequence number of the batch.
        sent: i32,
        /// The last one in the log; −1 if there is none of this epoch.
        last: i32,
    },
    /// The producer has been replaced by a newer one.
    #[error("producer {producer} has epoch {current} and sent a batch with epoch {sent}")]
    OldEpoch {
        /// Who.
        producer: ProducerId,
        /// The epoch of the batch.
        sent: i16,
        /// The newest one.
        current: i16,
    },
    /// A batch outside of a transaction while the producer has one open.
    #[error("producer {0} has an open transaction and sent a batch that is not part of it")]
    OutsideTransaction(ProducerId),
}

/// The bytes are no snapshot of producers.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SnapshotDecodeError {
    /// The file ends early, or goes on after its last entry.
    #[error("the producer snapshot has {0} bytes, which is not what its entries take")]
    Length(usize),
    /// Another format.
    #[error("the producer snapshot has version {0}; only version 1 is known")]
    Version(i16),
    /// The checksum does not fit.
    #[error("the producer snapshot is damaged: its checksum does not fit")]
    Checksum,
}

impl Written {
    /// The offset of its first record.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        self.last_offset.plus(-i64::from(self.delta))
    }

    /// The sequence number of its first record.
    #[must_use]
    pub fn base_sequence(&self) -> i32 {
        let first = i64::from(self.last_sequence) - i64::from(self.delta);
        let wrapped = if first < 0 { first + i64::from(i32::MAX) + 1 } else { first };
        i32::try_from(wrapped).unwrap_or(NO_SEQUENCE)
    }
}

impl Producer {
    fn new(epoch: i16) -> Self {
        Self {
            epoch,
            last_timestamp: NO_TIMESTAMP,
            coordinator_epoch: -1,
            transaction_start: None,
            batches: VecDeque::new(),
        }
    }

    /// Its last batches, at most five, oldest first; all of the present epoch.
    pub fn batches(&self) -> impl Iterator<Item = &Written> {
        self.batches.iter()
    }

    /// The last sequence number in the log; [`NO_SEQUENCE`] if there is none of this epoch.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    fn duplicate_of(&self, header: &BatchHeader) -> Option<Written> {
        if header.producer_epoch != self.epoch {
            return None;
        }
        let sequences = (header.base_sequence, header.last_sequence());
        self.batches.iter().find(|batch| (batch.base_sequence(), batch.last_sequence) == sequences).copied()
    }

    fn enter_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }

    fn append(&mut self, header: &BatchHeader) {
        self.enter_epoch(header.producer_epoch);
        if self.batches.len() == BATCHES_KEPT {
            self.batches.pop_front();
        }
        self.batches.push_back(Written {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        });
        self.last_timestamp = header.max_timestamp;
        if header.attributes.is_transactional() && self.transaction_start.is_none() {
            self.transaction_start = Some(header.base_offset);
        }
    }

    fn is_expired(&self, now_ms: i64, expiration_ms: i64) -> bool {
        self.transaction_start.is_none() && now_ms.saturating_sub(self.last_timestamp) >= expiration_ms
    }
}

impl Producers {
    /// Whether a client's batch is the next one of its producer. Changes nothing; a batch without a producer is always
    /// the next one. `header` holds the producer's own numbers; its offsets are not looked at.
    ///
    /// A producer that is not known (its batches have been deleted, or it has expired) may begin with any sequence
    /// number, as in Kafka 4: UNKNOWN_PRODUCER_ID is a thing of the past.
    ///
    /// # Errors
    /// Why it is not the next one.
    pub fn check(&self, header: &BatchHeader) -> Result<Verdict, SequenceError> {
        if !header.has_producer() {
            return Ok(Verdict::Append);
        }
        let producer = header.producer_id;
        let Some(known) = self.entries.get(&producer) else { return Ok(Verdict::Append) };
        if let Some(written) = known.duplicate_of(header) {
            return Ok(Verdict::Duplicate(written));
        }
        let (sent, current) = (header.producer_epoch, known.epoch);
        if sent < current {
            if planted(Bug::TakesOldEpochs) {
                return Ok(Verdict::Append);
            }
            return Err(SequenceError::OldEpoch { producer, sent, current });
        }
        let last = if sent == current { known.last_sequence() } else { NO_SEQUENCE };
        if current != NO_PRODUCER_EPOCH && header.base_sequence != next_sequence(last) {
            return Err(SequenceError::OutOfOrder { producer, sent: header.base_sequence, last });
        }
        if known.transaction_start.is_some() && !header.attributes.is_transactional() {
            return Err(SequenceError::OutsideTransaction(producer));
        }
        Ok(Verdict::Append)
    }

    /// Takes in a batch of the log: one that was checked and appended, or replicated, or found at recovery. Nothing is
    /// checked; the leader did.
    pub fn apply(&mut self, batch: &Batch<'_>) {
        let header = batch.header();
        if header.attributes.is_control() {
            self.apply_marker(batch);
        } else {
            self.apply_data(header);
        }
    }

    /// [`Producers::apply`] for a batch that is known to hold data.
    pub fn apply_data(&mut self, header: &BatchHeader) {
        if header.has_producer() {
            let epoch = header.producer_epoch;
            self.entries.entry(header.producer_id).or_insert_with(|| Producer::new(epoch)).append(header);
        }
    }

    /// The end of a transaction. A control batch whose record was compacted away ends nothing.
    fn apply_marker(&mut self, batch: &Batch<'_>) {
        let header = batch.header();
        let Some(Ok(record)) = Records::of(batch.payload(), header.count).next() else { return };
        // The key is version and type (0 abort, 1 commit); the value is version and coordinator epoch.
        let ends = matches!(record.key, Some([_, _, 0, 0 | 1]));
        let Some([_, _, coordinator_epoch @ ..]) = record.value else { return };
        let Some(coordinator_epoch) = coordinator_epoch.first_chunk().filter(|_| ends) else { return };
        let producer =
            self.entries.entry(header.producer_id).or_insert_with(|| Producer::new(header.producer_epoch));
        producer.enter_epoch(header.producer_epoch);
        producer.coordinator_epoch = i32::from_be_bytes(*coordinator_epoch);
        producer.transaction_start = None;
        producer.last_timestamp = header.base_timestamp.saturating_add(record.timestamp_delta);
    }

    /// Forgets producers without an open transaction whose last batch is `expiration_ms` old or older
    /// (`producer.id.expiration.ms`).
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.entries.retain(|_, producer| !producer.is_expired(now_ms, expiration_ms));
    }

    /// The producer's state.
    #[must_use]
    pub fn get(&self, producer: ProducerId) -> Option<&Producer> {
        self.entries.get(&producer)
    }

    /// Every producer, by id.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &Producer)> {
        self.entries.iter().map(|(id, producer)| (*id, producer))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where the first open transaction begins.
    #[must_use]
    pub fn first_open_transaction(&self) -> Option<Offset> {
        self.entries.values().filter_map(|producer| producer.transaction_start).min()
    }

    /// Kafka's `.snapshot` file, version 1: of each producer the last batch. The file's name is the offset after the
    /// last batch that was applied.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut entries = Vec::with_capacity(4 + ENTRY_BYTES * self.entries.len());
        entries.extend_from_slice(&i32::try_from(self.entries.len()).unwrap_or(i32::MAX).to_be_bytes());
        for (id, producer) in &self.entries {
            let last = producer.batches.back();
            entries.extend_from_slice(&id.0.to_be_bytes());
            entries.extend_from_slice(&producer.epoch.to_be_bytes());
            entries.extend_from_slice(&producer.last_sequence().to_be_bytes());
            entries.extend_from_slice(&last.map_or(-1, |batch| batch.last_offset.0).to_be_bytes());
            entries.extend_from_slice(&last.map_or(0, |batch| batch.delta).to_be_bytes());
            entries.extend_from_slice(&producer.last_timestamp.to_be_bytes());
            entries.extend_from_slice(&producer.coordinator_epoch.to_be_bytes());
            entries.extend_from_slice(&producer.transaction_start.map_or(-1, |start| start.0).to_be_bytes());
        }
        let mut bytes = VERSION.to_be_bytes().to_vec();
        bytes.extend_from_slice(&crc_fast::crc32_iscsi(&entries).to_be_bytes());
        bytes.extend_from_slice(&entries);
        bytes
    }

    /// Reads [`Producers::encode`]'s bytes, or Kafka's.
    ///
    /// # Errors
    /// What is wrong with the file; the caller deletes it and takes an older one.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotDecodeError> {
        let length = SnapshotDecodeError::Length(bytes.len());
        let (version, rest) = bytes.split_first_chunk().ok_or(length.clone())?;
        let version = i16::from_be_bytes(*version);
        if version != VERSION {
            return Err(SnapshotDecodeError::Version(version));
        }
        let (crc, rest) = rest.split_first_chunk().ok_or(length.clone())?;
        if u32::from_be_bytes(*crc) != crc_fast::crc32_iscsi(rest) {
            return Err(SnapshotDecodeError::Checksum);
        }
        let (count, rest) = rest.split_first_chunk().ok_or(length.clone())?;
        let (entries, tail) = rest.as_chunks::<ENTRY_BYTES>();
        if !tail.is_empty() || usize::try_from(i32::from_be_bytes(*count)) != Ok(entries.len()) {
            return Err(length);
        }
        Ok(Self { entries: entries.iter().map(|entry| decode_entry(entry)).collect() })
    }
}

const VERSION: i16 = 1;
const ENTRY_BYTES: usize = 46;

fn decode_entry(mut bytes: &[u8]) -> (ProducerId, Producer) {
    let id = ProducerId(i64::from_be_bytes(take(&mut bytes)));
    let epoch = i16::from_be_bytes(take(&mut bytes));
    let last_sequence = i32::from_be_bytes(take(&mut bytes));
    let last_offset = Offset(i64::from_be_bytes(take(&mut bytes)));
    let delta = i32::from_be_bytes(take(&mut bytes));
    let timestamp = i64::from_be_bytes(take(&mut bytes));
    let coordinator_epoch = i32::from_be_bytes(take(&mut bytes));
    let start = i64::from_be_bytes(take(&mut bytes));
    let last = Written { last_sequence, last_offset, delta, timestamp };
    let producer = Producer {
        epoch,
        last_timestamp: timestamp,
        coordinator_epoch,
        transaction_start: (start >= 0).then_some(Offset(start)),
        batches: (last_offset.0 >= 0).then_some(last).into_iter().collect(),
    };
    (id, producer)
}

/// The next field of an entry, which is as long as its fields together.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let Some((field, rest)) = bytes.split_first_chunk() else { return [0; N] };
    *bytes = rest;
    *field
}

fn next_sequence(last: i32) -> i32 {
    if last == i32::MAX { 0 } else { last + 1 }
}

#[cfg(test)]
#[path = "producers_test.rs"]
mod tests;
