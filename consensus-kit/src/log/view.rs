//! What is durable in the log, and where each entry lies.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use quorate_core::{
    consensus::Chain,
    ids::{Epoch, LogIndex},
    runtime::DiskFile,
};

use super::{
    Entry, LogError, Point, Vote,
    format::{FileId, Record, decode_record, record_bytes},
};

/// One segment's file.
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) file: Arc<dyn DiskFile>,
}

/// Where an entry lies.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) segment: Arc<Segment>,
    pub(super) position: u64,
    pub(super) length: u32,
    pub(super) epoch: Epoch,
    pub(super) chain: Chain,
}

impl Slot {
    /// Reads the entry and checks it.
    pub(super) fn read(&self, index: LogIndex) -> Result<Entry, LogError> {
        let path = self.segment.path.display();
        let mut bytes = vec![0; record_bytes(self.length)];
        let read = self.segment.file.read_at(&mut bytes, self.position);
        read.map_err(|error| LogError::Storage(format!("cannot read entry {index} in {path}: {error}")))?;
        match decode_record(self.segment.id, self.position, &bytes) {
            Some(Record::Entry(entry, chain)) if entry.index == index && chain == self.chain => Ok(entry),
            _ => Err(LogError::Damaged(format!(
                "entry {index} in {path} at offset {} was damaged on the disk after it was written; \
                 replace the disk, and remove and add this voter",
                self.position
            ))),
        }
    }
}

/// The durable log.
pub(super) struct View {
    pub(super) base: Point,
    slots: VecDeque<Slot>,
    pub(super) vote: Vote,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
}

impl View {
    pub(super) fn new(base: Point, vote: Vote) -> Self {
        Self { base, slots: VecDeque::new(), vote, segments: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn last(&self) -> Point {
        self.slots.back().map_or(self.base, |slot| Point {
            index: LogIndex(self.base.index.0.saturating_add(self.slots.len() as u64)),
            epoch: slot.epoch,
            chain: slot.chain,
        })
    }

    /// The place of `index` in `slots`.
    fn place(&self, index: LogIndex) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.base.index.0)?.checked_sub(1)?).ok()
    }

    pub(super) fn point(&self, index: LogIndex) -> Option<Point> {
        if index == self.base.index {
            return Some(self.base);
        }
        let slot = self.slots.get(self.place(index)?)?;
        Some(Point { index, epoch: slot.epoch, chain: slot.chain })
    }

    /// Adds an entry at `index`; what was there, and after it, is void. False if that would leave a hole.
    pub(super) fn put(&mut self, index: LogIndex, slot: Slot) -> bool {
        let Some(place) = self.place(index).filter(|place| *place <= self.slots.len()) else { return false };
        self.slots.truncate(place);
        self.slots.push_back(slot);
        true
    }

    /// Makes everything after `index` void.
    pub(super) fn truncate_after(&mut self, index: LogIndex) {
        let kept = index.0.saturating_sub(self.base.index.0);
        self.slots.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }

    /// Begins anew.
    pub(super) fn restart(&mut self, base: Point, vote: Vote) {
        self.base = base;
        self.vote = vote;
        self.slots.clear();
    }

    /// Moves the beginning to a point within.
    pub(super) fn begin_after(&mut self, point: Point) {
        let dropped = point.index.0.saturating_sub(self.base.index.0);
        let dropped = usize::try_from(dropped).unwrap_or(usize::MAX).min(self.slots.len());
        self.slots.drain(..dropped);
        self.base = point;
    }

    /// Lets go of entries up to and with `index`, as far as there are any.
    pub(super) fn forget(&mut self, index: LogIndex) {
        if let Some(point) = self.point(index.min(self.last().index)) {
            self.begin_after(point);
        }
    }

    /// Takes out the oldest segment if it is not the one being written and holds no entry any more.
    pub(super) fn take_empty_segment(&mut self) -> Option<Arc<Segment>> {
        let oldest = self.segments.first_key_value().map(|(sequence, _)| *sequence)?;
        let used = self.slots.front().is_some_and(|slot| slot.segment.sequence <= oldest);
        if used || self.segments.len() < 2 {
            return None;
        }
        self.segments.remove(&oldest)
    }

    pub(super) fn slots(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> Vec<(LogIndex, Slot)> {
        let Some(place) = self.place(from) else { return Vec::new() };
        let mut bytes = 0_u64;
        let mut found = Vec::new();
        for (slot, index) in self.slots.iter().skip(place).zip(from.0..=to.0) {
            bytes = bytes.saturating_add(u64::from(slot.length));
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push((LogIndex(index), slot.clone()));
        }
        found
    }
}
