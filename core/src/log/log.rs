//! [`Log`] itself: what it knows, and what can be asked without touching a file.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use super::{
    config::LogConfig,
    epochs::{EpochCache, EpochEnd},
    files::Files,
    handles::Handles,
    health::DiskHealth,
    recent::Recent,
    segment::Segment,
    walk::WalkError,
};
use crate::{
    ids::{LeaderEpoch, Offset},
    runtime::{Clock, Disk},
};

/// What every log of a node shares.
#[derive(Clone)]
pub struct LogParts {
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The open files.
    pub handles: Arc<Handles>,
    /// The wall clock, for segments whose records have no timestamps.
    pub clock: Clock,
    /// What the logs of one directory find out about its disk.
    pub health: Arc<DiskHealth>,
}

/// The disk failed.
#[derive(Debug, Error)]
#[error("{}: {source}", path.display())]
pub struct DiskFailure {
    /// The partition's folder, or the file.
    pub path: PathBuf,
    /// As the system says.
    pub source: io::Error,
}

/// A batch that cannot be read and should be there. Nothing from here on is served or changed until the log is cut here
/// by [`Log::discard_damage`] and filled again from another replica.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}: byte {position}, offset {offset}: {reason}", file.display())]
pub struct Damage {
    /// The segment's file.
    pub file: PathBuf,
    /// Where in the file.
    pub position: u32,
    /// The first offset that is not to be had.
    pub offset: Offset,
    /// What is wrong there.
    pub reason: String,
}

/// Why a log does nothing any more.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unusable {
    /// A batch is broken.
    #[error("the log is damaged: {0}")]
    Damaged(Damage),
    /// The disk failed half-way through a change, so that files and memory may differ until the log is opened again.
    #[error("the disk failed before: {0}")]
    Failed(String),
}

/// The log of one partition. See the module for the picture.
pub struct Log {
    pub(super) files: Files,
    pub(super) config: LogConfig,
    pub(super) clock: Clock,
    /// Oldest first; never empty. The last one is active.
    pub(super) segments: Vec<Segment>,
    pub(super) start: Offset,
    pub(super) end: Offset,
    pub(super) synced: Offset,
    /// Durable with its indexes and epochs up to here: what may be kept as the recovery point.
    pub(super) recovery_point: Offset,
    /// The largest recovery point that the checkpoint file may hold.
    pub(super) kept_recovery_point: Offset,
    /// Whether the folder has a marker that lowers the recovery point.
    pub(super) marked: bool,
    pub(super) epochs: EpochCache,
    /// Grows with every truncation; a job of an older one has nothing to say.
    pub(super) generation: u64,
    /// Grows with every write.
    pub(super) write: u64,
    /// The last write that changed the names in the folder and is not durable; 0 if there is none.
    pub(super) names_write: u64,
    /// Whether an append is being written elsewhere.
    pub(super) appending: bool,
    pub(super) unusable: Option<Unusable>,
    pub(super) health: Arc<DiskHealth>,
    /// How many jobs have been begun that write the epochs.
    pub(super) epoch_jobs: u64,
    /// The newest of them that has written: jobs overlap, write one after the other, and never older over newer.
    pub(super) epochs_written: Arc<tokio::sync::Mutex<u64>>,
    /// Bytes that were appended since the recovery point was raised.
    pub(super) bytes_since_deep_sync: u64,
    pub(super) recent: Recent,
}

