//! The kit's log as raft-rs wants to read it, and the membership as Raft's configuration.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_consensus_kit::{
    log::{Entry as KitEntry, Log, LogError, Vote},
    membership::{MemberChange, Membership},
    snapshot::Snapshots,
};
use quorate_core::ids::{Epoch, LogIndex};
use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{
        ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState, Snapshot,
        SnapshotMetadata,
    },
};

use crate::transport::{node_of, raft_id};

/// The kit's mark of an entry that changes the members.
const CHANGE: u8 = 1;

/// Who the members were, and are.
pub(crate) type History = quorate_consensus_kit::shared::History<Membership>;

/// The members now, and the entry that made them so.
pub(crate) fn members(history: &Mutex<History>) -> (LogIndex, Membership) {
    let history = history.lock();
    history.now().map(|(at, membership)| (at, membership.clone())).unwrap_or_default()
}

/// The entry at `index` changes the members.
pub(crate) fn change_members(history: &Mutex<History>, index: LogIndex, change: &MemberChange) -> Membership {
    let (_, mut membership) = members(history);
    membership.apply(change, index);
    history.lock().push(index, membership.clone());
    membership
}

/// What raft-rs reads.
pub(crate) struct Store {
    pub(crate) log: Log,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) history: Arc<Mutex<History>>,
    /// The vote and the commit index to start with.
    pub(crate) vote: Vote,
    /// The sentence behind an error that raft-rs turns into a panic.
    pub(crate) trouble: Arc<Mutex<Option<String>>>,
}

impl Store {
    fn failed(&self, error: &LogError) -> Error {
        *self.trouble.lock() = Some(error.to_string());
        Error::Store(StorageError::Unavailable)
    }
}

impl Storage for Store {
    fn initial_state(&self) -> Result<RaftState> {
        let hard_state = hard_state(&self.vote);
        let conf_state = conf_state(&members(&self.history).1);
        Ok(RaftState { hard_state, conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.log.base().index.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let Some(last) = high.checked_sub(1).filter(|last| low <= *last) else { return Ok(Vec::new()) };
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        let entries = self.log.entries(LogIndex(low), LogIndex(last), max_bytes);
        Ok(entries.map_err(|error| self.failed(&error))?.into_iter().map(to_raft).collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if let Some(point) = self.log.point(LogIndex(index)) {
            return Ok(point.epoch.0);
        }
        let gone = index < self.log.base().index.0;
        Err(Error::Store(if gone { StorageError::Compacted } else { StorageError::Unavailable }))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.log.base().index.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.log.last().index.0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let unavailable = || Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        let newest = self.snapshots.newest().filter(|newest| newest.meta().index.0 >= request_index);
        let newest = newest.ok_or_else(unavailable)?;
        let membership = Membership::decode(newest.engine()).ok_or_else(unavailable)?;
        let mut conf_state = conf_state(&membership);
        // A node that was added after the snapshot would refuse it: raft-rs wants to find itself in there. It learns
        // from the log behind the snapshot what it is.
        if !conf_state.voters.contains(&to) && !conf_state.learners.contains(&to) {
            conf_state.learners.push(to);
        }
        let meta = newest.meta();
        let metadata =
            SnapshotMetadata { conf_state: Some(conf_state), index: meta.index.0, term: meta.epoch.0 };
        Ok(Snapshot { data: Vec::new(), metadata: Some(metadata) })
    }
}

pub(crate) fn hard_state(vote: &Vote) -> HardState {
    HardState { term: vote.term, vote: vote.voted_for.map_or(0, raft_id), commit: vote.commit.0 }
}

pub(crate) fn vote_of(state: &HardState) -> Vote {
    Vote { term: state.term, voted_for: node_of(state.vote), commit: LogIndex(state.commit) }
}

pub(crate) fn conf_state(membership: &Membership) -> ConfState {
    ConfState {
        voters: membership.voters.keys().map(|node| raft_id(*node)).collect(),
        learners: membership.learners.keys().map(|node| raft_id(*node)).collect(),
        ..ConfState::default()
    }
}

pub(crate) fn to_kit(entry: Entry) -> KitEntry {
    let engine = if entry.get_entry_type() == EntryType::EntryNormal { 0 } else { CHANGE };
    let data = if engine == 0 {
        Bytes::from(entry.data)
    } else {
        change_of(&entry).map(|change| change.encode().into()).unwrap_or_default()
    };
    KitEntry { index: LogIndex(entry.index), epoch: Epoch(entry.term), engine, data }
}

fn to_raft(entry: KitEntry) -> Entry {
    let mut out = Entry { index: entry.index.0, term: entry.epoch.0, ..Entry::default() };
    if entry.engine == CHANGE {
        out.set_entry_type(EntryType::EntryConfChangeV2);
        let change = MemberChange::decode(&entry.data).map(|change| conf_change(&change));
        out.data = prost_raft::Message::encode_to_vec(&change.unwrap_or_default());
    } else {
        out.data = entry.data.to_vec();
    }
    out
}

/// The change that an entry of the kit makes, if it is one.
pub(crate) fn kit_change(entry: &KitEntry) -> Option<MemberChange> {
    if entry.engine == CHANGE { MemberChange::decode(&entry.data) } else { None }
}

/// The change that an entry of Raft makes, if it is one.
pub(crate) fn change_of(entry: &Entry) -> Option<MemberChange> {
    if entry.get_entry_type() == EntryType::EntryNormal {
        return None;
    }
    let change: ConfChangeV2 = prost_raft::Message::decode(entry.data.as_slice()).ok()?;
    MemberChange::decode(&change.context)
}

/// A change as Raft takes it.
pub(crate) fn conf_change(change: &MemberChange) -> ConfChangeV2 {
    let (node, kind) = match change {
        MemberChange::AddLearner(node, _) => (node, ConfChangeType::AddLearnerNode),
        MemberChange::Promote(node) => (node, ConfChangeType::AddNode),
        MemberChange::Remove(node) => (node, ConfChangeType::RemoveNode),
    };
    let mut single = ConfChangeSingle { node_id: raft_id(*node), ..ConfChangeSingle::default() };
    single.set_change_type(kind);
    ConfChangeV2 { changes: vec![single], context: change.encode(), ..ConfChangeV2::default() }
}
