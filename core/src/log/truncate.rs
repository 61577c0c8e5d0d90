//! Cutting a log: the end that a leader does not have, or everything.

use std::io;

use thiserror::Error;

use super::{
    log::{DiskFailure, Log, Unusable, WalkFailure},
    names::{Kind, parse_file_name},
    segment::Segment,
};
use crate::{
    ids::Offset,
    runtime::{read_file, replace_file},
};

/// The file that lowers the recovery point where the checkpoint of the log directory still has a larger one. Without
/// it a restart would take what was appended after a truncation for durable, and its torn tail for damage.
pub(super) const MARKER: &str = "recovery-point-lowered";

/// The largest marker that is read, in bytes.
const MARKER_BYTES_MAX: u64 = 64;

/// Why nothing was cut.
#[derive(Debug, Error)]
pub enum TruncateError {
    /// An append is being written: finish it first.
    #[error("an append to this log is under way")]
    Busy,
    /// The log is out of service.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The disk failed; the log is out of service.
    #[error(transparent)]
    Disk(#[from] DiskFailure),
}

impl From<WalkFailure> for TruncateError {
    fn from(failure: WalkFailure) -> Self {
        match failure {
            WalkFailure::Disk(failure) => Self::Disk(failure),
            WalkFailure::Damaged(damage) => Self::Unusable(Unusable::Damaged(damage)),
        }
    }
}

impl Log {
    /// Cuts the log so that it ends at `end`, or before it where `end` lies inside of a batch or of a gap: a batch is
    /// kept whole or not at all. Of a log that ends there or earlier, only the epochs that begin there or later go. Durable when it returns. Returns the
    /// new end.
    ///
    /// # Errors
    /// [`TruncateError`].
    pub fn truncate_to(&mut self, end: Offset) -> Result<Offset, TruncateError> {
        self.check_usable()?;
        if self.appending {
            return Err(TruncateError::Busy);
        }
        if end >= self.end {
            // A leadership that has begun here and written nothing is cut all the same.
            if self.epochs.truncate_to(end) {
                self.write += 1;
            }
            return Ok(self.end);
        }
        if self.segments.first().is_none_or(|first| end < first.base()) {
            self.truncate_fully_and_start_at(end)?;
            return Ok(self.end);
        }
        let at = self.segment_of(end);
        let found = self.in_segment(at, |segment, files, config| segment.locate(files, config, end))?;
        let size = self.segments.get(at).map_or(0, Segment::size);
        let position = found.map_or(size, |found| found.position);
        // In a gap that compaction left, the log ends with the batch before it, as a restart would find.
        let end =
            self.in_segment(at, |segment, files, config| segment.end_before(files, config, position, end))?;
        self.cut(at, position, end)?;
        Ok(self.end)
    }

    /// Removes everything and begins anew at `start`. Durable when it returns.
    ///
    /// # Errors
    /// [`TruncateError`].
    pub fn truncate_fully_and_start_at(&mut self, start: Offset) -> Result<(), TruncateError> {
        self.check_usable()?;
        if self.appending {
            return Err(TruncateError::Busy);
        }
        self.start_over(start).map_err(|source| self.fail(source))?;
        Ok(())
    }

    /// Cuts a damaged log where it is damaged, so that it can be filled from another replica. Returns the new end.
    /// Nothing else removes a broken batch; without another replica the records behind it are lost by this.
    ///
    /// # Errors
    /// [`TruncateError::Disk`].
    pub fn discard_damage(&mut self) -> Result<Offset, TruncateError> {
        let Some(Unusable::Damaged(damage)) = self.unusable.clone() else { return Ok(self.end) };
        let at = self
            .segments
            .iter()
            .position(|segment| self.files.path(segment.base(), Kind::Log) == damage.file);
        let at = at.ok_or_else(|| self.failure(io::ErrorKind::NotFound.into()))?;
        self.unusable = None;
        self.appending = false;
        self.remove_unknown_segments().map_err(|source| self.fail(source))?;
        self.cut(at, damage.position, damage.offset.min(self.end))?;
        Ok(self.end)
    }

    /// Makes segment `at` end at `position`, which is offset `end`, and removes those after it.
    pub(super) fn cut(&mut self, at: usize, position: u32, end: Offset) -> Result<(), DiskFailure> {
        self.cut_files(at, position, end).map_err(|source| self.fail(source))
    }

