//! A file of entries of one size, sorted: what both indexes are.

use std::{io, io::IoSlice};

use super::{files::Files, names::Kind};
use crate::{ids::Offset, runtime::DiskFile};

/// Entries that are kept in memory before they are written. An index is rebuilt past the recovery point, so it may
/// lag; one write for many entries keeps it off the path of a record.
const PENDING_MAX: usize = 32;

/// Entries that are read at once where all of them are looked at.
const SCAN_BLOCK: u32 = 1024;

/// Entries that are read at once at the end of a search.
const BLOCK: u32 = 128;

/// A sorted file of entries of `N` bytes, its newest entries in memory.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    kind: Kind,
    written: u32,
    pending: Vec<[u8; N]>,
    /// Whether entries stay in memory until [`Table::release`].
    held: bool,
}

impl<const N: usize> Table<N> {
    /// A table of which `written` entries are in the file.
    pub(super) fn new(kind: Kind, written: u32) -> Self {
        Self { kind, written, pending: Vec::new(), held: false }
    }

    /// Keeps what is added in memory until [`Table::release`].
    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    /// Ends [`Table::hold`].
    pub(super) fn release(&mut self) {
        self.held = false;
    }

    /// Entries in all.
    pub(super) fn len(&self) -> u32 {
        self.written.saturating_add(u32::try_from(self.pending.len()).unwrap_or(u32::MAX))
    }

    /// Adds an entry, which must not be smaller than the last.
    pub(super) fn push(&mut self, files: &Files, base: Offset, entry: [u8; N]) -> io::Result<()> {
        self.pending.push(entry);
        if self.held || self.pending.len() < PENDING_MAX {
            return Ok(());
        }
        self.write(files, base)
    }

    /// Writes what is in memory only.
    pub(super) fn write(&mut self, files: &Files, base: Offset) -> io::Result<()> {
        if self.held || self.pending.is_empty() {
            return Ok(());
        }
        let file = files.open(base, self.kind)?;
        file.write_at(&mut [IoSlice::new(self.pending.as_flattened())], self.position(self.written))?;
        self.written = self.len();
        self.pending = Vec::new();
        Ok(())
    }

    /// Keeps the first `count` entries.
    pub(super) fn truncate(&mut self, files: &Files, base: Offset, count: u32) -> io::Result<()> {
        if count >= self.written {
            self.pending.truncate((count - self.written) as usize);
            return Ok(());
        }
        self.pending.clear();
        self.written = count;
        files.open(base, self.kind)?.set_len(self.position(count))
    }

    /// Keeps the entries up to the first for which `holds` is false of the one before it and itself.
    pub(super) fn keep_while(
        &mut self,
        files: &Files,
        base: Offset,
        holds: impl Fn(Option<&[u8; N]>, &[u8; N]) -> bool,
    ) -> io::Result<()> {
        let file = files.open(base, self.kind)?;
        let (mut count, mut before) = (0, None);
        'blocks: while count < self.written {
            let mut block = vec![[0; N]; (self.written - count).min(SCAN_BLOCK) as usize];
            self.read(&*file, block.as_flattened_mut(), count)?;
            for entry in block {
                if !holds(before.as_ref(), &entry) {
                    break 'blocks;
                }
                before = Some(entry);
                count += 1;
            }
        }
        if count == self.written { Ok(()) } else { self.truncate(files, base, count) }
    }

    /// The entry at `at`; `None` past the end.
    pub(super) fn get(&self, files: &Files, base: Offset, at: u32) -> io::Result<Option<[u8; N]>> {
        if at >= self.written {
            return Ok(self.pending.get((at - self.written) as usize).copied());
        }
        let mut entry = [0; N];
        self.read(&*files.open(base, self.kind)?, &mut entry, at)?;
        Ok(Some(entry))
    }

    /// The last entry.
    pub(super) fn last(&self, files: &Files, base: Offset) -> io::Result<Option<[u8; N]>> {
        match self.len().checked_sub(1) {
            Some(at) => self.get(files, base, at),
            None => Ok(None),
        }
    }

    /// How many entries `holds` is true for, where it is true for none after one that it is false for.
    pub(super) fn count_while(
        &self,
        files: &Files,
        base: Offset,
        holds: impl Fn(&[u8; N]) -> bool,
    ) -> io::Result<u32> {
        if self.pending.first().is_some_and(&holds) || self.written == 0 {
            let pending = self.pending.partition_point(&holds);
            return Ok(self.written.saturating_add(u32::try_from(pending).unwrap_or(u32::MAX)));
        }
        let file = files.open(base, self.kind)?;
        let (mut low, mut high) = (0, self.written);
        while high - low > BLOCK {
            let middle = low + (high - low) / 2;
            let mut entry = [0; N];
            self.read(&*file, &mut entry, middle)?;
            if holds(&entry) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut block = vec![[0; N]; (high - low) as usize];
        self.read(&*file, block.as_flattened_mut(), low)?;
        let more = block.partition_point(&holds);
        Ok(low.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)))
    }

    fn read(&self, file: &dyn DiskFile, buffer: &mut [u8], at: u32) -> io::Result<()> {
        if file.read_at(buffer, self.position(at))? == buffer.len() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "an index is shorter than it was"))
    }

    fn position(&self, at: u32) -> u64 {
        u64::from(at) * N as u64
    }
}
