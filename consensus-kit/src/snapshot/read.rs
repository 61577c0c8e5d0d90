//! Reading a snapshot.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use quorate_core::{
    consensus::{LogId, Snapshot, SnapshotError, SnapshotMeta},
    runtime::{Disk, DiskFile},
};

use super::{HEADER, Head, SNAPSHOT_CHUNK_BYTES, SnapshotFileError, chunk_crc, open_for_reading, storage};
use crate::codec::{Take, crc32c};

/// A durable snapshot, open for reading.
pub struct SnapshotFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    head: Head,
}

impl SnapshotFile {
    pub(super) fn open(disk: &Arc<dyn Disk>, path: &Path, log: LogId) -> Result<Self, SnapshotFileError> {
        let file = open_for_reading(disk, path)?;
        let mut fixed = [0; HEADER];
        file.read_at(&mut fixed, 0).map_err(|error| storage("read", path, &error))?;
        let (mut head, engine_length, crc) = Head::decode(&fixed).map_err(|version| match version {
            Some(version) => SnapshotFileError::Foreign(format!(
                "{} was written in version {version} of the format; use a newer program",
                path.display()
            )),
            None => damaged(path, 0),
        })?;
        let mut engine = vec![0; engine_length];
        file.read_at(&mut engine, HEADER as u64).map_err(|error| storage("read", path, &error))?;
        let covered = fixed.get(..HEADER - 4).unwrap_or_default();
        if crc != crc32c(&[covered, &engine]) {
            return Err(damaged(path, 0));
        }
        if head.log != log {
            return Err(SnapshotFileError::Foreign(format!(
                "{} belongs to the log {}, not to {log}; use the folder of this cluster",
                path.display(),
                head.log
            )));
        }
        head.engine = Bytes::from(engine);
        Ok(Self { path: path.to_owned(), file, head })
    }

    /// What it stands for.
    #[must_use]
    pub fn meta(&self) -> SnapshotMeta {
        self.head.meta
    }

    /// The backend's own part.
    #[must_use]
    pub fn engine(&self) -> &Bytes {
        &self.head.engine
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The chunks, one after the other. Ends after an error, and well only if every byte was right.
    #[must_use]
    pub fn chunks(self: Arc<Self>) -> BoxStream<'static, Result<Bytes, SnapshotError>> {
        let start = Some((HEADER as u64 + self.head.engine.len() as u64, 0_u64));
        Box::pin(stream::unfold((self, start), |(file, state)| async move {
            let (position, read) = state?;
            match file.chunk(position, read) {
                Ok(Some(chunk)) => {
                    let length = chunk.len() as u64;
                    Some((Ok(chunk), (file, Some((position + 8 + length, read + length)))))
                }
                Ok(None) => None,
                Err(error) => Some((Err(SnapshotError(error.to_string())), (file, None))),
            }
        }))
    }

    /// As the port hands it out.
    #[must_use]
    pub fn snapshot(self: Arc<Self>) -> Snapshot {
        Snapshot { meta: self.meta(), chunks: self.chunks() }
    }

    /// The chunk at a position, of which `read` bytes went before; `None` at the end.
    fn chunk(&self, position: u64, read: u64) -> Result<Option<Bytes>, SnapshotFileError> {
        let wrong = || damaged(&self.path, position);
        let mut frame = [0; 8];
        self.read(&mut frame, position)?;
        let mut take = Take(&frame);
        let (length, crc) = (take.u32().ok_or_else(wrong)?, take.u32().ok_or_else(wrong)?);
        if length == 0 {
            let total = chunk_crc(&self.head.file, position, &read.to_le_bytes());
            let whole = total == crc && read == self.head.meta.bytes;
            return if whole { Ok(None) } else { Err(wrong()) };
        }
        let length = usize::try_from(length).ok().filter(|length| *length <= SNAPSHOT_CHUNK_BYTES);
        let mut data = vec![0; length.ok_or_else(wrong)?];
        self.read(&mut data, position + 8)?;
        if crc != chunk_crc(&self.head.file, position, &data) {
            return Err(wrong());
        }
        Ok(Some(Bytes::from(data)))
    }

    fn read(&self, buffer: &mut [u8], position: u64) -> Result<(), SnapshotFileError> {
        let read =
            self.file.read_at(buffer, position).map_err(|error| storage("read", &self.path, &error))?;
        if read == buffer.len() { Ok(()) } else { Err(damaged(&self.path, position)) }
    }
}

fn damaged(path: &Path, position: u64) -> SnapshotFileError {
    SnapshotFileError::Damaged(format!(
        "{} is damaged at offset {position}; replace the disk, empty the data directory, \
         and remove and add this voter",
        path.display()
    ))
}
