//! Appending: whole batches at the end, rolling the active segment when it is full or old.

use std::{io, io::IoSlice, sync::Arc};

use smallvec::SmallVec;
use thiserror::Error;

use super::{
    log::{DiskFailure, Log, Unusable, WalkFailure},
    segment::{SEGMENT_BYTES_MAX, Segment, Unsynced},
};
use crate::{
    ids::{LeaderEpoch, Offset},
    protocol::batch::{BatchError, BatchHeader, Batches},
    runtime::DiskFile,
};

/// Why nothing was appended.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The bytes are not whole batches.
    #[error("the bytes to append are not whole batches: {0}")]
    Batch(#[from] BatchError),
    /// A batch begins before the end of the log, or before the one that precedes it.
    #[error("a batch at offset {found} cannot be appended to a log that ends at {end}")]
    OutOfOrder {
        /// Its base offset.
        found: Offset,
        /// Where it could begin at the earliest.
        end: Offset,
    },
    /// A batch of an epoch older than the one before it.
    #[error("a batch of leader epoch {found} cannot follow one of epoch {latest}")]
    EpochFell {
        /// Its epoch.
        found: LeaderEpoch,
        /// The epoch before it.
        latest: LeaderEpoch,
    },
    /// More than a segment can hold: 2³¹−1 bytes or offsets.
    #[error("{bytes} bytes of batches do not fit into one segment")]
    TooLarge {
        /// What was to be appended.
        bytes: usize,
    },
    /// Another append is being written.
    #[error("another append to this log is under way")]
    Busy,
    /// The log was truncated while the append was being written.
    #[error("the log was truncated while the append was under way")]
    Overtaken,
    /// The log is out of service.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The disk failed. The log is as it was before, unless [`Log::unusable`] says otherwise.
    #[error(transparent)]
    Disk(#[from] DiskFailure),
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The base offset of the first batch.
    pub first: Offset,
    /// The end of the log.
    pub end: Offset,
    /// The first offset of the new segment, if the append began one.
    pub rolled: Option<Offset>,
}

/// An append whose bytes have a place in the file and are not written. [`PendingAppend::write`] may run on any thread,
/// without the lock; then the log takes it in by [`Log::finish_append`]. Until then the log can be read and synced, and
/// refuses other appends and truncation.
#[must_use = "the log refuses other appends until this one is finished"]
pub struct PendingAppend {
    batches: SmallVec<[BatchHeader; 1]>,
    file: Arc<dyn DiskFile>,
    position: u32,
    bytes: u32,
    generation: u64,
    rolled: Option<Offset>,
}

impl PendingAppend {
    /// Writes the same parts that [`Log::begin_append`] was given.
    ///
    /// # Errors
    /// As the system says; give the error to [`Log::finish_append`].
    pub fn write(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: SmallVec<[IoSlice<'_>; 16]> = parts.iter().map(|part| IoSlice::new(part)).collect();
        self.file.write_at(&mut slices, u64::from(self.position))
    }
}

impl Log {
    /// Appends whole batches that are valid and have their offsets and epoch: each part one or more. All are written by
    /// one vectored write, and all of them or none are in the log afterwards.
    ///
    /// # Errors
    /// [`AppendError`]; [`AppendError::Busy`] and [`AppendError::Overtaken`] do not occur where no append is pending.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<Appended, AppendError> {
        let pending = self.begin_append(parts)?;
        let written = pending.write(parts);
        self.finish_append(pending, written)
    }

    /// Appends one batch whose bytes lie in several pieces, so that a batch in borrowed bytes can be given another head
    /// without being copied. `header` is that of the pieces together.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_pieces(&mut self, header: BatchHeader, pieces: &[&[u8]]) -> Result<Appended, AppendError> {
        let have = pieces.iter().map(|piece| piece.len()).sum();
        if have != header.size_bytes {
            return Err(BatchError::Incomplete { have, need: header.size_bytes }.into());
        }
        self.check_append()?;
        let (end, latest) = (self.end, self.latest_epoch());
        check_order(&header, end, latest)?;
        let pending = self.place(SmallVec::from_iter([header]), have)?;
        let written = pending.write(pieces);
        self.finish_append(pending, written)
    }

    /// Finds a place for batches, as [`Log::append`], and leaves the writing to the caller.
    ///
    /// # Errors
    /// [`AppendError`]. The log may have rolled all the same.
    pub fn begin_append(&mut self, parts: &[&[u8]]) -> Result<PendingAppend, AppendError> {
        self.check_append()?;
        let batches = self.headers(parts)?;
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.place(batches, bytes)
    }

    fn check_append(&self) -> Result<(), AppendError> {
        if let Some(unusable) = &self.unusable {
            return Err(unusable.clone().into());
        }
        if self.appending {
            return Err(AppendError::Busy);
        }
        Ok(())
    }

    /// Finds a place for batches that are in order.
    fn place(
        &mut self,
        batches: SmallVec<[BatchHeader; 1]>,
        bytes: usize,
    ) -> Result<PendingAppend, AppendError> {
        let (Some(first), Some(last)) = (batches.first().copied(), batches.last().copied()) else {
            return Err(BatchError::Incomplete { have: 0, need: 1 }.into());
        };
        let size = u32::try_from(bytes).ok().filter(|bytes| *bytes <= SEGMENT_BYTES_MAX);
        let size = size.ok_or(AppendError::TooLarge { bytes })?;
        if last.last_offset().0 - first.base_offset.0 > i64::from(i32::MAX) {
            return Err(AppendError::TooLarge { bytes });
        }
        let newest = batches.iter().map(|header| header.max_timestamp).max();
        let rolled = self.roll_for(size, first.base_offset, last.last_offset(), newest.unwrap_or(-1))?;
        let file = self.open_active().map_err(|error| self.failure(error))?;
        self.appending = true;
        let position = self.active().0.size();
        Ok(PendingAppend { batches, file, position, bytes: size, generation: self.generation, rolled })
    }

    /// Takes in an append once [`PendingAppend::write`] has returned `written`.
    ///
    /// # Errors
    /// [`AppendError::Disk`] if the write failed: nothing of it is in the log then. [`AppendError::Overtaken`].
    pub fn finish_append(
        &mut self,
        pending: PendingAppend,
        written: io::Result<()>,
    ) -> Result<Appended, AppendError> {
        if pending.generation != self.generation {
            return Err(AppendError::Overtaken);
        }
        self.appending = false;
        if let Err(error) = written {
            // What was written lies past the end and would be overwritten; but a restart must not find a part of it.
            if let Err(second) = pending.file.set_len(u64::from(pending.position)) {
                return Err(self.fail(second).into());
            }
            return Err(self.failure(error).into());
        }
        self.write += 1;
        self.bytes_since_deep_sync += u64::from(pending.bytes);
        let write = self.write;
        let mut position = pending.position;
        for header in &pending.batches {
            self.recent.push(header.base_offset, position);
            position = position.saturating_add(u32::try_from(header.size_bytes).unwrap_or(u32::MAX));
            self.epochs.assign(header.leader_epoch, header.base_offset);
            self.end = header.next_offset();
        }
        let now = self.clock.wall_ms();
        let (active, files, config) = self.active();
        active.unsynced = Some(Unsynced { write, file: Some(pending.file) });
        active.indexes_write = write;
        active.touched_ms = now;
        if let Err(error) = active.extend(files, config, &pending.batches) {
            let at = self.segments.len() - 1;
            return Err(match self.broken(at, error) {
                // The batches are in the file and counted; only the index has no entry. Stop, to be opened anew.
                WalkFailure::Disk(failure) => {
                    self.unusable.get_or_insert(Unusable::Failed(failure.to_string()));
                    failure.into()
                }
                WalkFailure::Damaged(damage) => Unusable::Damaged(damage).into(),
            });
        }
        let first = pending.batches.first().map_or(self.end, |header| header.base_offset);
        debug_assert_eq!(self.active().0.size(), pending.position + pending.bytes);
        self.validate();
        Ok(Appended { first, end: self.end, rolled: pending.rolled })
    }

    /// The headers of all batches, in order and after the end of the log.
    fn headers(&self, parts: &[&[u8]]) -> Result<SmallVec<[BatchHeader; 1]>, AppendError> {
        let mut headers = SmallVec::new();
        let mut end = self.end;
        let mut latest = self.latest_epoch();
        for batch in parts.iter().flat_map(|part| Batches::of(part)) {
            let header = *batch?.header();
            check_order(&header, end, latest)?;
            end = header.next_offset();
            latest = Some(header.leader_epoch);
            headers.push(header);
        }
        Ok(headers)
    }

    /// Rolls if the active segment must not take these batches: Kafka's five reasons. Returns the new segment's base.
    fn roll_for(
        &mut self,
        bytes: u32,
        first: Offset,
        last: Offset,
        newest: i64,
    ) -> Result<Option<Offset>, AppendError> {
        let now = self.clock.wall_ms();
        let (active, files, config) = self.active();
        if active.size() == 0 {
            if active.relative(last).is_none() {
                return self.replace_empty(first).map(Some).map_err(AppendError::Disk);
            }
            return Ok(None);
        }
        let is_large = active.size().saturating_add(bytes) > config.segment_bytes.min(SEGMENT_BYTES_MAX);
        let is_far = active.relative(last).is_none();
        let old = if is_large || is_far {
            Ok(true)
        } else {
            active.first_timestamp(files).and_then(|oldest| {
                let age = if oldest >= 0 && newest >= 0 { newest - oldest } else { now - active.touched_ms };
                Ok(age > config.segment_ms || active.indexes(files, config)?.is_full(config.index_bytes_max))
            })
        };
        match old {
            Ok(false) => Ok(None),
            Ok(true) => {
                // At the end of the log and not at the batch, so that a hole between segments is never a gap that
                // compaction left: recovery tells a lost tail by it.
                let far = last.0.saturating_sub(self.end.0) > i64::from(i32::MAX);
                Ok(Some(self.roll(if far { first } else { self.end })?))
            }
            Err(error) => {
                let at = self.segments.len() - 1;
                Err(match self.broken(at, error) {
                    WalkFailure::Disk(failure) => failure.into(),
                    WalkFailure::Damaged(damage) => Unusable::Damaged(damage).into(),
                })
            }
        }
    }

    /// Seals the active segment and begins another at `base`, at or after the end of the log.
    ///
    /// # Errors
    /// The disk failed; the active segment is still active.
    pub(super) fn roll(&mut self, base: Offset) -> Result<Offset, DiskFailure> {
        let at = self.segments.len().saturating_sub(1);
        let (active, files, config) = self.active();
        if let Err(error) = active.write_indexes(files, config, true) {
            return Err(match self.broken(at, error) {
                WalkFailure::Disk(failure) => failure,
                WalkFailure::Damaged(damage) => self.failure(io::Error::other(damage)),
            });
        }
        // The name of a segment is durable before there is another, or a power cut could take it from between them.
        if self.names_write != 0 {
            self.files.disk.sync_dir(&self.files.dir).map_err(|error| self.failure(error))?;
        }
        let mut next = Segment::empty(base, self.clock.wall_ms());
        next.create(&self.files).map_err(|error| self.failure(error))?;
        self.note_names_changed();
        self.recent.clear();
        self.segments.push(next);
        Ok(base)
    }

    /// Gives an active segment without batches another base.
    fn replace_empty(&mut self, base: Offset) -> Result<Offset, DiskFailure> {
        let mut next = Segment::empty(base, self.clock.wall_ms());
        next.create(&self.files).map_err(|error| self.failure(error))?;
        self.note_names_changed();
        if let Some(old) = self.segments.pop() {
            let removed = old.remove(&self.files);
            self.segments.push(next);
            removed.map_err(|error| self.failure(error))?;
        } else {
            self.segments.push(next);
        }
        Ok(base)
    }

    /// The active segment's file, made if this is its first batch.
    fn open_active(&mut self) -> io::Result<Arc<dyn DiskFile>> {
        let (active, files, _) = self.active();
        if !active.is_created() {
            active.create(files)?;
            self.note_names_changed();
        }
        let (active, files, _) = self.active();
        active.file(files)
    }

    pub(super) fn note_names_changed(&mut self) {
        self.write += 1;
        self.names_write = self.write;
    }

    /// The picture of the module, in debug builds.
    pub(super) fn validate(&self) {
        debug_assert!(self.start <= self.end, "{self:?}");
        debug_assert!(self.recovery_point <= self.synced, "{self:?}: recovery point {}", self.recovery_point);
        debug_assert!(self.synced <= self.end, "{self:?}");
        debug_assert!(self.segments.is_sorted_by(|a, b| a.base() < b.base()), "{self:?}");
    }
}

/// Whether a batch may follow a log that ends at `end` in epoch `latest`.
fn check_order(header: &BatchHeader, end: Offset, latest: Option<LeaderEpoch>) -> Result<(), AppendError> {
    if header.base_offset < end {
        return Err(AppendError::OutOfOrder { found: header.base_offset, end });
    }
    if let Some(latest) = latest.filter(|latest| header.leader_epoch < *latest) {
        return Err(AppendError::EpochFell { found: header.leader_epoch, latest });
    }
    Ok(())
}
