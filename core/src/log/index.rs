//! The two sparse indexes of a segment, in Kafka's formats.
//!
//! `.index`: 8 bytes an entry, `last offset of a batch − base: i32`, `position of that batch: i32`.
//! `.timeindex`: 12 bytes an entry, `largest timestamp so far: i64`, `last offset of its batch − base: i32`.
//!
//! Kafka maps a file of `segment.index.bytes` while the segment is active; ours has only its entries, so that a
//! reader of the file sees a valid index at any time.

use std::io;

use super::{files::Files, names::Kind, table::Table};
use crate::ids::Offset;

const OFFSET_ENTRY: usize = 8;
const TIME_ENTRY: usize = 12;

/// A batch that the offset index knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OffsetEntry {
    /// The batch's last offset, from the segment's base.
    pub(super) offset: u32,
    /// Where the batch begins in the file.
    pub(super) position: u32,
}

impl OffsetEntry {
    fn encode(self) -> [u8; OFFSET_ENTRY] {
        (u64::from(self.offset) << 32 | u64::from(self.position)).to_be_bytes()
    }

    fn decode(bytes: [u8; OFFSET_ENTRY]) -> Self {
        let both = u64::from_be_bytes(bytes);
        Self { offset: (both >> 32) as u32, position: (both & u64::from(u32::MAX)) as u32 }
    }
}

/// A largest timestamp that the time index knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeEntry {
    /// The largest timestamp up to the batch, in ms.
    pub(super) timestamp: i64,
    /// The last offset of the batch that has it, from the segment's base.
    pub(super) offset: u32,
}

impl TimeEntry {
    fn encode(self) -> [u8; TIME_ENTRY] {
        let both = (self.timestamp as u128) << 32 | u128::from(self.offset);
        let mut bytes = [0; TIME_ENTRY];
        let all = both.to_be_bytes();
        bytes.copy_from_slice(all.last_chunk::<TIME_ENTRY>().unwrap_or(&[0; TIME_ENTRY]));
        bytes
    }

    fn decode(bytes: [u8; TIME_ENTRY]) -> Self {
        let mut all = [0; 16];
        all.iter_mut().skip(16 - TIME_ENTRY).zip(bytes).for_each(|(to, from)| *to = from);
        let both = u128::from_be_bytes(all);
        Self { timestamp: (both >> 32) as u64 as i64, offset: both as u32 }
    }
}

/// Both indexes of one segment.
#[derive(Debug)]
pub(super) struct Indexes {
    base: Offset,
    offsets: Table<OFFSET_ENTRY>,
    times: Table<TIME_ENTRY>,
    /// The last entry of the time index; `None` until it has been looked at.
    last_time: Option<TimeEntry>,
}

impl Indexes {
    /// Empty indexes of a new segment. The files are made with [`Indexes::create`].
    pub(super) fn empty(base: Offset) -> Self {
        let (offsets, times) = (Table::new(Kind::Index, 0), Table::new(Kind::TimeIndex, 0));
        Self { base, offsets, times, last_time: None }
    }

    /// Makes both files, empty.
    pub(super) fn create(base: Offset, files: &Files) -> io::Result<Self> {
        files.create(base, Kind::Index)?;
        files.create(base, Kind::TimeIndex)?;
        Ok(Self::empty(base))
    }

    /// Makes both files anew, where there may have been some that the recovery point vouched for. Until
    /// [`Indexes::finish_rebuild`] the file of offsets is empty, durably: that is how a start after a power cut sees that
    /// neither is to be trusted.
    pub(super) fn begin_rebuild(base: Offset, files: &Files) -> io::Result<Self> {
        files.create(base, Kind::Index)?.sync_now()?;
        files.create(base, Kind::TimeIndex)?;
        let mut indexes = Self::empty(base);
        indexes.offsets.hold();
        Ok(indexes)
    }

