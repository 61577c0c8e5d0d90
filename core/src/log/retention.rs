//! Retention: whole segments go from the front, by age and by size.

use super::{log::Log, read::ReadError, segment::Segment};
use crate::{
    ids::Offset,
    planted::{Bug, planted},
};

/// What retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Segments that were removed.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Log {
    /// Removes the oldest segments that are too old or too much, whole ones below the high watermark only. The active
    /// segment is rolled first if it must go too. The start of the log rises to what is left.
    ///
    /// # Errors
    /// As [`Log::read`]; the start never lies below what could not be removed.
    pub fn expire(&mut self, now_ms: i64, high_watermark: Offset) -> Result<Expired, ReadError> {
        self.check_usable()?;
        if !self.config.deletes || self.appending {
            return Ok(Expired::default());
        }
        let by_age = self.count_too_old(now_ms, high_watermark)?;
        let by_size = self.count_too_much(high_watermark);
        self.remove_oldest(by_age.max(by_size))
    }

    /// Moves the start of the log up to `offset`, at most to its end, and removes the segments that end below it.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn delete_before(&mut self, offset: Offset) -> Result<Expired, ReadError> {
        self.check_usable()?;
        self.raise_start(offset.min(self.end));
        let whole =
            (0..self.segments.len().saturating_sub(1)).take_while(|at| self.end_of(*at) <= self.start);
        self.remove_oldest(whole.count())
    }

    /// Segments from the oldest on whose newest record is too old.
    fn count_too_old(&mut self, now_ms: i64, high_watermark: Offset) -> Result<usize, ReadError> {
        let Some(retention_ms) = self.config.retention_ms else { return Ok(0) };
        let mut count = 0;
        while count < self.segments.len() && self.may_go(count, high_watermark) {
            let (largest, touched) = self.in_segment(count, |segment, files, config| {
                Ok((segment.largest(files, config)?, segment.touched_ms))
            })?;
            let newest = largest.map_or(touched, |largest| largest.timestamp);
            if now_ms.saturating_sub(newest) <= retention_ms {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Segments from the oldest on without which the log is still as large as it may be.
    fn count_too_much(&self, high_watermark: Offset) -> usize {
        let Some(retention_bytes) = self.config.retention_bytes else { return 0 };
        let mut excess = self.size_bytes().saturating_sub(retention_bytes);
        let mut count = 0;
        while let Some(segment) = self.segments.get(count) {
            let size = u64::from(segment.size());
            if size > excess || !self.may_go(count, high_watermark) {
                break;
            }
            excess -= size;
            count += 1;
        }
        count
    }

    /// Whether a segment has records and all of them are below the high watermark.
    fn may_go(&self, at: usize, high_watermark: Offset) -> bool {
        let empty = self.segments.get(at).is_none_or(|segment| segment.size() == 0);
        !empty && (self.end_of(at) <= high_watermark || planted(Bug::DeletesInvisible))
    }

    fn end_of(&self, at: usize) -> Offset {
        self.segments.get(at + 1).map_or(self.end, Segment::base)
    }

    fn remove_oldest(&mut self, count: usize) -> Result<Expired, ReadError> {
        if count == 0 {
            return Ok(Expired::default());
        }
        if count >= self.segments.len() {
            self.roll(self.end)?;
        }
        // The start rises first: nothing is asked for in a segment that is half removed.
        let start = self.segments.get(count).map_or(self.end, Segment::base);
        self.raise_start(start);
        let mut expired = Expired::default();
        for _ in 0..count {
            let segment = self.segments.remove(0);
            expired.segments += 1;
            expired.bytes += u64::from(segment.size());
            segment.remove(&self.files).map_err(|source| self.failure(source))?;
        }
        let first = self.segments.first().map_or(self.start, Segment::base);
        self.remove_snapshots(|at| at < first).map_err(|source| self.failure(source))?;
        self.note_names_changed();
        Ok(expired)
    }

    fn raise_start(&mut self, offset: Offset) {
        if offset <= self.start {
            return;
        }
        self.start = offset;
        self.epochs.delete_before(offset);
        // What is gone needs no sync. The recovery point stays: the batches may still be in the file, not durable.
        self.synced = self.synced.max(offset);
    }
}
