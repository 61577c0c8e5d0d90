//! Reads the segments of a folder back into a [`View`].

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use quorate_core::{
    ids::LogIndex,
    runtime::{Disk, Open},
};

use super::{
    LogConfig, LogError, Point, Vote,
    format::{BATCH_MAGIC, FileId, HEADER, Header, Placed, Record, Unreadable, batch_at, decode_batch},
    mark,
    view::{Segment, Slot, View},
};
use crate::disk::{read_whole, remove_unfinished};

/// No segment is larger; a longer file is damage. (A segment ends at `segment_bytes` plus one batch.)
const SEGMENT_CAP: u64 = 1 << 30;

/// What a folder holds.
pub(super) struct Recovered {
    pub(super) view: View,
    pub(super) next_batch: u64,
    pub(super) next_sequence: u64,
    /// Files of before the last restart.
    pub(super) obsolete: Vec<PathBuf>,
    /// The log must begin anew at this snapshot: its installation was interrupted.
    pub(super) restart: Option<Point>,
}

impl Recovered {
    /// Voids everything that was recovered in favour of a snapshot.
    pub(super) fn begin_anew(&mut self, vote: Vote, snapshot: Point) {
        self.view.restart(snapshot, vote);
        let void = std::mem::take(&mut self.view.segments);
        self.obsolete.extend(void.values().map(|segment| segment.path.clone()));
    }
}

struct Found {
    segment: Segment,
    header: Header,
    contents: Vec<u8>,
}

/// Reads everything. `acknowledged` is what the mark says.
pub(super) fn recover(
    config: &LogConfig,
    disk: &Arc<dyn Disk>,
    acknowledged: u64,
) -> Result<Recovered, LogError> {
    let folder = &config.folder;
    remove_unfinished(disk, folder).map_err(|error| storage("clean", folder, &error))?;
    let mut found = read_segments(config, disk)?;
    let begin = found.iter().rposition(|one| one.header.restart).unwrap_or(0);
    let obsolete = found.drain(..begin).map(|one| one.segment.path).collect();
    let next_sequence = found.last().map_or(Some(1), |one| one.segment.sequence.checked_add(1));
    let Some(first) = found.first() else {
        return fresh(config, acknowledged);
    };
    let mut replay = Replay::new(&first.header);
    let mut segments = found.into_iter().peekable();
    while let Some(one) = segments.next() {
        let end = segments.peek().map(|next| next.header.first_batch);
        replay.segment(one, end, acknowledged)?;
    }
    let restart = replay.reconcile(config)?;
    Ok(Recovered {
        view: replay.view,
        next_batch: replay.next_batch,
        next_sequence: next_sequence.ok_or_else(|| damaged(folder, 0, "segment numbers have run out"))?,
        obsolete,
        restart,
    })
}

fn fresh(config: &LogConfig, acknowledged: u64) -> Result<Recovered, LogError> {
    if config.must_exist || acknowledged > 0 {
        return Err(LogError::Damaged(format!(
            "the consensus log in {} is gone, and with it this voter's votes; \
             empty the whole data directory, and remove and add this voter",
            config.folder.display()
        )));
    }
    let view = View::new(Point::start(config.log), Vote::default());
    let restart = config.snapshot;
    Ok(Recovered { view, next_batch: 1, next_sequence: 1, obsolete: Vec::new(), restart })
}

/// The segments of a folder, in order, headers checked.
fn read_segments(config: &LogConfig, disk: &Arc<dyn Disk>) -> Result<Vec<Found>, LogError> {
    let folder = &config.folder;
    let mut found = Vec::new();
    for name in disk.list(folder).map_err(|error| storage("list", folder, &error))? {
        if name == mark::NAME {
            continue;
        }
        let path = folder.join(&name);
        let Some(sequence) = name.strip_suffix(".log").and_then(|number| number.parse().ok()) else {
            return Err(LogError::Foreign(format!("{} is no file of the log; move it away", path.display())));
        };
        let file = disk.open(&path, Open::Read).map_err(|error| storage("open", &path, &error))?;
        let contents = read_whole(&*file, SEGMENT_CAP).map_err(|error| storage("read", &path, &error))?;
        let header = Header::decode(&contents).map_err(|reason| unreadable(&path, reason))?;
        if header.log != config.log {
            return Err(LogError::Foreign(format!(
                "{} belongs to the log {}, not to {}; use the folder of this cluster",
                path.display(),
                header.log,
                config.log
            )));
        }
        found.push(Found { segment: Segment { sequence, path, id: header.file, file }, header, contents });
    }
    Ok(found)
}

struct Replay {
    view: View,
    next_batch: u64,
    /// The chain at the view's base is known. Not so where the oldest segment begins with an entry that replaced one
    /// of a segment that is gone.
    base_known: bool,
}

impl Replay {
    fn new(first: &Header) -> Self {
        Self { view: View::new(first.last, first.vote), next_batch: first.first_batch, base_known: true }
    }

