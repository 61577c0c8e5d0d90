//! Walking over the batches in a segment's file.

use std::io;

use thiserror::Error;

use crate::{
    ids::Offset,
    planted::{Bug, planted},
    protocol::batch::{BatchError, BatchHeader, HEADER_BYTES},
    runtime::DiskFile,
};

/// Bytes that a look-up reads at once: about what one index entry stands for.
pub(super) const LOOKUP_BYTES: usize = 4096;

/// Bytes that recovery and the rebuilding of an index read at once.
pub(super) const SCAN_BYTES: usize = 256 * 1024;

/// Where the checksummed part of a batch begins.
const CHECKED_FROM: u64 = 21;

/// A walk that cannot go on.
#[derive(Debug, Error)]
pub(super) enum WalkError {
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is no batch where one must be.
    #[error("byte {position}: {reason}")]
    Broken { position: u32, reason: BatchError },
}

/// Walks from a position to an end, both of which lie at the border of batches.
pub(super) struct Walk<'a> {
    file: &'a dyn DiskFile,
    position: u32,
    end: u32,
    buffer: Vec<u8>,
    buffer_bytes: usize,
    buffer_at: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, position: u32, end: u32, buffer_bytes: usize) -> Self {
        Self { file, position, end, buffer: Vec::new(), buffer_bytes, buffer_at: 0 }
    }

    /// The next batch and where it begins. `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, BatchHeader)>, WalkError> {
        let position = self.position;
        let Some(left) = self.end.checked_sub(position).filter(|left| *left > 0) else { return Ok(None) };
        let left = left as usize;
        let broken = |reason| WalkError::Broken { position, reason };
        let bytes = self.bytes(u64::from(position), left.min(HEADER_BYTES))?;
        let header = BatchHeader::parse(bytes).map_err(broken)?;
        if header.size_bytes > left {
            return Err(broken(BatchError::Incomplete { have: left, need: header.size_bytes }));
        }
        // No overflow: the batch ends at or before `end`.
        self.position = position.saturating_add(u32::try_from(header.size_bytes).unwrap_or(u32::MAX));
        Ok(Some((position, header)))
    }

    /// Whether a batch's checksum fits its bytes.
    pub(super) fn check(&mut self, position: u32, header: &BatchHeader) -> Result<(), WalkError> {
        let computed = self.checksum(position, header)?;
        if computed == header.crc || planted(Bug::VerifiesNothing) {
            return Ok(());
        }
        Err(WalkError::Broken { position, reason: BatchError::Checksum { stored: header.crc, computed } })
    }

    /// In pieces of the buffer, since the length comes from the disk and may be garbage.
    fn checksum(&mut self, position: u32, header: &BatchHeader) -> io::Result<u32> {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        let mut at = u64::from(position) + CHECKED_FROM;
        let end = u64::from(position) + header.size_bytes as u64;
        while at < end {
            let piece = (end - at).min(self.buffer_bytes as u64) as usize;
            digest.update(self.bytes(at, piece)?);
            at += piece as u64;
        }
        Ok((digest.finalize() & u64::from(u32::MAX)) as u32)
    }

    /// The bytes from `at`, which must be in the file.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let have = self.buffer_at..self.buffer_at + self.buffer.len() as u64;
        if !(have.contains(&at) && at + len as u64 <= have.end) {
            let wanted = u64::from(self.end).saturating_sub(at).min(self.buffer_bytes.max(len) as u64);
            self.buffer.resize(wanted as usize, 0);
            let read = self.file.read_at(&mut self.buffer, at)?;
            self.buffer.truncate(read);
            self.buffer_at = at;
        }
        let start = (at - self.buffer_at) as usize;
        self.buffer
            .get(start..start + len)
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "a segment is shorter than it was"))
    }
}

/// The first whole batch at or after `position`, by its checksum, that may follow `expected`. It may lie anywhere:
/// this looks behind a batch that is broken.
pub(super) fn find_batch(
    file: &dyn DiskFile,
    position: u32,
    end: u32,
    expected: Offset,
) -> io::Result<Option<(u32, BatchHeader)>> {
    let mut window = Vec::new();
    let mut start = position;
    while end.saturating_sub(start) as usize >= HEADER_BYTES {
        let wanted = (end - start).min(SCAN_BYTES as u32) as usize;
        window.resize(wanted, 0);
        let read = file.read_at(&mut window, u64::from(start))?;
        window.truncate(read);
        for (at, header) in window.windows(HEADER_BYTES).enumerate() {
            let Some(header) = plausible(header, expected) else { continue };
            let position = start.saturating_add(at as u32);
            if header.size_bytes > (end - position) as usize {
                continue;
            }
            match Walk::new(file, position, end, LOOKUP_BYTES).check(position, &header) {
                Ok(()) => return Ok(Some((position, header))),
                Err(WalkError::Io(error)) => return Err(error),
                Err(WalkError::Broken { .. }) => {}
            }
        }
        if read < wanted || read < HEADER_BYTES {
            break;
        }
        // The windows overlap, so that a header across their border is seen.
        start = start.saturating_add((read - HEADER_BYTES + 1) as u32);
    }
    Ok(None)
}

/// A header that may be one: most bytes are sorted out by magic and range before a checksum is computed.
fn plausible(bytes: &[u8], expected: Offset) -> Option<BatchHeader> {
    let header = BatchHeader::parse(bytes).ok()?;
    let ahead = header.base_offset.0.checked_sub(expected.0)?;
    (0..i64::from(i32::MAX)).contains(&ahead).then_some(header)
}