    /// Makes what was built durable: the times before the offsets.
    pub(super) fn finish_rebuild(&mut self, files: &Files) -> io::Result<()> {
        self.times.write(files, self.base)?;
        files.open(self.base, Kind::TimeIndex)?.sync_now()?;
        self.offsets.release();
        self.offsets.write(files, self.base)?;
        files.open(self.base, Kind::Index)?.sync_now()
    }

    /// The indexes as the files have them, whatever that is; `None` if one is missing.
    pub(super) fn open_any(base: Offset, files: &Files) -> io::Result<Option<Self>> {
        let Some((offsets, _)) = entries(files, base, Kind::Index, OFFSET_ENTRY)? else { return Ok(None) };
        let Some((times, _)) = entries(files, base, Kind::TimeIndex, TIME_ENTRY)? else { return Ok(None) };
        let (offsets, times) = (Table::new(Kind::Index, offsets), Table::new(Kind::TimeIndex, times));
        Ok(Some(Self { base, offsets, times, last_time: None }))
    }

    /// The indexes as the files have them; `None` if one is missing or cannot be one: a length that is no multiple, a
    /// last entry out of the segment's bounds. That is Kafka's sanity check; an index without entries for more than
    /// `interval_bytes` is built anew besides, since it would make every look-up read the segment.
    pub(super) fn open(
        base: Offset,
        files: &Files,
        log_bytes: u32,
        interval_bytes: u32,
    ) -> io::Result<Option<Self>> {
        let Some(found) = Self::open_any(base, files)? else { return Ok(None) };
        let is_whole = |kind, entry| {
            Ok::<_, io::Error>(entries(files, base, kind, entry)?.is_some_and(|(_, rest)| rest == 0))
        };
        if !is_whole(Kind::Index, OFFSET_ENTRY)? || !is_whole(Kind::TimeIndex, TIME_ENTRY)? {
            return Ok(None);
        }
        let last = found.offsets.last(files, base)?.map(OffsetEntry::decode);
        let sane = match last {
            Some(last) => last.position < log_bytes && last.offset <= i32::MAX as u32,
            None => log_bytes <= interval_bytes,
        };
        Ok(sane.then_some(found))
    }

    /// Whether an index of at most `bytes` has no place for another entry.
    pub(super) fn is_full(&self, bytes: u32) -> bool {
        // One place is left for the entry that the roll writes.
        let fits = |entry: usize| (bytes as usize / entry).saturating_sub(1);
        self.offsets.len() as usize >= fits(OFFSET_ENTRY) || self.times.len() as usize >= fits(TIME_ENTRY)
    }

    /// Drops what does not stand for batches before `limit` (from the base) in a file of `log_bytes`: entries past the
    /// recovery point, and what a power cut has left of unsynced writes behind those that were durable.
    pub(super) fn keep_durable(&mut self, files: &Files, limit: u32, log_bytes: u32) -> io::Result<()> {
        self.offsets.keep_while(files, self.base, |before, entry| {
            let entry = OffsetEntry::decode(*entry);
            let before =
                before.map_or(OffsetEntry { offset: 0, position: 0 }, |before| OffsetEntry::decode(*before));
            let grows =
                entry.position > before.position && (entry.offset > before.offset || before.position == 0);
            grows && entry.offset < limit && entry.position < log_bytes
        })?;
        self.times.keep_while(files, self.base, |before, entry| {
            let entry = TimeEntry::decode(*entry);
            let grows = before
                .map(|before| TimeEntry::decode(*before))
                .is_none_or(|before| entry.timestamp > before.timestamp && entry.offset > before.offset);
            grows && entry.timestamp >= 0 && entry.offset < limit
        })?;
        self.last_time = None;
        Ok(())
    }

    pub(super) fn last_offset(&self, files: &Files) -> io::Result<Option<OffsetEntry>> {
        Ok(self.offsets.last(files, self.base)?.map(OffsetEntry::decode))
    }

    pub(super) fn drop_last_offset(&mut self, files: &Files) -> io::Result<()> {
        self.offsets.truncate(files, self.base, self.offsets.len().saturating_sub(1))
    }

    pub(super) fn drop_last_time(&mut self, files: &Files) -> io::Result<()> {
        self.last_time = None;
        self.times.truncate(files, self.base, self.times.len().saturating_sub(1))
    }