    /// Replays one segment, up to the batch `end` with which the next one begins.
    fn segment(&mut self, found: Found, end: Option<u64>, acknowledged: u64) -> Result<(), LogError> {
        let Found { segment, header, contents } = found;
        let segment = Arc::new(segment);
        if header.first_batch != self.next_batch {
            return Err(damaged(&segment.path, 0, "a segment before it is missing, or it is another's"));
        }
        self.view.vote = header.vote;
        let mut at = HEADER;
        while end.is_none_or(|end| self.next_batch < end) {
            let rest = contents.get(at..).unwrap_or_default();
            match decode_batch(segment.id, at as u64, rest) {
                Some((number, length, records)) if number == self.next_batch => {
                    self.batch(&segment, records)
                        .map_err(|reason| damaged(&segment.path, at as u64, &reason))?;
                    self.next_batch += 1;
                    at += length;
                }
                _ => {
                    let torn = end.is_none() && self.is_torn(segment.id, at, &contents, acknowledged);
                    if !torn {
                        return Err(lost(&segment.path, at as u64, self.next_batch));
                    }
                    break;
                }
            }
        }
        self.view.segments.insert(segment.sequence, segment);
        Ok(())
    }

    /// Whether the end of the log from `at` on was never acknowledged: the mark does not know the batch, and no later
    /// batch follows, which could only have been written after this one was acknowledged.
    fn is_torn(&self, file: FileId, at: usize, contents: &[u8], acknowledged: u64) -> bool {
        let later = |from: usize| {
            let rest = contents.get(from..).unwrap_or_default();
            rest.starts_with(&BATCH_MAGIC)
                && batch_at(file, from as u64, rest).is_some_and(|(number, ..)| number > self.next_batch)
        };
        acknowledged < self.next_batch && !(at..contents.len()).any(later)
    }

    fn batch(&mut self, segment: &Arc<Segment>, records: Vec<Placed>) -> Result<(), String> {
        for (record, position, length) in records {
            match record {
                Record::Vote(vote) => self.view.vote = vote,
                Record::Truncate(after) => self.view.truncate_after(after),
                Record::Entry(entry, chain) => {
                    let before = entry.index.0.checked_sub(1).map(LogIndex);
                    let before = before.ok_or("an entry has the index 0")?;
                    if self.view.is_empty() && before < self.view.base.index {
                        self.view.base = Point { index: before, ..Point::default() };
                        self.base_known = false;
                    }
                    let known = self.base_known || before > self.view.base.index;
                    let previous = self.view.point(before).ok_or("entries are missing")?;
                    if known && previous.chain.link(entry.epoch, entry.published()) != chain {
                        return Err(format!("entry {} does not continue the history", entry.index));
                    }
                    let segment = segment.clone();
                    let slot = Slot { segment, position, length, epoch: entry.epoch, chain };
                    if !self.view.put(entry.index, slot) {
                        return Err(format!("entries before {} are missing", entry.index));
                    }
                }
            }
        }
        Ok(())
    }

    /// Holds the log against the newest snapshot. Returns the snapshot if the log must begin anew behind it.
    fn reconcile(&mut self, config: &LogConfig) -> Result<Option<Point>, LogError> {
        let (base, last) = (self.view.base, self.view.last());
        let gap = || {
            LogError::Damaged(format!(
                "the log in {} begins after entry {}, and no snapshot stands for what was before; \
                 empty the data directory, and remove and add this voter",
                config.folder.display(),
                base.index
            ))
        };
        let Some(snapshot) = config.snapshot else {
            return if base.index.0 == 0 { Ok(None) } else { Err(gap()) };
        };
        if snapshot.index < base.index {
            return Err(gap());
        }
        if snapshot.index > last.index {
            return Ok(Some(snapshot));
        }
        let known = self.base_known || snapshot.index > base.index;
        if known && self.view.point(snapshot.index) != Some(snapshot) {
            if snapshot.index > self.view.vote.commit {
                return Ok(Some(snapshot));
            }
            return Err(LogError::Damaged(format!(
                "the log in {} and its snapshot differ at entry {}; \
                 empty the data directory, and remove and add this voter",
                config.folder.display(),
                snapshot.index
            )));
        }
        if !self.base_known {
            self.view.begin_after(snapshot);
        }
        Ok(None)
    }
}

fn unreadable(path: &Path, reason: Unreadable) -> LogError {
    match reason {
        Unreadable::Damaged => damaged(path, 0, "its header is damaged"),
        Unreadable::Version(version) => LogError::Foreign(format!(
            "{} was written in version {version} of the format, which this program does not know; \
             use a newer one",
            path.display()
        )),
    }
}

fn lost(path: &Path, at: u64, batch: u64) -> LogError {
    damaged(path, at, &format!("batch {batch} was acknowledged and is missing or wrong"))
}

fn damaged(path: &Path, at: u64, reason: &str) -> LogError {
    LogError::Damaged(format!(
        "{} is damaged at offset {at}: {reason}. Nothing was changed. Cutting the file there would forget \
         acknowledged entries and votes: replace the disk, empty the data directory, and remove and add this voter",
        path.display()
    ))
}

pub(super) fn storage(what: &str, path: &Path, error: &io::Error) -> LogError {
    LogError::Storage(format!("cannot {what} {}: {error}", path.display()))
}
