//! The kit's log as openraft writes and reads it.
//!
//! openraft writes votes and entries from one task, one after the other, and waits for each; the kit makes them durable
//! in that order. An answer is given, and a callback made, only after the sync.

use std::{
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use openraft::{
    AnyError, LeaderId, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use quorate_consensus_kit::{
    config::MESSAGE_ENTRIES_BYTES,
    log::{Batch, LogError, Vote as KitVote},
    snapshot::point,
};
use quorate_core::ids::LogIndex;
use tokio::sync::watch;

use crate::{
    config::{Parts, Shared},
    types::{Entry, Place, StorageError, Types, index_of, last_index, node_of, place_of, raft_id},
};

/// Entries that are taken out of the log at once, in bytes.
const READ_BYTES: u64 = 4 << 20;

/// Votes and entries. Clones are the same.
#[derive(Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
    parts: Parts,
    /// The last entry that is known to be committed. It becomes durable with the next batch: a restart finds out again.
    committed: Arc<Mutex<LogIndex>>,
    begins: Arc<watch::Sender<LogIndex>>,
}

impl Store {
    /// The log, of which everything up to `committed` is known to be committed.
    pub(crate) fn new(shared: Arc<Shared>, parts: Parts, committed: LogIndex) -> Self {
        let begins = Arc::new(watch::Sender::new(parts.log.base().index));
        Self { shared, parts, committed: Arc::new(Mutex::new(committed)), begins }
    }

    /// Where the log begins: behind a snapshot that has arrived, once it does.
    pub(crate) fn begins(&self) -> watch::Receiver<LogIndex> {
        self.begins.subscribe()
    }

    /// A failure of the disk is final: it is noted here, and openraft ends of it.
    fn failed(&self, error: &LogError) -> StorageError {
        if *error != LogError::Closed {
            self.shared.fail(error.to_string());
        }
        StorageIOError::write_logs(AnyError::error(error)).into()
    }

    async fn write(&self, batch: Batch) -> Result<(), StorageError> {
        self.parts.log.write(batch).await.map_err(|error| self.failed(&error))
    }

    /// The durable vote, and what is known to be committed by now.
    fn vote(&self) -> KitVote {
        let vote = self.parts.log.vote();
        KitVote { commit: vote.commit.max(*self.committed.lock()), ..vote }
    }

    #[expect(clippy::result_large_err, reason = "the error is openraft's")]
    fn entries(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        let entries = self.parts.log.entries(from, to, max_bytes).map_err(|error| self.failed(&error))?;
        let mut read = Vec::with_capacity(entries.len());
        for entry in entries {
            let index = entry.index;
            let unknown =
                || LogError::Damaged(format!("entry {index} is not of a kind that this program knows"));
            read.push(Entry::of_kit(entry).ok_or_else(|| self.failed(&unknown()))?);
        }
        Ok(read)
    }

    /// Begins the log anew behind the newest snapshot, which ends at `upto`.
    async fn restart(&self, upto: &Place) -> Result<(), LogError> {
        let newest = self.parts.snapshots.newest().map(|newest| point(&newest.meta()));
        let newest = newest.filter(|newest| place_of(*newest) == Some(*upto)).ok_or_else(|| {
            LogError::Storage(format!(
                "openraft wants to forget the entries up to {upto}, for which no snapshot stands"
            ))
        })?;
        self.parts.log.restart(newest, self.vote()).await
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        // The entry before openraft's `end` is the kit's `end`.
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let to = LogIndex(to).min(self.parts.log.last().index);
        let mut next = LogIndex(start).max(self.parts.log.base().index).next();
        let mut entries = Vec::new();
        while next <= to {
            let more = self.entries(next, to, READ_BYTES)?;
            let Some(last) = more.last() else { break };
            next = index_of(&last.log_id).next();
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        if start >= end {
            return Ok(Vec::new());
        }
        self.entries(LogIndex(start).next(), LogIndex(end), MESSAGE_ENTRIES_BYTES)
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let log = &self.parts.log;
        Ok(LogState { last_purged_log_id: place_of(log.base()), last_log_id: place_of(log.last()) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    /// That a quorum has granted the vote is not kept: a leader that starts again does not lead, since an epoch does not
    /// outlive the process that leads it.
    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let LeaderId { term, voted_for } = vote.leader_id;
        let vote = KitVote { term, voted_for: voted_for.and_then(node_of), ..self.vote() };
        self.write(Batch { vote: Some(vote), ..Batch::default() }).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        let KitVote { term, voted_for, .. } = self.parts.log.vote();
        let leader_id = LeaderId { term, voted_for: voted_for.map(raft_id) };
        Ok((leader_id != LeaderId::default()).then_some(Vote { leader_id, committed: false }))
    }

    async fn save_committed(&mut self, committed: Option<Place>) -> Result<(), StorageError> {
        let mut known = self.committed.lock();
        *known = (*known).max(last_index(committed.as_ref()));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<Place>, StorageError> {
        let committed = *self.committed.lock();
        Ok(self.parts.log.point(committed).and_then(place_of))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| entry.to_kit()).collect();
        self.write(Batch { truncate_after: None, entries, vote: Some(self.vote()) }).await?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: Place) -> Result<(), StorageError> {
        let after = LogIndex(since.index);
        self.write(Batch { truncate_after: Some(after), ..Batch::default() }).await
    }

    /// Lets go of entries for which a durable snapshot stands. Where that snapshot has arrived and the log does not reach
    /// it, the log begins anew behind it.
    async fn purge(&mut self, upto: Place) -> Result<(), StorageError> {
        let log = &self.parts.log;
        let index = index_of(&upto);
        let forgotten = if log.base().index >= index {
            Ok(())
        } else if log.point(index).and_then(place_of) == Some(upto) {
            log.forget(index).await
        } else {
            self.restart(&upto).await
        };
        forgotten.map_err(|error| self.failed(&error))?;
        self.begins.send_replace(log.base().index);
        Ok(())
    }
}
