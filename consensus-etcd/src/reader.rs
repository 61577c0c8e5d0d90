//! How a reader goes on from where it stands: the next request, and the check of what it brings.

use quorate_core::consensus::{Chain, LogIndex};

use crate::{
    head::{Head, HistoryLost},
    storage::{
        KeyValue, Range,
        keys::Keys,
        records::{Entry, SnapshotRecord, read_entry},
    },
};

/// Where a reader stands: behind an entry that it has yielded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: LogIndex,
    /// The history at `index`. `None` where the caller named an index alone; the log's own word is taken then.
    pub(crate) chain: Option<Chain>,
}

/// What a reader does next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nothing is new.
    Wait,
    /// Read entries.
    Read(Range),
    /// The next entry is gone; the snapshot stands for it.
    Install(SnapshotRecord),
}

/// What a page of entries brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// The next entries, in order and checked.
    Entries(Vec<Entry>),
    /// The page does not begin where it should: the log has been compacted since the head was read.
    Stale,
}

impl Position {
    /// The next step under `head`; a page has at most `limit` entries.
    pub(crate) fn step(&self, keys: &Keys, head: &Head, limit: i64) -> Result<Step, HistoryLost> {
        if head.tail.index <= self.index {
            return Ok(Step::Wait);
        }
        if self.index.next() >= head.first {
            return Ok(Step::Read(keys.entries(self.index.next(), head.tail.index, limit)));
        }
        match head.snapshot {
            Some(snapshot) if snapshot.index.next() >= head.first && snapshot.index > self.index => {
                Ok(Step::Install(snapshot))
            }
            _ => Err(HistoryLost::Hole {
                root: keys.root(),
                index: self.index.next(),
                first: head.first,
                tail: head.tail.index,
            }),
        }
    }

    /// Checks a page for density and chain, and moves behind it.
    pub(crate) fn accept(
        &mut self,
        keys: &Keys,
        page: &[KeyValue],
        head: &Head,
    ) -> Result<Page, HistoryLost> {
        let root = || keys.root();
        if self.index == LogIndex(0) && self.chain.is_none() {
            self.chain = head.id.map(Chain::start);
        }
        let mut entries = Vec::with_capacity(page.len());
        for kv in page {
            let entry = read_entry(keys, kv)?;
            if entry.index != self.index.next() {
                let (index, first, tail) = (self.index.next(), head.first, head.tail.index);
                // The start of a page may have been compacted away; a hole inside cannot be.
                return match entries.is_empty() {
                    true => Ok(Page::Stale),
                    false => Err(HistoryLost::Hole { root: root(), index, first, tail }),
                };
            }
            if self.chain.is_some_and(|chain| chain.link(entry.epoch, &entry.data) != entry.chain) {
                return Err(HistoryLost::Diverged { root: root(), index: entry.index });
            }
            *self = Self { index: entry.index, chain: Some(entry.chain) };
            entries.push(entry);
        }
        Ok(if entries.is_empty() { Page::Stale } else { Page::Entries(entries) })
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::consensus::{Epoch, LogId};

    use super::*;
    use crate::storage::records::{Tail, write_entry};

    fn log(keys: &Keys, count: u64) -> Vec<KeyValue> {
        let mut chain = Chain::start(LogId([1; 16]));
        let mut entry = |index: u64| {
            chain = chain.link(Epoch(1), &index.to_be_bytes());
            let value = write_entry(Epoch(1), chain, &index.to_be_bytes());
            KeyValue { key: keys.entry(LogIndex(index)), value, modified: 1 }
        };
        (1..=count).map(&mut entry).collect()
    }

    fn head(first: u64, tail: u64) -> Head {
        let tail = Tail { index: LogIndex(tail), ..Tail::default() };
        Head { id: Some(LogId([1; 16])), first: LogIndex(first), tail, ..Head::default() }
    }

    #[test]
    fn a_dense_page_is_accepted_and_a_changed_or_missing_entry_is_not() {
        let keys = Keys::new("/q", 1);
        let log = log(&keys, 5);
        let start = Position { index: LogIndex(0), chain: None };
        let mut position = start;
        let page = position.accept(&keys, &log[..3], &head(1, 5)).unwrap();
        assert!(matches!(page, Page::Entries(entries) if entries.len() == 3));
        assert_eq!(position.index, LogIndex(3));
        assert_eq!(start.clone().accept(&keys, &log[1..], &head(1, 5)), Ok(Page::Stale));
        let holed = [log[0].clone(), log[2].clone()];
        let refused = start.clone().accept(&keys, &holed, &head(1, 5));
        assert!(matches!(refused, Err(HistoryLost::Hole { .. })), "{refused:?}");
        let mut other = Position { index: LogIndex(3), chain: Some(Chain([7; 16])) };
        let refused = other.accept(&keys, &log[3..], &head(1, 5));
        assert!(matches!(refused, Err(HistoryLost::Diverged { index: LogIndex(4), .. })), "{refused:?}");
    }

    #[test]
    fn a_reader_behind_the_kept_log_takes_the_snapshot() {
        let keys = Keys::new("/q", 1);
        let at = |index| Position { index: LogIndex(index), chain: None };
        let mut compacted = head(8, 20);
        assert!(matches!(at(3).step(&keys, &compacted, 10), Err(HistoryLost::Hole { .. })));
        let chain = Chain([1; 16]);
        let snapshot = SnapshotRecord { index: LogIndex(9), epoch: Epoch(1), chain, bytes: 1, chunks: 1 };
        compacted.snapshot = Some(snapshot);
        assert_eq!(at(3).step(&keys, &compacted, 10), Ok(Step::Install(snapshot)));
        assert!(matches!(at(7).step(&keys, &compacted, 10), Ok(Step::Read(_))));
        assert_eq!(at(20).step(&keys, &compacted, 10), Ok(Step::Wait));
    }
}
