//! Finding offsets: the ends of a partition, and the first record since a time.

use thiserror::Error;

use crate::{
    ids::{LeaderEpoch, Offset},
    log::{BatchAt, ReadError},
    protocol::{
        batch::{Batch, NO_TIMESTAMP},
        compression::{Codec, Decompressor, decompressed_bytes_max},
        errors::ErrorCode,
        records::{RecordError, walk, walk_stream},
    },
};

use super::{NotServed, Replica};

/// Which offset is wanted: Kafka's ListOffsets timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// −1: where the next record that becomes visible will be.
    Latest,
    /// −2, and −4 on this broker's disk, which is the same: the first offset.
    Earliest,
    /// −3: the record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// 0 and more: the first record with a timestamp of at least so many ms.
    Since(i64),
}

/// An offset that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset.
    pub offset: Offset,
    /// The record's timestamp; −1 for the ends.
    pub timestamp: i64,
    /// The leadership that wrote it; [`LeaderEpoch::NONE`] where it is not known.
    pub leader_epoch: LeaderEpoch,
}

/// Why no offset can be told.
#[derive(Debug, Error)]
pub enum ListError {
    /// The partition is not served here.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// The leader is new and does not know yet how far its predecessors had come (KIP-207).
    #[error("the leader does not know the high watermark yet")]
    NotAvailable,
    /// The log is out of service, or the disk failed.
    #[error(transparent)]
    Storage(#[from] ReadError),
    /// A batch cannot be read.
    #[error(transparent)]
    Records(#[from] RecordError),
}

impl ListError {
    /// Kafka's code for it.
    #[must_use]
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::NotServed(reason) => reason.error_code(),
            Self::NotAvailable => ErrorCode::OFFSET_NOT_AVAILABLE,
            Self::Storage(_) | Self::Records(_) => ErrorCode::KAFKA_STORAGE_ERROR,
        }
    }
}

impl Replica {
    /// Finds an offset. A consumer (`is_consumer`) is told of nothing past the high watermark; whoever debugs sees the
    /// log's end. `None` if there is no such record.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn list_offset(
        &self,
        wanted: Wanted,
        leader_epoch: LeaderEpoch,
        is_consumer: bool,
    ) -> Result<Option<FoundOffset>, ListError> {
        let mut state = self.state.lock();
        let leader = state.leading(leader_epoch)?;
        let is_known = leader.is_high_watermark_known(state.high_watermark);
        let current = leader.epoch();
        let (start, end) = (state.log.start_offset(), state.log.end_offset());
        let visible = if is_consumer { state.high_watermark } else { end };
        let found = match wanted {
            Wanted::Latest if is_consumer && !is_known => return Err(ListError::NotAvailable),
            Wanted::Latest => {
                let found = FoundOffset { offset: visible, timestamp: NO_TIMESTAMP, leader_epoch: current };
                return Ok(Some(found));
            }
            Wanted::Earliest => {
                let leader_epoch = state.log.epochs().epoch_at(start).unwrap_or(LeaderEpoch::NONE);
                return Ok(Some(FoundOffset { offset: start, timestamp: NO_TIMESTAMP, leader_epoch }));
            }
            Wanted::MaxTimestamp => state.log.newest_batch()?,
            Wanted::Since(timestamp) => state.log.first_batch_since(timestamp)?,
        };
        // A leader never truncates, so that the batch stays what it is without the lock.
        drop(state);
        let Some(batch) = found else { return Ok(None) };
        let record = search(&batch, wanted, start).map_err(|error| match error {
            SearchError::Records(error) => ListError::Records(error),
            SearchError::Disk(error) => ListError::Storage(error),
            SearchError::Found => ListError::Records(RecordError::Truncated),
        })?;
        match record {
            Some(record) if record.offset < visible => Ok(Some(record)),
            Some(_) if is_consumer && !is_known => Err(ListError::NotAvailable),
            _ => Ok(None),
        }
    }
}

enum SearchError {
    Records(RecordError),
    Disk(ReadError),
    /// The walk is over before its end.
    Found,
}

impl From<RecordError> for SearchError {
    fn from(error: RecordError) -> Self {
        Self::Records(error)
    }
}

/// The record of a batch that is wanted: the first that is late enough, or the latest; at or after `start`.
fn search(found: &BatchAt, wanted: Wanted, start: Offset) -> Result<Option<FoundOffset>, SearchError> {
    let bytes = found.region.read().map_err(|source| {
        let path = std::path::PathBuf::from("a segment");
        SearchError::Disk(ReadError::Disk(crate::log::DiskFailure { path, source }))
    })?;
    let (batch, _) = Batch::split_first(&bytes).map_err(|_| RecordError::Truncated)?;
    let header = batch.header();
    let mut best: Option<FoundOffset> = None;
    let visit = |delta: i32, timestamp_delta: i64| {
        let offset = header.base_offset.plus(i64::from(delta));
        let timestamp = match header.attributes.is_log_append_time() {
            true => header.max_timestamp,
            false => header.base_timestamp.saturating_add(timestamp_delta),
        };
        let record = FoundOffset { offset, timestamp, leader_epoch: header.leader_epoch };
        if offset < start {
            return Ok(());
        }
        match wanted {
            Wanted::Since(since) if timestamp >= since => {
                best = Some(record);
                return Err(SearchError::Found);
            }
            Wanted::MaxTimestamp if best.is_none_or(|best| timestamp > best.timestamp) => best = Some(record),
            _ => {}
        }
        Ok(())
    };
    match visit_records(&batch, visit) {
        Ok(()) | Err(SearchError::Found) => Ok(best),
        Err(error) => Err(error),
    }
}

fn visit_records(
    batch: &Batch<'_>,
    mut visit: impl FnMut(i32, i64) -> Result<(), SearchError>,
) -> Result<(), SearchError> {
    let header = batch.header();
    match header.codec() {
        Some(Codec::None) => {
            walk(batch.payload(), header.count, |shape| visit(shape.offset_delta, shape.timestamp_delta))
        }
        Some(codec) => {
            let cap = decompressed_bytes_max(batch.bytes().len());
            let source = Decompressor::new(codec, batch.payload(), cap).map_err(RecordError::from)?;
            walk_stream(source, header.count, |shape| visit(shape.offset_delta, shape.timestamp_delta))
        }
        None => Err(RecordError::Truncated.into()),
    }
}
