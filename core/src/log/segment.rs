//! One segment: a file of batches and its two indexes.

use std::{io, ops::Range, sync::Arc};

use super::{
    config::LogConfig,
    epochs::EpochCache,
    files::Files,
    index::{Indexes, OffsetEntry, TimeEntry},
    names::Kind,
    walk::{LOOKUP_BYTES, SCAN_BYTES, Walk, WalkError},
};
use crate::{
    ids::Offset,
    protocol::batch::{BatchError, BatchHeader, NO_TIMESTAMP},
    runtime::DiskFile,
};

/// The largest size of a segment in bytes: positions in the index are `i32`.
pub(super) const SEGMENT_BYTES_MAX: u32 = i32::MAX as u32;

/// The largest timestamp of a segment, and the last offset of the batch that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Largest {
    pub(super) timestamp: i64,
    pub(super) offset: Offset,
}

/// Something that was written and is not known to be durable.
#[derive(Clone)]
pub(super) struct Unsynced {
    /// The number of the log's last write to it.
    pub(super) write: u64,
    /// Held open until it is synced, so that an error of the write-back cannot be lost with the descriptor.
    pub(super) file: Option<Arc<dyn DiskFile>>,
}

pub(super) struct Segment {
    base: Offset,
    /// Bytes of valid batches.
    size: u32,
    /// Whether the files have been made: the first segment's are with its first batch.
    created: bool,
    /// Opened when they are needed, and rebuilt if they are broken.
    indexes: Option<Indexes>,
    bytes_since_entry: u32,
    /// The largest timestamp of the first batch, from which `segment.ms` counts; `None` until looked at.
    first_timestamp: Option<i64>,
    /// `None` until looked at.
    largest: Option<Option<Largest>>,
    /// The batches whose checksums were verified since the process started.
    verified: Range<u32>,
    /// The batches that are not durable.
    pub(super) unsynced: Option<Unsynced>,
    /// The write after which the indexes changed and were not synced; 0 if they are durable.
    pub(super) indexes_write: u64,
    /// The wall clock when this segment was last written or opened, for segments without timestamps.
    pub(super) touched_ms: i64,
}

/// A batch in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) position: u32,
    pub(super) header: BatchHeader,
}

impl Segment {
    /// A segment without files.
    pub(super) fn empty(base: Offset, now_ms: i64) -> Self {
        Self {
            base,
            size: 0,
            created: false,
            indexes: Some(Indexes::empty(base)),
            bytes_since_entry: 0,
            first_timestamp: None,
            largest: Some(None),
            verified: 0..0,
            unsynced: None,
            indexes_write: 0,
            touched_ms: now_ms,
        }
    }

    /// A segment whose file has `size` bytes of batches. Nothing else is looked at yet.
    pub(super) fn existing(base: Offset, size: u32, now_ms: i64) -> Self {
        let empty = Self::empty(base, now_ms);
        Self { size, created: true, indexes: None, largest: None, ..empty }
    }

