//! Making a log durable: what is to be synced is taken out under the lock, synced without it, and noted under it again.

use std::{
    io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use smallvec::SmallVec;

use super::{
    epochs::EPOCH_FILE,
    log::{DiskFailure, Log, WalkFailure},
    names::Kind,
    segment::{Segment, Unsynced},
    walk::SCAN_BYTES,
};
use crate::{
    ids::Offset,
    planted::{Bug, planted},
    runtime::{Disk, DiskFile, Open},
};

/// How much a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncDepth {
    /// The batches: the synced end rises.
    Batches,
    /// Batches, indexes and epochs: the recovery point rises with the synced end. A few more syncs; once in a while.
    Everything,
}

/// What must be synced for a log to be durable up to [`SyncJob::end`].
///
/// [`SyncJob::run`] takes no lock and may take long. Give the job back to [`Log::finish_sync`] when it went well. When
/// it failed, what was written may be lost although a later sync says otherwise: end the process.
#[must_use = "a sync that is not run makes nothing durable"]
pub struct SyncJob {
    generation: u64,
    write: u64,
    end: Offset,
    depth: SyncDepth,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    files: SmallVec<[Arc<dyn DiskFile>; 2]>,
    epochs: Option<Epochs>,
    names: bool,
}

/// The epochs that a job writes, and its number among those that do.
struct Epochs {
    text: String,
    number: u64,
    written: Arc<tokio::sync::Mutex<u64>>,
}

impl SyncJob {
    /// The end of the log that the job covers.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Syncs. On a real disk it blocks the thread that polls it.
    ///
    /// # Errors
    /// The disk failed, and nothing can be said of what was written since the last sync: never try again.
    pub async fn run(&self) -> Result<(), DiskFailure> {
        self.sync().await.map_err(|source| DiskFailure { path: self.dir.clone(), source })
    }

    async fn sync(&self) -> io::Result<()> {
        for file in &self.files {
            let synced = file.sync().await;
            if !planted(Bug::IgnoresFailedSyncs) {
                synced.map_err(in_doubt)?;
            }
        }
        if let Some(epochs) = &self.epochs {
            self.write_epochs(epochs).await?;
        }
        if self.names || self.epochs.is_some() {
            self.disk.sync_dir(&self.dir).map_err(in_doubt)?;
        }
        Ok(())
    }

    async fn write_epochs(&self, epochs: &Epochs) -> io::Result<()> {
        let mut written = epochs.written.lock().await;
        if *written > epochs.number {
            return Ok(());
        }
        let (path, temporary) = (self.dir.join(EPOCH_FILE), self.dir.join(format!("{EPOCH_FILE}.tmp")));
        self.write_synced(&temporary, epochs.text.as_bytes()).await?;
        self.disk.rename(&temporary, &path)?;
        *written = epochs.number;
        Ok(())
    }

    async fn write_synced(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let file = self.disk.open(path, Open::Write)?;
        file.set_len(0)?;
        file.write_at(&mut [IoSlice::new(content)], 0)?;
        file.sync().await.map_err(in_doubt)
    }
}

/// A sync that finds no space has lost what it was to keep, unlike a write.
fn in_doubt(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::StorageFull { io::Error::other(error) } else { error }
}

