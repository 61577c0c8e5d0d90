//! Snapshots in files: written in chunks, under their name only when whole and durable, read in chunks.
//!
//! ```text
//! file   = header engine chunk* end
//! header = magic "QRSN" version:u16 zero:u16 file:[16] log:[16] index:u64 epoch:u64 chain:[16] bytes:u64
//!          engine_length:u32 crc:u32                                   the checksum covers header and engine
//! chunk  = length:u32 crc:u32 data                                     1 to 1 MiB
//! end    = 0:u32 crc:u32                                               covers the length of all chunks
//! ```
//! `engine` is the backend's own part: who the voters were at the snapshot. Checksums cover the file's random identity
//! and the position, as in the log.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{
    consensus::{Chain, LogId, SNAPSHOT_CHUNK_BYTES, SnapshotMeta},
    ids::{Epoch, LogIndex},
    runtime::{Disk, DiskFile, Open, Runtime},
};
use thiserror::Error;

pub use read::SnapshotFile;
pub use write::{SnapshotWriter, Staged};

use crate::{
    codec::{Put, Take, crc32c},
    disk::{create_folder, on_a_thread, remove_unfinished},
    log::Point,
};

const MAGIC: [u8; 4] = *b"QRSN";
const VERSION: u16 = 1;
const HEADER: usize = 88;
/// The backend's own part names a few voters; more than this is damage.
const ENGINE_CAP: usize = 1 << 20;

/// Why a snapshot could not be written or read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SnapshotFileError {
    /// The disk failed.
    #[error("{0}")]
    Storage(String),
    /// The disk is full; nothing was changed.
    #[error("{0}")]
    Full(String),
    /// What is on the disk was damaged after it was written.
    #[error("{0}")]
    Damaged(String),
    /// The file belongs to another log or to a newer program.
    #[error("{0}")]
    Foreign(String),
    /// The stream that was to be kept is not what it says it is.
    #[error("{0}")]
    Malformed(String),
}

/// The snapshots of one node: the newest one, and one more while it is being written.
pub struct Snapshots {
    folder: PathBuf,
    log: LogId,
    runtime: Runtime,
    newest: Mutex<Option<Arc<SnapshotFile>>>,
    attempts: Mutex<u64>,
}

impl Snapshots {
    /// Opens a folder of snapshots, made if it is missing, and clears away what a crash left unfinished.
    ///
    /// # Errors
    /// The disk failed, the newest snapshot is damaged, or it belongs to another log.
    pub fn open(folder: PathBuf, log: LogId, runtime: &Runtime) -> Result<Self, SnapshotFileError> {
        let disk = &runtime.disk;
        create_folder(disk, &folder).map_err(|error| storage("make", &folder, &error))?;
        remove_unfinished(disk, &folder).map_err(|error| storage("clean", &folder, &error))?;
        let names = disk.list(&folder).map_err(|error| storage("list", &folder, &error))?;
        let newest = names.iter().rev().find(|name| name.ends_with(".snapshot"));
        let newest = newest.map(|name| SnapshotFile::open(disk, &folder.join(name), log)).transpose()?;
        let snapshots = Self {
            folder,
            log,
            runtime: runtime.clone(),
            newest: Mutex::new(newest.map(Arc::new)),
            attempts: Mutex::new(0),
        };
        snapshots.remove_older()?;
        Ok(snapshots)
    }

