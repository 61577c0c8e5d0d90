//! The file `snapshot`: a header, the state, the state's CRC.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures_util::{StreamExt as _, stream};
use quorate_core::consensus::{
    Chain, Epoch, LogId, LogIndex, SNAPSHOT_CHUNK_BYTES, Snapshot, SnapshotError, SnapshotMeta,
};

use crate::files::{Fields, seal, sync_folder, unseal};

const NAME: &str = "snapshot";
const MAGIC: &[u8; 8] = b"QSFSNAP1";
const HEADER: usize = 72;

fn digest() -> Digest {
    Digest::new(CrcAlgorithm::Crc32IsoHdlc)
}

/// A snapshot that is being written, beside the one that holds.
pub(crate) struct Staged {
    pub(crate) meta: SnapshotMeta,
    path: PathBuf,
    file: File,
    sum: Digest,
    left: u64,
}

impl Staged {
    /// Begins one; `name` is nobody else's.
    pub(crate) fn begin(folder: &Path, name: &str, id: LogId, meta: SnapshotMeta) -> io::Result<Self> {
        let path = folder.join(format!("{NAME}.{name}"));
        let mut header = MAGIC.to_vec();
        header.extend(id.0);
        header.extend(meta.index.0.to_le_bytes());
        header.extend(meta.epoch.0.to_le_bytes());
        header.extend(meta.bytes.to_le_bytes());
        header.extend(meta.chain.0);
        let mut file = File::create(&path)?;
        file.write_all(&seal(header))?;
        Ok(Self { meta, path, file, sum: digest(), left: meta.bytes })
    }

    /// Adds a chunk; false if it is more than the head says.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> io::Result<bool> {
        let Some(left) = self.left.checked_sub(chunk.len() as u64) else { return Ok(false) };
        self.left = left;
        self.sum.update(chunk);
        self.file.write_all(chunk)?;
        Ok(true)
    }

    /// Makes it durable under its own name; false if it is less than the head says.
    pub(crate) fn finish(&mut self) -> io::Result<bool> {
        let sum = self.sum.finalize() as u32;
        self.file.write_all(&sum.to_le_bytes())?;
        self.file.sync_all()?;
        Ok(self.left == 0)
    }

    /// Puts it in the place of the one that held before. Needs the lock.
    pub(crate) fn publish(&self, folder: &Path) -> io::Result<()> {
        fs::rename(&self.path, folder.join(NAME))?;
        sync_folder(folder)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After it was published there is nothing of this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// The head of the snapshot that holds, and its file.
pub(crate) fn newest(folder: &Path) -> io::Result<Option<(SnapshotMeta, File)>> {
    let file = match File::open(folder.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let meta = unseal(&header).and_then(|record| record.strip_prefix(MAGIC)).and_then(parse);
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file 'snapshot' is damaged");
    Ok(Some((meta.ok_or_else(damaged)?, file)))
}

fn parse(record: &[u8]) -> Option<SnapshotMeta> {
    let mut fields = Fields(record);
    let _id: [u8; 16] = fields.take()?;
    let (index, epoch) = (LogIndex(fields.number()?), Epoch(fields.number()?));
    let bytes = fields.number()?;
    Some(SnapshotMeta { index, epoch, bytes, chain: Chain(fields.take()?) })
}

/// The snapshot as the port has it: its chunks are read as they are asked for.
pub(crate) fn read(meta: SnapshotMeta, file: File) -> Snapshot {
    let reading = Reading { file, sum: digest(), offset: 0, bytes: meta.bytes };
    let chunks = stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next() {
            Ok(None) => None,
            Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
            Err(error) => Some((Err(SnapshotError(error.to_string())), None)),
        }
    });
    Snapshot { meta, chunks: chunks.boxed() }
}

struct Reading {
    file: File,
    sum: Digest,
    offset: u64,
    bytes: u64,
}

impl Reading {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let left = self.bytes - self.offset;
        if left == 0 {
            return Ok(None);
        }
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(SNAPSHOT_CHUNK_BYTES);
        let mut chunk = vec![0; length];
        self.file.read_exact_at(&mut chunk, HEADER as u64 + self.offset)?;
        self.sum.update(&chunk);
        self.offset += length as u64;
        if self.offset == self.bytes {
            let mut sum = [0; 4];
            self.file.read_exact_at(&mut sum, HEADER as u64 + self.bytes)?;
            if u32::from_le_bytes(sum) != self.sum.finalize() as u32 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the file 'snapshot' is damaged"));
            }
        }
        Ok(Some(chunk.into()))
    }
}