impl std::fmt::Debug for SyncJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncJob").field("dir", &self.dir).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Log {
    /// Whether there is something to sync.
    #[must_use]
    pub fn needs_sync(&self, depth: SyncDepth) -> bool {
        match depth {
            SyncDepth::Batches => self.synced < self.end || self.segments.iter().any(has_unsynced_batches),
            SyncDepth::Everything => self.recovery_point < self.end || self.needs_sync(SyncDepth::Batches),
        }
    }

    /// What to sync now; `None` if there is nothing. Jobs may overlap: each covers everything that no finished one does.
    ///
    /// # Errors
    /// A file that is to be synced cannot be opened, or an index not be written.
    pub fn begin_sync(&mut self, depth: SyncDepth) -> Result<Option<SyncJob>, DiskFailure> {
        if self.unusable.is_some() || !self.needs_sync(depth) {
            return Ok(None);
        }
        let mut files = SmallVec::new();
        let everything = depth == SyncDepth::Everything;
        for at in 0..self.segments.len() {
            self.collect(at, everything, &mut files)?;
        }
        self.epoch_jobs += u64::from(everything);
        let epochs = everything.then(|| Epochs {
            text: self.epochs.encode(),
            number: self.epoch_jobs,
            written: self.epochs_written.clone(),
        });
        Ok(Some(SyncJob {
            generation: self.generation,
            write: self.write,
            end: self.end,
            depth,
            dir: self.files.dir.clone(),
            disk: self.files.disk.clone(),
            files,
            epochs,
            names: self.names_write != 0,
        }))
    }

    /// Adds the files of a segment that are not durable.
    fn collect(
        &mut self,
        at: usize,
        everything: bool,
        into: &mut SmallVec<[Arc<dyn DiskFile>; 2]>,
    ) -> Result<(), DiskFailure> {
        let collected = self.in_segment(at, |segment, files, config| {
            let base = segment.base();
            if let Some(unsynced) = &segment.unsynced {
                into.push(unsynced.file.clone().map_or_else(|| segment.file(files), Ok)?);
            }
            if !everything || segment.indexes_write == 0 || !segment.is_created() {
                return Ok(());
            }
            segment.write_indexes(files, config, false)?;
            for kind in [Kind::Index, Kind::TimeIndex] {
                into.push(files.open(base, kind)?);
            }
            Ok(())
        });
        collected.map_err(|failure| match failure {
            WalkFailure::Disk(failure) => failure,
            WalkFailure::Damaged(damage) => self.failure(io::Error::other(damage)),
        })
    }

    /// Notes that a job has run well; returns the synced end. A job that a truncation has overtaken changes nothing.
    #[expect(clippy::needless_pass_by_value, reason = "a job is finished once")]
    pub fn finish_sync(&mut self, job: SyncJob) -> Offset {
        if job.generation != self.generation {
            return self.synced;
        }
        let everything = job.depth == SyncDepth::Everything;
        for segment in &mut self.segments {
            if segment.unsynced.as_ref().is_some_and(|unsynced| unsynced.write <= job.write) {
                segment.unsynced = None;
            }
            if everything && segment.indexes_write <= job.write {
                segment.indexes_write = 0;
            }
        }
        if self.names_write <= job.write {
            self.names_write = 0;
        }
        self.synced = self.synced.max(job.end);
        if everything {
            self.recovery_point = self.recovery_point.max(job.end);
            self.bytes_since_deep_sync = 0;
        }
        self.validate();
        self.synced
    }

    /// Writes the segments from one on once more, each byte as it is, so that the next sync has something to write.
    pub(super) fn rewrite_from(&self, at: usize) -> io::Result<()> {
        let mut buffer = vec![0; SCAN_BYTES];
        for segment in self.segments.iter().skip(at).filter(|segment| segment.is_created()) {
            let file = segment.file(&self.files)?;
            let mut position = 0;
            while position < u64::from(segment.size()) {
                let read = file.read_at(&mut buffer, position)?;
                let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
                file.write_at(&mut [IoSlice::new(bytes)], position)?;
                position += read as u64;
            }
        }
        Ok(())
    }

    /// Marks everything from a segment on as not durable, as recovery must for what it found past the recovery point.
    pub(super) fn mark_unsynced_from(&mut self, at: usize) {
        self.write += 1;
        self.names_write = self.write;
        for segment in self.segments.iter_mut().skip(at).filter(|segment| segment.is_created()) {
            segment.unsynced = Some(Unsynced { write: self.write, file: None });
            segment.indexes_write = self.write;
        }
    }
}

fn has_unsynced_batches(segment: &Segment) -> bool {
    segment.unsynced.is_some()
}