    /// The newest durable snapshot.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<SnapshotFile>> {
        self.newest.lock().clone()
    }

    /// Begins to write a snapshot, aside. It is forgotten unless it is finished and published.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn begin(&self, meta: SnapshotMeta, engine: Bytes) -> Result<SnapshotWriter, SnapshotFileError> {
        let attempt = {
            let mut attempts = self.attempts.lock();
            *attempts += 1;
            *attempts
        };
        let aside = self.folder.join(format!("{attempt:06}.new"));
        let file_id = *self.runtime.rng.uuid().as_bytes();
        let head = Head { file: file_id, log: self.log, meta, engine };
        SnapshotWriter::create(self.runtime.disk.clone(), aside, head)
    }

    /// Makes a finished snapshot durable and the newest, if it is newer than the one that is. Older ones go.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn publish(&self, staged: Staged) -> Result<Arc<SnapshotFile>, SnapshotFileError> {
        if let Some(newest) = self.newest().filter(|newest| newest.meta().index >= staged.meta().index) {
            return Ok(newest);
        }
        let meta = staged.meta();
        let path = self.folder.join(format!("{:020}-{:020}.snapshot", meta.index.0, meta.epoch.0));
        let stopping = || SnapshotFileError::Storage("the node is stopping".to_owned());
        let publishing = staged.publish(path.clone());
        on_a_thread(&self.runtime.tasks, "consensus-snapshot", publishing).await.ok_or_else(stopping)??;
        let file = Arc::new(SnapshotFile::open(&self.runtime.disk, &path, self.log)?);
        *self.newest.lock() = Some(file.clone());
        self.remove_older()?;
        Ok(file)
    }

    /// A reader that has an older one open goes on reading it.
    fn remove_older(&self) -> Result<(), SnapshotFileError> {
        let Some(newest) = self.newest() else { return Ok(()) };
        let disk = &self.runtime.disk;
        let names = disk.list(&self.folder).map_err(|error| storage("list", &self.folder, &error))?;
        for path in names.iter().filter(|name| name.ends_with(".snapshot")).map(|name| self.folder.join(name))
        {
            if path != newest.path() {
                disk.remove_file(&path).map_err(|error| storage("remove", &path, &error))?;
            }
        }
        Ok(())
    }
}

/// The beginning of a snapshot's file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    file: [u8; 16],
    log: LogId,
    meta: SnapshotMeta,
    engine: Bytes,
}

impl Head {
    fn encode(&self) -> Option<Vec<u8>> {
        let length = u32::try_from(self.engine.len()).ok().filter(|_| self.engine.len() <= ENGINE_CAP)?;
        let mut out = Vec::with_capacity(HEADER + self.engine.len());
        out.bytes(&MAGIC);
        out.u16(VERSION);
        out.u16(0);
        out.bytes(&self.file);
        out.bytes(&self.log.0);
        out.u64(self.meta.index.0);
        out.u64(self.meta.epoch.0);
        out.bytes(&self.meta.chain.0);
        out.u64(self.meta.bytes);
        out.u32(length);
        let crc = crc32c(&[&out, &self.engine]);
        out.u32(crc);
        out.bytes(&self.engine);
        Some(out)
    }

    /// The fixed part, the length of the engine's part, and the checksum.
    fn decode(fixed: &[u8]) -> Result<(Self, usize, u32), Option<u16>> {
        let mut take = Take(fixed);
        if take.array() != Some(MAGIC) {
            return Err(None);
        }
        match take.u16() {
            Some(VERSION) => {}
            other => return Err(other),
        }
        Self::decode_fields(&mut take).ok_or(None)
    }

    fn decode_fields(take: &mut Take<'_>) -> Option<(Self, usize, u32)> {
        let _zero = take.u16()?;
        let file = take.array()?;
        let log = LogId(take.array()?);
        let meta = SnapshotMeta {
            index: LogIndex(take.u64()?),
            epoch: Epoch(take.u64()?),
            chain: Chain(take.array()?),
            bytes: take.u64()?,
        };
        let engine_length = usize::try_from(take.u32()?).ok().filter(|length| *length <= ENGINE_CAP)?;
        let crc = take.u32()?;
        Some((Self { file, log, meta, engine: Bytes::new() }, engine_length, crc))
    }
}

fn chunk_crc(file: &[u8; 16], position: u64, data: &[u8]) -> u32 {
    crc32c(&[file, &position.to_le_bytes(), data])
}

/// Where a snapshot stands in the log.
#[must_use]
pub fn point(meta: &SnapshotMeta) -> Point {
    Point { index: meta.index, epoch: meta.epoch, chain: meta.chain }
}

fn storage(what: &str, path: &Path, error: &io::Error) -> SnapshotFileError {
    let sentence = format!("cannot {what} {}: {error}", path.display());
    if crate::disk::is_full(error) {
        SnapshotFileError::Full(sentence)
    } else {
        SnapshotFileError::Storage(sentence)
    }
}

fn open_for_reading(disk: &Arc<dyn Disk>, path: &Path) -> Result<Arc<dyn DiskFile>, SnapshotFileError> {
    disk.open(path, Open::Read).map_err(|error| storage("open", path, &error))
}
