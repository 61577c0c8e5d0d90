//! Writing a snapshot aside.

use std::{path::PathBuf, sync::Arc};

use quorate_core::{
    consensus::SnapshotMeta,
    runtime::{Disk, DiskFile, Open},
};

use super::{Head, SNAPSHOT_CHUNK_BYTES, SnapshotFileError, chunk_crc, storage};
use crate::{
    codec::{Put, slice},
    disk::parent,
};

/// A snapshot that is being written. Dropping it forgets it.
pub struct SnapshotWriter {
    head: Head,
    aside: Aside,
    position: u64,
    total: u64,
}

/// A file that is removed unless it got its name.
struct Aside {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    named: bool,
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.named {
            // The next start removes it if this does not.
            let _left_for_the_next_start = self.disk.remove_file(&self.path);
        }
    }
}

impl SnapshotWriter {
    pub(super) fn create(disk: Arc<dyn Disk>, path: PathBuf, head: Head) -> Result<Self, SnapshotFileError> {
        let too_large = || SnapshotFileError::Malformed("the backend's part is larger than 1 MiB".to_owned());
        let bytes = head.encode().ok_or_else(too_large)?;
        let file = disk.open(&path, Open::CreateNew).map_err(|error| storage("make", &path, &error))?;
        let aside = Aside { disk, file, path, named: false };
        let mut writer = Self { head, aside, position: 0, total: 0 };
        writer.append(&bytes)?;
        Ok(writer)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        let written = self.aside.file.write_at(&mut slice(bytes), self.position);
        written.map_err(|error| storage("write", &self.aside.path, &error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Appends the next chunk.
    ///
    /// # Errors
    /// The disk failed or is full, or the chunk is larger than a chunk may be, or there is more than was announced.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), SnapshotFileError> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.total = self.total.saturating_add(chunk.len() as u64);
        let length = u32::try_from(chunk.len()).ok().filter(|_| chunk.len() <= SNAPSHOT_CHUNK_BYTES);
        let Some(length) = length.filter(|_| self.total <= self.head.meta.bytes) else {
            return Err(SnapshotFileError::Malformed(format!(
                "a snapshot of {} bytes brought a chunk of {} that ends at {}",
                self.head.meta.bytes,
                chunk.len(),
                self.total
            )));
        };
        let mut frame = Vec::with_capacity(8 + chunk.len());
        frame.u32(length);
        frame.u32(chunk_crc(&self.head.file, self.position, chunk));
        frame.bytes(chunk);
        self.append(&frame)
    }

    /// Ends the snapshot. It is whole, but neither durable nor the newest.
    ///
    /// # Errors
    /// The disk failed or is full, or fewer bytes came than were announced.
    pub fn finish(mut self) -> Result<Staged, SnapshotFileError> {
        if self.total != self.head.meta.bytes {
            return Err(SnapshotFileError::Malformed(format!(
                "a snapshot of {} bytes ended after {}",
                self.head.meta.bytes, self.total
            )));
        }
        let mut end = Vec::with_capacity(8);
        end.u32(0);
        end.u32(chunk_crc(&self.head.file, self.position, &self.total.to_le_bytes()));
        self.append(&end)?;
        Ok(Staged { meta: self.head.meta, aside: self.aside })
    }
}

/// A whole snapshot that waits to be made durable, see [`super::Snapshots::publish`]. Dropping it forgets it.
pub struct Staged {
    meta: SnapshotMeta,
    aside: Aside,
}

impl Staged {
    /// What it stands for.
    #[must_use]
    pub fn meta(&self) -> SnapshotMeta {
        self.meta
    }

    pub(super) async fn publish(mut self, path: PathBuf) -> Result<(), SnapshotFileError> {
        let Aside { disk, file, path: aside, named } = &mut self.aside;
        file.sync().await.map_err(|error| failed_sync(&storage("sync", aside, &error)))?;
        disk.rename(aside, &path).map_err(|error| storage("rename", aside, &error))?;
        *named = true;
        disk.sync_dir(parent(&path))
            .map_err(|error| failed_sync(&storage("sync the folder of", &path, &error)))
    }
}

/// A failed sync is never a mere lack of space.
fn failed_sync(error: &SnapshotFileError) -> SnapshotFileError {
    SnapshotFileError::Storage(error.to_string())
}
