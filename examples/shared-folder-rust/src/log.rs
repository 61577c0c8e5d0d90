//! The file `log`: a header, then one record an entry. A record is whole or it is the torn end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use quorate_core::consensus::{Chain, Epoch, LogId, LogIndex};

use crate::files::{Fields, crc, replace, seal, unseal};

const NAME: &str = "log";
const MAGIC: &[u8; 8] = b"QSFLOG_1";
const HEADER: usize = 64;
/// Length, CRC, index, epoch.
const RECORD: usize = 24;
/// The largest entry, in bytes.
pub(crate) const ENTRY_BYTES: usize = 1 << 20;

/// A place in the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) index: LogIndex,
    pub(crate) epoch: Epoch,
    pub(crate) chain: Chain,
}

/// Where an entry lies in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    offset: u64,
    length: usize,
    pub(crate) point: Point,
}

/// The log as far as this process has read it.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    file: Arc<File>,
    inode: u64,
    pub(crate) id: LogId,
    /// What comes before the first entry of the file.
    before: Point,
    places: Vec<Place>,
    /// Where the next record goes.
    end: u64,
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the file 'log' is damaged: {what}"))
}

impl Log {
    /// Opens the log; `None` where there is none.
    pub(crate) fn open(folder: &Path) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(folder.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(|_| damaged("its header is cut off"))?;
        let record = unseal(&header).and_then(|record| record.strip_prefix(MAGIC));
        let (id, before) = record.and_then(parse_header).ok_or_else(|| damaged("its header"))?;
        let inode = file.metadata()?.ino();
        let end = HEADER as u64;
        let mut log = Self { file: Arc::new(file), inode, id, before, places: Vec::new(), end };
        log.refresh()?;
        Ok(Some(log))
    }

    /// Begins a log that has nothing after `before`, durably.
    pub(crate) fn create(folder: &Path, id: LogId, before: Point, records: &[u8]) -> io::Result<()> {
        let mut header = MAGIC.to_vec();
        header.extend(id.0);
        header.extend(before.index.0.to_le_bytes());
        header.extend(before.epoch.0.to_le_bytes());
        header.extend(before.chain.0);
        let mut content = seal(header);
        content.extend(records);
        replace(folder, NAME, &content)
    }

    /// Whether a compaction has put another file in its place.
    pub(crate) fn is_replaced(&self, folder: &Path) -> io::Result<bool> {
        Ok(std::fs::metadata(folder.join(NAME))?.ino() != self.inode)
    }

    /// Reads what others have appended, cuts a torn end, and syncs what is new. Needs the lock: nobody writes.
    pub(crate) fn refresh(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        if size == self.end {
            return Ok(());
        }
        let mut unread = Vec::new();
        let mut file = self.file.as_ref();
        file.seek(SeekFrom::Start(self.end))?;
        file.read_to_end(&mut unread)?;
        let mut at = 0;
        while let Some((epoch, data)) =
            unread.get(at..).and_then(|rest| parse(rest, self.last().index.next()))
        {
            self.push(epoch, data);
            at += RECORD + data.len();
        }
        if let Some(rest) = unread.get(at..).filter(|rest| !rest.is_empty()) {
            // A writer that died leaves the beginning of a record; whatever is followed by a whole one is damage.
            let next = self.last().index.0;
            let follows = |rest: &[u8]| {
                let index =
                    rest.get(8..16).and_then(|index| index.first_chunk()).map(|i| u64::from_le_bytes(*i));
                index.is_some_and(|index| index > next && parse(rest, LogIndex(index)).is_some())
            };
            if (1..rest.len()).any(|skipped| rest.get(skipped..).is_some_and(follows)) {
                return Err(damaged(format!("the entry after {next}")));
            }
            self.file.set_len(self.end)?;
        }
        // Whoever wrote it may have died before it was synced.
        self.sync()
    }