impl Log {
    /// The partition's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.files.dir
    }

    /// The first offset that can be read.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.start
    }

    /// The offset of the next record.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.end
    }

    /// Everything below survives a power cut. Falls only with a truncation.
    #[must_use]
    pub fn synced_end(&self) -> Offset {
        self.synced
    }

    /// Durable with its indexes and epochs up to here: what the next start may trust.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        self.recovery_point
    }

    /// The epochs of its batches.
    #[must_use]
    pub fn epochs(&self) -> &EpochCache {
        &self.epochs
    }

    /// The epoch of its last batch, or of the leadership that has begun since.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.latest().map(|entry| entry.epoch)
    }

    /// Where an epoch ends in this log, see [`EpochCache::end_of`].
    #[must_use]
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.epochs.end_of(epoch, self.end)
    }

    /// Notes that a leadership begins at the end of the log. The leader does so before its first append.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        if self.epochs.assign(epoch, self.end) {
            self.write += 1;
        }
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Takes other settings, which hold from the next append and retention on.
    pub fn reconfigure(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// Bytes of all batches.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.size())).sum()
    }

    /// Segments, the active one included.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Why it does nothing any more, if that is so.
    #[must_use]
    pub fn unusable(&self) -> Option<&Unusable> {
        self.unusable.as_ref()
    }

    /// The segment that holds `offset`, or the one before the gap that it lies in; the first for an earlier one.
    pub(super) fn segment_of(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base() <= offset).saturating_sub(1)
    }

    /// The active segment with what is needed to work on it. A log has at least one segment.
    pub(super) fn active(&mut self) -> (&mut Segment, &Files, &LogConfig) {
        if self.segments.is_empty() {
            self.segments.push(Segment::empty(self.end, self.clock.wall_ms()));
        }
        let last = self.segments.len() - 1;
        match self.segments.get_mut(last) {
            Some(segment) => (segment, &self.files, &self.config),
            None => unreachable!("a segment was pushed above"),
        }
    }

    /// What is known of the disk under it.
    #[must_use]
    pub fn health(&self) -> &DiskHealth {
        &self.health
    }

    /// Bytes that were appended since the last sync of everything: what a restart would have to read at most.
    #[must_use]
    pub fn bytes_since_deep_sync(&self) -> u64 {
        self.bytes_since_deep_sync
    }

    pub(super) fn failure(&self, source: io::Error) -> DiskFailure {
        self.health.note(&self.files.dir, &source);
        DiskFailure { path: self.files.dir.clone(), source }
    }

    /// Remembers that the disk failed half-way, and says so.
    pub(super) fn fail(&mut self, source: io::Error) -> DiskFailure {
        self.unusable.get_or_insert(Unusable::Failed(source.to_string()));
        self.failure(source)
    }

    /// What a walk that broke off in a segment means for the log.
    pub(super) fn broken(&mut self, at: usize, error: WalkError) -> WalkFailure {
        let (position, reason) = match error {
            WalkError::Io(source) => return WalkFailure::Disk(self.failure(source)),
            WalkError::Broken { position, reason } => (position, reason.to_string()),
        };
        let base = self.segments.get(at).map_or(self.start, Segment::base);
        let file = self.files.path(base, super::names::Kind::Log);
        let offset = self.offset_at(at, position);
        let damage = Damage { file, position, offset, reason };
        tracing::error!("a record log is damaged and its partition is no longer served: {damage}");
        self.unusable = Some(Unusable::Damaged(damage.clone()));
        WalkFailure::Damaged(damage)
    }

    /// The offset that should be found at a position: that after the batch before it.
    fn offset_at(&self, at: usize, position: u32) -> Offset {
        let Some(segment) = self.segments.get(at) else { return self.start };
        let mut offset = segment.base();
        let Ok(file) = segment.file(&self.files) else { return offset };
        let mut walk = super::walk::Walk::new(&*file, 0, segment.size(), super::walk::SCAN_BYTES);
        while let Ok(Some((found, header))) = walk.next() {
            if found >= position {
                break;
            }
            offset = header.next_offset();
        }
        offset
    }
}

/// [`WalkError`], told of a log.
#[derive(Debug, Error)]
pub(super) enum WalkFailure {
    #[error(transparent)]
    Disk(DiskFailure),
    #[error(transparent)]
    Damaged(Damage),
}

impl Drop for Log {
    /// Closes what is at rest, so that a removed partition holds no descriptor.
    fn drop(&mut self) {
        for segment in &self.segments {
            segment.close(&self.files);
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.files.dir)
            .field("start", &self.start)
            .field("synced", &self.synced)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