    pub(super) fn base(&self) -> Offset {
        self.base
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn is_created(&self) -> bool {
        self.created
    }

    /// Makes the three files.
    pub(super) fn create(&mut self, files: &Files) -> io::Result<()> {
        files.create(self.base, Kind::Log)?;
        self.indexes = Some(Indexes::create(self.base, files)?);
        self.created = true;
        Ok(())
    }

    pub(super) fn file(&self, files: &Files) -> io::Result<Arc<dyn DiskFile>> {
        files.open(self.base, Kind::Log)
    }

    /// An offset as the indexes hold it; `None` if they cannot.
    pub(super) fn relative(&self, offset: Offset) -> Option<u32> {
        let relative = offset.0.checked_sub(self.base.0)?;
        u32::try_from(relative).ok().filter(|relative| *relative <= i32::MAX as u32)
    }

    /// An offset as the indexes hold it, cut to what they can hold.
    pub(super) fn relative_clamped(&self, offset: Offset) -> u32 {
        let relative = offset.0.saturating_sub(self.base.0).clamp(0, i64::from(i32::MAX));
        u32::try_from(relative).unwrap_or(0)
    }

    /// The indexes; rebuilt from the batches if the files are missing or cannot be right.
    pub(super) fn indexes(&mut self, files: &Files, config: &LogConfig) -> Result<&mut Indexes, WalkError> {
        if self.indexes.is_none() {
            let opened = Indexes::open(self.base, files, self.size, config.index_interval_bytes)?;
            match opened {
                Some(indexes) => self.indexes = Some(indexes),
                None => self.rebuild_indexes(files, config)?,
            }
        }
        self.indexes.as_mut().ok_or_else(|| io::Error::other("the indexes of a segment were not made").into())
    }

    /// Takes indexes that were opened and looked at.
    pub(super) fn adopt(&mut self, indexes: Indexes) {
        self.indexes = Some(indexes);
    }

    /// Takes in batches that have just been written at the end of the file.
    pub(super) fn extend(
        &mut self,
        files: &Files,
        config: &LogConfig,
        batches: &[BatchHeader],
    ) -> Result<(), WalkError> {
        if self.largest.is_none() {
            self.largest(files, config)?;
        }
        let start = self.size;
        for header in batches {
            self.note_batch(files, config, header)?;
        }
        // Their checksums were verified by whoever took them in.
        if self.verified.end == start {
            self.verified.end = self.size;
        } else if self.verified.is_empty() {
            self.verified = start..self.size;
        }
        Ok(())
    }

    /// Adds one batch at the end to size, indexes and timestamps.
    pub(super) fn note_batch(
        &mut self,
        files: &Files,
        config: &LogConfig,
        header: &BatchHeader,
    ) -> Result<(), WalkError> {
        let position = self.size;
        let offset = self.relative_clamped(header.last_offset());
        if position == 0 {
            self.first_timestamp = Some(header.max_timestamp);
        }
        let known = self.largest.flatten();
        if header.max_timestamp >= 0 && known.is_none_or(|known| header.max_timestamp > known.timestamp) {
            let largest = Largest { timestamp: header.max_timestamp, offset: header.last_offset() };
            self.largest = Some(Some(largest));
        }
        if self.bytes_since_entry > config.index_interval_bytes {
            let largest = self.largest_entry();
            let indexes = self.indexes(files, config)?;
            indexes.push_offset(files, OffsetEntry { offset, position })?;
            if let Some(entry) = largest {
                indexes.push_time(files, entry)?;
            }
            self.bytes_since_entry = 0;
        }
        let size = u32::try_from(header.size_bytes).unwrap_or(u32::MAX);
        self.bytes_since_entry = self.bytes_since_entry.saturating_add(size);
        self.size = self.size.saturating_add(size);
        Ok(())
    }

    fn largest_entry(&self) -> Option<TimeEntry> {
        let largest = self.largest.flatten()?;
        Some(TimeEntry { timestamp: largest.timestamp, offset: self.relative_clamped(largest.offset) })
    }

    /// Writes what the indexes still keep in memory; `last` adds the entry of the largest timestamp, which a segment
    /// has when it is no longer written to.
    pub(super) fn write_indexes(
        &mut self,
        files: &Files,
        config: &LogConfig,
        last: bool,
    ) -> Result<(), WalkError> {
        if !self.created {
            return Ok(());
        }
        let largest = if last { self.largest(files, config)? } else { None };
        let entry = largest.and_then(|_| self.largest_entry());
        let indexes = self.indexes(files, config)?;
        if let Some(entry) = entry {
            indexes.push_time(files, entry)?;
        }
        Ok(indexes.write(files)?)
    }

    /// The largest timestamp and its batch; `None` if no batch has one.
    pub(super) fn largest(
        &mut self,
        files: &Files,
        config: &LogConfig,
    ) -> Result<Option<Largest>, WalkError> {
        if let Some(known) = self.largest {
            return Ok(known);
        }
        // The last entry of the time index stands for everything up to the last entry of the offset index.
        let indexes = self.indexes(files, config)?;
        let from = indexes.last_offset(files)?.map_or(0, |entry| entry.position);
        self.largest_from(files, config, from)
    }

    /// [`Segment::largest`], where the times before `from` are known to the time index.
    fn largest_from(
        &mut self,
        files: &Files,
        config: &LogConfig,
        from: u32,
    ) -> Result<Option<Largest>, WalkError> {
        let base = self.base;
        let indexes = self.indexes(files, config)?;
        let entry = indexes.last_time(files)?;
        let indexed = indexes.last_offset(files)?.map_or(0, |entry| entry.position);
        let mut largest = entry
            .map(|entry| Largest { timestamp: entry.timestamp, offset: base.plus(i64::from(entry.offset)) });
        let file = self.file(files)?;
        let buffer =
            if self.size.saturating_sub(from) > SCAN_BYTES as u32 { SCAN_BYTES } else { LOOKUP_BYTES };
        let mut walk = Walk::new(&*file, from, self.size, buffer);
        while let Some((_, header)) = walk.next()? {
            let timestamp = header.max_timestamp;
            if timestamp >= 0 && largest.is_none_or(|largest| timestamp > largest.timestamp) {
                largest = Some(Largest { timestamp, offset: header.last_offset() });
            }
        }
        self.bytes_since_entry = self.size.saturating_sub(indexed);
        self.largest = Some(largest);
        Ok(largest)
    }

    /// [`Segment::largest`], where the time index may lack entries at its end: from the batch of its last one on.
    pub(super) fn find_largest(&mut self, files: &Files, config: &LogConfig) -> Result<(), WalkError> {
        let indexes = self.indexes(files, config)?;
        let last = indexes.last_time(files)?;
        let from = last.map(|entry| indexes.position_before(files, entry.offset)).transpose()?.unwrap_or(0);
        self.largest_from(files, config, from)?;
        Ok(())
    }

    /// The largest timestamp of the first batch; [`NO_TIMESTAMP`] in an empty segment.
    pub(super) fn first_timestamp(&mut self, files: &Files) -> Result<i64, WalkError> {
        if let Some(known) = self.first_timestamp {
            return Ok(known);
        }
        if self.size == 0 {
            return Ok(NO_TIMESTAMP);
        }
        let file = self.file(files)?;
        let first = Walk::new(&*file, 0, self.size, LOOKUP_BYTES).next()?;
        let timestamp = first.map_or(NO_TIMESTAMP, |(_, header)| header.max_timestamp);
        self.first_timestamp = Some(timestamp);
        Ok(timestamp)
    }

    /// Builds both indexes from the batches' headers.
    pub(super) fn rebuild_indexes(&mut self, files: &Files, config: &LogConfig) -> Result<(), WalkError> {
        let (size, file) = (self.size, self.file(files)?);
        self.begin_rebuild(files)?;
        let mut walk = Walk::new(&*file, 0, size, SCAN_BYTES);
        let rebuilt = loop {
            match walk.next() {
                Ok(Some((_, header))) => self.note_batch(files, config, &header)?,
                Ok(None) => break self.finish_rebuild(files),
                Err(error) => break Err(error),
            }
        };
        self.size = size;
        rebuilt
    }

    /// Forgets what is known of the batches, so that they can be noted one by one, and then
    /// [`Segment::finish_rebuild`].
    pub(super) fn begin_rebuild(&mut self, files: &Files) -> io::Result<()> {
        self.indexes = Some(Indexes::begin_rebuild(self.base, files)?);
        self.restart();
        Ok(())
    }

    /// Makes indexes that were built anew durable. They end with the largest timestamp, as those of a sealed segment.
    pub(super) fn finish_rebuild(&mut self, files: &Files) -> Result<(), WalkError> {
        let largest = self.largest_entry();
        let Some(indexes) = &mut self.indexes else { return Ok(()) };
        if let Some(entry) = largest {
            indexes.push_time(files, entry)?;
        }
        Ok(indexes.finish_rebuild(files)?)
    }

    /// Forgets what is known of the batches and empties the indexes, of which none were durable.
    pub(super) fn restart_indexes(&mut self, files: &Files) -> io::Result<()> {
        self.indexes = Some(Indexes::create(self.base, files)?);
        self.restart();
        Ok(())
    }

    fn restart(&mut self) {
        self.size = 0;
        self.bytes_since_entry = 0;
        self.first_timestamp = None;
        self.largest = Some(None);
    }

    /// Forgets everything from `position` on, where the batch of `end` begins. The file is the caller's.
    pub(super) fn forget_from(
        &mut self,
        files: &Files,
        config: &LogConfig,
        position: u32,
        end: Offset,
    ) -> Result<(), WalkError> {
        let relative = self.relative_clamped(end);
        self.indexes(files, config)?.truncate(files, position, relative)?;
        self.size = position;
        self.verified = self.verified.start.min(position)..self.verified.end.min(position);
        self.largest = None;
        if position == 0 {
            self.first_timestamp = None;
        }
        self.largest(files, config)?;
        Ok(())
    }

    /// Verifies the batches in `range`, whose ends are borders of batches or cut the last one, unless that was done since
    /// the process started: their checksums, and their offsets and epochs, which lie outside of those. All of them end
    /// at or before `limit`.
    pub(super) fn verify(
        &mut self,
        files: &Files,
        range: Range<u32>,
        limit: Offset,
        epochs: &EpochCache,
    ) -> Result<(), WalkError> {
        let known = &self.verified;
        if range.is_empty() || (known.start <= range.start && range.end <= known.end) {
            return Ok(());
        }
        let file = self.file(files)?;
        let from = if known.contains(&range.start) { known.end } else { range.start };
        let mut walk = Walk::new(&*file, from, self.size, SCAN_BYTES);
        let (mut end, mut expected) = (from, self.base);
        // The batch behind the range shows whether the last one's offsets are right.
        while let Some((position, header)) = walk.next()? {
            let epoch = epochs.epoch_at(header.base_offset).unwrap_or(header.leader_epoch);
            let fits = header.base_offset >= expected && header.next_offset() <= limit;
            if !fits || epoch != header.leader_epoch {
                let (base, delta) = (header.base_offset.0, header.last_offset_delta);
                return Err(WalkError::Broken { position, reason: BatchError::Offsets { base, delta } });
            }
            if end >= range.end {
                break;
            }
            walk.check(position, &header)?;
            expected = header.next_offset();
            end = position.saturating_add(u32::try_from(header.size_bytes).unwrap_or(u32::MAX));
        }
        self.note_verified(from..end);
        Ok(())
    }

    /// Notes that the checksums of `range` are right. One range is kept: readers go forward.
    pub(super) fn note_verified(&mut self, range: Range<u32>) {
        let known = self.verified.clone();
        let touches = range.start <= known.end && known.start <= range.end;
        self.verified = match (known.is_empty(), touches) {
            (false, true) => known.start.min(range.start)..known.end.max(range.end),
            _ => range,
        };
    }

    /// Removes the files.
    pub(super) fn remove(&self, files: &Files) -> io::Result<()> {
        for kind in [Kind::Log, Kind::Index, Kind::TimeIndex] {
            files.remove(self.base, kind)?;
        }
        Ok(())
    }

    /// Closes the files that are at rest.
    pub(super) fn close(&self, files: &Files) {
        for kind in [Kind::Log, Kind::Index, Kind::TimeIndex] {
            files.close(self.base, kind);
        }
    }

    #[cfg(test)]
    pub(super) fn index_entries(
        &mut self,
        files: &Files,
        config: &LogConfig,
    ) -> (Vec<OffsetEntry>, Vec<TimeEntry>) {
        let indexes = self.indexes(files, config).unwrap();
        let (offsets, times) = indexes.lens();
        let offsets = (0..offsets).map(|at| indexes.offset_entry(files, at).unwrap().unwrap()).collect();
        (offsets, (0..times).map(|at| indexes.time_entry(files, at).unwrap().unwrap()).collect())
    }
}