    /// A sync that has failed is never tried again: what it was to keep may be gone, also where there is space now.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| io::Error::other(format!("a sync failed: {error}")))
    }

    /// Appends entries of `epoch` and syncs them.
    pub(crate) fn append(&mut self, epoch: Epoch, entries: &[Bytes]) -> io::Result<()> {
        let mut records = Vec::new();
        for (index, data) in (self.last().index.next().0..).zip(entries) {
            records.extend(record(LogIndex(index), epoch, data));
        }
        if let Err(error) = self.file.write_all_at(&records, self.end) {
            // Nothing of it may be found by the next transaction.
            self.file.set_len(self.end)?;
            return Err(error);
        }
        self.sync()?;
        entries.iter().for_each(|data| self.push(epoch, data));
        Ok(())
    }

    /// Replaces the file by one that begins after `index`, which must be in it.
    pub(crate) fn forget(&self, folder: &Path, index: LogIndex) -> io::Result<()> {
        let Some(before) = self.point(index) else { return Ok(()) };
        let from = self.place(index.next()).map_or(self.end, |place| place.offset - RECORD as u64);
        let mut records = vec![0; usize::try_from(self.end - from).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut records, from)?;
        Self::create(folder, self.id, before, &records)
    }

    /// The last entry.
    pub(crate) fn last(&self) -> Point {
        self.places.last().map_or(self.before, |place| place.point)
    }

    /// The index of the first entry.
    pub(crate) fn first(&self) -> LogIndex {
        self.before.index.next()
    }

    /// The history at an index of the file, or just before it.
    pub(crate) fn point(&self, index: LogIndex) -> Option<Point> {
        if index == self.before.index {
            Some(self.before)
        } else {
            self.place(index).map(|place| place.point)
        }
    }

    /// Where an entry lies.
    pub(crate) fn place(&self, index: LogIndex) -> Option<Place> {
        let at = index.0.checked_sub(self.first().0)?;
        self.places.get(usize::try_from(at).ok()?).copied()
    }

    /// The file, for those who read entries without holding anything up.
    pub(crate) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    fn push(&mut self, epoch: Epoch, data: &[u8]) {
        let last = self.last();
        let point = Point { index: last.index.next(), epoch, chain: last.chain.link(epoch, data) };
        self.places.push(Place { offset: self.end + RECORD as u64, length: data.len(), point });
        self.end += (RECORD + data.len()) as u64;
    }
}

impl Place {
    /// Reads the entry.
    pub(crate) fn read(&self, file: &File) -> io::Result<Bytes> {
        let mut data = vec![0; self.length];
        file.read_exact_at(&mut data, self.offset)?;
        Ok(data.into())
    }
}

fn parse_header(record: &[u8]) -> Option<(LogId, Point)> {
    let mut fields = Fields(record);
    let id = LogId(fields.take()?);
    let (index, epoch) = (LogIndex(fields.number()?), Epoch(fields.number()?));
    Some((id, Point { index, epoch, chain: Chain(fields.take()?) }))
}

fn record(index: LogIndex, epoch: Epoch, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes();
    let (index, epoch) = (index.0.to_le_bytes(), epoch.0.to_le_bytes());
    let sum = crc(&[&length, &index, &epoch, data]).to_le_bytes();
    [&length[..], &sum, &index, &epoch, data].concat()
}

/// The entry at the front, if there is a whole one with this index.
fn parse(rest: &[u8], wanted: LogIndex) -> Option<(Epoch, &[u8])> {
    let mut fields = Fields(rest);
    let length = fields.take::<4>()?;
    let sum = u32::from_le_bytes(fields.take()?);
    let (index, epoch) = (fields.take::<8>()?, fields.take::<8>()?);
    let bytes = usize::try_from(u32::from_le_bytes(length)).ok().filter(|bytes| *bytes <= ENTRY_BYTES)?;
    let data = fields.0.get(..bytes)?;
    let right = u64::from_le_bytes(index) == wanted.0 && crc(&[&length, &index, &epoch, data]) == sum;
    right.then_some((Epoch(u64::from_le_bytes(epoch)), data))
}