    /// How many entries there are of offsets and of times.
    pub(super) fn lens(&self) -> (u32, u32) {
        (self.offsets.len(), self.times.len())
    }

    pub(super) fn push_offset(&mut self, files: &Files, entry: OffsetEntry) -> io::Result<()> {
        self.offsets.push(files, self.base, entry.encode())
    }

    /// Adds a timestamp, if it is larger than the last.
    pub(super) fn push_time(&mut self, files: &Files, entry: TimeEntry) -> io::Result<()> {
        let last = self.last_time(files)?;
        if last.is_some_and(|last| entry.timestamp <= last.timestamp) || entry.timestamp < 0 {
            return Ok(());
        }
        self.last_time = Some(entry);
        self.times.push(files, self.base, entry.encode())
    }

    /// The largest timestamp that the time index knows.
    pub(super) fn last_time(&mut self, files: &Files) -> io::Result<Option<TimeEntry>> {
        if self.last_time.is_none() && self.times.len() > 0 {
            self.last_time = self.times.last(files, self.base)?.map(TimeEntry::decode);
        }
        Ok(self.last_time)
    }

    /// Writes both files up to now.
    pub(super) fn write(&mut self, files: &Files) -> io::Result<()> {
        self.offsets.write(files, self.base)?;
        self.times.write(files, self.base)
    }

    /// A position from which a scan forward finds `offset` (from the base): that of the last indexed batch that ends
    /// at or before it, or 0.
    pub(super) fn position_before(&self, files: &Files, offset: u32) -> io::Result<u32> {
        let count = self
            .offsets
            .count_while(files, self.base, |entry| OffsetEntry::decode(*entry).offset <= offset)?;
        match count.checked_sub(1) {
            Some(at) => Ok(self.offset_entry(files, at)?.map_or(0, |entry| entry.position)),
            None => Ok(0),
        }
    }

    /// An offset (from the base) from which a scan forward finds the first batch with a timestamp of at least
    /// `timestamp`.
    pub(super) fn offset_before_time(&self, files: &Files, timestamp: i64) -> io::Result<u32> {
        let count = self
            .times
            .count_while(files, self.base, |entry| TimeEntry::decode(*entry).timestamp < timestamp)?;
        match count.checked_sub(1) {
            Some(at) => {
                Ok(self.times.get(files, self.base, at)?.map_or(0, |entry| TimeEntry::decode(entry).offset))
            }
            None => Ok(0),
        }
    }

    pub(super) fn offset_entry(&self, files: &Files, at: u32) -> io::Result<Option<OffsetEntry>> {
        Ok(self.offsets.get(files, self.base, at)?.map(OffsetEntry::decode))
    }

    #[cfg(test)]
    pub(super) fn time_entry(&self, files: &Files, at: u32) -> io::Result<Option<TimeEntry>> {
        Ok(self.times.get(files, self.base, at)?.map(TimeEntry::decode))
    }

    /// Keeps what stands for batches that begin before `position` and end before `end` (from the base).
    pub(super) fn truncate(&mut self, files: &Files, position: u32, end: u32) -> io::Result<()> {
        let offsets = self.offsets.count_while(files, self.base, |entry| {
            let entry = OffsetEntry::decode(*entry);
            entry.position < position && entry.offset < end
        })?;
        self.offsets.truncate(files, self.base, offsets)?;
        let times =
            self.times.count_while(files, self.base, |entry| TimeEntry::decode(*entry).offset < end)?;
        self.times.truncate(files, self.base, times)?;
        self.last_time = None;
        Ok(())
    }
}

/// How many entries a file has, and the bytes behind them; `None` if there is no such file, or no such many.
fn entries(files: &Files, base: Offset, kind: Kind, entry: usize) -> io::Result<Option<(u32, u64)>> {
    let file = match files.open(base, kind) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (len, entry) = (file.len()?, entry as u64);
    Ok(u32::try_from(len / entry).ok().map(|count| (count, len % entry)))
}