    fn cut_files(&mut self, at: usize, position: u32, end: Offset) -> io::Result<()> {
        self.lower_recovery_point(end)?;
        // From the newest on: a crash in between leaves a log that is only longer.
        self.remove_segments_from(at + 1)?;
        self.remove_snapshots(|at| at > end)?;
        if let Some(segment) = self.segments.get_mut(at).filter(|segment| segment.is_created()) {
            let file = segment.file(&self.files)?;
            file.set_len(u64::from(position))?;
            file.sync_now()?;
            segment
                .forget_from(&self.files, &self.config, position, end)
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
        self.files.disk.sync_dir(&self.files.dir)?;
        self.note_cut(end);
        if let Some(segment) = self.segments.get_mut(at) {
            segment.indexes_write = self.write;
        }
        Ok(())
    }

    fn start_over(&mut self, start: Offset) -> io::Result<()> {
        self.lower_recovery_point(self.start.min(start))?;
        self.remove_segments_from(0)?;
        self.remove_snapshots(|_| true)?;
        let mut first = Segment::empty(start, self.clock.wall_ms());
        // The name of the file is all that says where the log begins.
        first.create(&self.files)?;
        self.segments.push(first);
        self.files.disk.sync_dir(&self.files.dir)?;
        self.epochs.truncate_to(Offset(0));
        self.note_cut(start);
        self.start = start;
        self.end = start;
        self.synced = start;
        self.recovery_point = start;
        Ok(())
    }

    /// Removes the segments that recovery left in the folder behind a damaged one.
    fn remove_unknown_segments(&mut self) -> io::Result<()> {
        let last = self.segments.last().map_or(self.end, Segment::base);
        let names = self.files.disk.list(&self.files.dir)?;
        for (base, kind) in names.iter().rev().filter_map(|name| parse_file_name(name)) {
            if base > last {
                self.files.remove(base, kind)?;
            }
        }
        Ok(())
    }

    /// Removes the snapshots of producers for which `stale` holds.
    pub(super) fn remove_snapshots(&self, stale: impl Fn(Offset) -> bool) -> io::Result<()> {
        let names = self.files.disk.list(&self.files.dir)?;
        let snapshots = names.iter().filter_map(|name| parse_file_name(name));
        let mut stale = snapshots.filter(|(at, kind)| *kind == Kind::Snapshot && stale(*at));
        stale.try_for_each(|(at, kind)| self.files.remove(at, kind))
    }

    fn remove_segments_from(&mut self, at: usize) -> io::Result<()> {
        while self.segments.len() > at {
            let Some(segment) = self.segments.pop() else { break };
            segment.remove(&self.files)?;
        }
        Ok(())
    }

    /// Follows a cut in memory.
    fn note_cut(&mut self, end: Offset) {
        self.generation += 1;
        self.write += 1;
        self.end = end;
        self.start = self.start.min(end);
        self.synced = self.synced.min(end);
        self.recovery_point = self.recovery_point.min(end);
        self.epochs.truncate_to(end);
        self.recent.clear();
    }

    /// Writes the marker if a restart would otherwise take more than `end` for durable.
    fn lower_recovery_point(&mut self, end: Offset) -> io::Result<()> {
        if self.kept_recovery_point <= end {
            return Ok(());
        }
        let lowest = match self.marked {
            true => read_marker(self).unwrap_or(end).min(end),
            false => end,
        };
        replace_file(&*self.files.disk, &self.files.dir.join(MARKER), format!("0\n{lowest}\n").as_bytes())?;
        self.marked = true;
        Ok(())
    }

    /// The recovery point to write into the checkpoint of the log directory. From now on the log expects that the file
    /// may hold it, until [`Log::note_kept_recovery_point`] says what it does hold.
    pub fn recovery_point_to_keep(&mut self) -> Offset {
        self.kept_recovery_point = self.kept_recovery_point.max(self.recovery_point);
        self.recovery_point
    }

    /// Says that the checkpoint of the log directory now has `kept` as this log's recovery point, durably, and nothing
    /// larger. Tell it after every write of the checkpoint, so that a marker that lowers it can go.
    ///
    /// # Errors
    /// The marker could not be removed.
    pub fn note_kept_recovery_point(&mut self, kept: Offset) -> Result<(), DiskFailure> {
        self.kept_recovery_point = kept;
        if self.marked && kept <= self.recovery_point {
            let removed = self.files.disk.remove_file(&self.files.dir.join(MARKER));
            removed.map_err(|source| self.failure(source))?;
            self.marked = false;
        }
        Ok(())
    }
}

/// The recovery point in the marker; `None` if there is none that can be read.
fn read_marker(log: &Log) -> Option<Offset> {
    parse_marker(&read_file(&*log.files.disk, &log.files.dir.join(MARKER), MARKER_BYTES_MAX).ok()?)
}

pub(super) fn parse_marker(content: &[u8]) -> Option<Offset> {
    let text = std::str::from_utf8(content).ok()?;
    let offset: i64 = text.strip_prefix("0\n")?.strip_suffix('\n')?.parse().ok()?;
    (offset >= 0).then_some(Offset(offset))
}
