//! The mark: how far the log was acknowledged, kept beside it.
//!
//! A torn last batch and a flipped bit in an acknowledged last batch look alike. The mark tells them apart: it is
//! written after each sync and not synced itself, so that it survives the death of the process and mostly that of the
//! machine, and it never runs ahead of what was acknowledged. A mark that cannot be read says nothing.

use std::{io, path::Path, sync::Arc};

use quorate_core::runtime::{Disk, DiskFile, Open};

use crate::{
    codec::{Put, Take, crc32c, slice},
    disk::is_full,
};

const MAGIC: [u8; 4] = *b"QRAK";
const LENGTH: usize = 16;

/// The file's name in the log's folder.
pub(super) const NAME: &str = "acknowledged";

pub(super) struct Mark(Arc<dyn DiskFile>);

impl Mark {
    /// Opens the mark of a folder; the number is the last batch that it knows to be acknowledged, 0 for none.
    pub(super) fn open(disk: &Arc<dyn Disk>, folder: &Path) -> io::Result<(Self, u64)> {
        let file = disk.open(&folder.join(NAME), Open::Write)?;
        let mut bytes = [0; LENGTH];
        let read = file.read_at(&mut bytes, 0)?;
        let acknowledged = bytes.get(..read).and_then(decode).unwrap_or(0);
        Ok((Self(file), acknowledged))
    }

    /// Notes that batches up to `number` are durable. A full disk is no error: the mark then stays behind.
    pub(super) fn note(&self, number: u64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.bytes(&MAGIC);
        bytes.u64(number);
        let crc = crc32c(&[&bytes]);
        bytes.u32(crc);
        match self.0.write_at(&mut slice(&bytes), 0) {
            Err(error) if is_full(&error) => Ok(()),
            other => other,
        }
    }

    pub(super) async fn sync(&self) -> io::Result<()> {
        self.0.sync().await
    }
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let mut take = Take(bytes);
    (take.array() == Some(MAGIC)).then_some(())?;
    let number = take.u64()?;
    (take.u32()? == crc32c(&[bytes.get(..LENGTH - 4)?])).then_some(number)
}
