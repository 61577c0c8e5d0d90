//! The state of the log in etcd at one revision, and whether it still contains what this node knows of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::consensus::{Chain, Epoch, LogId, LogIndex, NodeId, SnapshotMeta};
use thiserror::Error;

use crate::storage::{
    KeyValue, Op, Revision, Txn, TxnReply,
    keys::Keys,
    records::{
        CandidateRecord, Damaged, HistoryRecord, LeaderRecord, SnapshotRecord, Tail, read_ended, read_epoch,
        read_id,
    },
};

/// Everything but the entries, read in one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) revision: Revision,
    /// `None`: nobody has founded the log.
    pub(crate) id: Option<LogId>,
    pub(crate) epoch: Epoch,
    /// When `epoch` last changed; 0: never.
    pub(crate) epoch_modified: Revision,
    pub(crate) tail: Tail,
    /// When `tail` last changed; 0: never.
    pub(crate) tail_modified: Revision,
    pub(crate) leader: Option<(LeaderRecord, Bytes)>,
    pub(crate) candidates: BTreeMap<NodeId, CandidateRecord>,
    pub(crate) snapshot: Option<SnapshotRecord>,
    /// The generation that has taken this one's place.
    pub(crate) ended: Option<u64>,
    /// What this generation begins with, unless it is the first.
    pub(crate) history: Option<HistoryRecord>,
    /// The first entry that is kept; one past the tail if none is.
    pub(crate) first: LogIndex,
}

impl Head {
    /// Reads a head; [`Head::of`] understands the answer.
    pub(crate) fn request(keys: &Keys) -> Txn {
        let gets = [keys.heads(), Keys::one(keys.tail()), Keys::one(keys.snapshot()), keys.first_entry()];
        Txn { then: gets.map(Op::Get).into(), ..Txn::default() }
    }

    pub(crate) fn of(keys: &Keys, reply: &TxnReply) -> Result<Self, Damaged> {
        let mut head = Self { revision: reply.revision, ..Self::default() };
        for kv in reply.gets.iter().flatten() {
            head.take(keys, kv)?;
        }
        if head.first == LogIndex(0) {
            head.first = head.tail.index.next();
        }
        Ok(head)
    }

    fn take(&mut self, keys: &Keys, kv: &KeyValue) -> Result<(), Damaged> {
        let key = kv.key.as_str();
        if key == keys.epoch() {
            (self.epoch, self.epoch_modified) = (read_epoch(kv)?, kv.modified);
        } else if key == keys.ended() {
            self.ended = Some(read_ended(kv)?);
        } else if key == keys.history() {
            self.history = Some(HistoryRecord::read(kv)?);
        } else if key == keys.id() {
            self.id = Some(read_id(kv)?);
        } else if key == keys.leader() {
            self.leader = Some((LeaderRecord::read(kv)?, kv.value.clone()));
        } else if key == keys.tail() {
            (self.tail, self.tail_modified) = (Tail::read(kv)?, kv.modified);
        } else if key == keys.snapshot() {
            self.snapshot = Some(SnapshotRecord::read(kv)?);
        } else if let Some(node) = keys.candidate_of(key) {
            self.candidates.insert(node, CandidateRecord::read(kv)?);
        } else if let Some(index) = keys.index_of(key) {
            self.first = index;
        }
        Ok(())
    }
}

impl SnapshotRecord {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { index: self.index, epoch: self.epoch, chain: self.chain, bytes: self.bytes }
    }
}

/// The newest point of the log that this node has seen to be committed. Only ever moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) log: Option<LogId>,
    pub(crate) index: LogIndex,
    pub(crate) chain: Chain,
}

/// etcd no longer holds the log that this node knows. It never mends itself: somebody has to decide what is lost.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum HistoryLost {
    #[error("{0}")]
    Damaged(#[from] Damaged),
    #[error(
        "the log of this node's cluster ({known}) is not in etcd under {root}: etcd was emptied, or \
         consensus.etcd.endpoints or consensus.etcd.prefix name another place; correct them, or restore etcd from its \
         backup"
    )]
    Absent { root: String, known: LogId },
    #[error(
        "the log in etcd under {root} belongs to the cluster {found}, and this node to the cluster {known}; correct \
         consensus.etcd.prefix or consensus.etcd.endpoints, or give this node an empty data folder"
    )]
    Foreign { root: String, found: LogId, known: LogId },
    #[error(
        "the log in etcd under {root} was rewound: this node knows entry {known} and the log ends at {tail}, as after \
         a restore from an older backup; stop every node, then restore etcd from a newer backup, or accept the loss \
         with 'quorate consensus accept-restore FILE'"
    )]
    Rewound { root: String, known: LogIndex, tail: LogIndex },
    #[error(
        "the log in etcd under {root} has diverged: its entry {index} is another one than this node knows, as after a \
         restore from an older backup and new writes; stop every node, then restore etcd from a newer backup, or \
         accept the loss with 'quorate consensus accept-restore FILE'"
    )]
    Diverged { root: String, index: LogIndex },
    #[error(
        "the log in etcd under {root} has ended: after a restore its cluster goes on in generation {generation}; run \
         'quorate consensus accept-restore FILE' on this node too"
    )]
    Ended { root: String, generation: u64 },
    #[error(
        "the log in etcd under {root} has a hole: entry {index} is missing although the log says that it keeps \
         everything from {first} to {tail}; somebody has deleted keys there; restore etcd from a backup"
    )]
    Hole { root: String, index: LogIndex, first: LogIndex, tail: LogIndex },
}

/// Compares a head with what was known **before** it was asked for; a head may not lack any of it.
pub(crate) fn judge(keys: &Keys, known: &Known, head: &Head) -> Result<(), HistoryLost> {
    let root = keys.root();
    if let Some(generation) = head.ended {
        return Err(HistoryLost::Ended { root, generation });
    }
    match (known.log, head.id) {
        (Some(known), None) => return Err(HistoryLost::Absent { root, known }),
        (Some(known), Some(found)) if known != found => {
            return Err(HistoryLost::Foreign { root, found, known });
        }
        _ => {}
    }
    let tail = head.tail;
    if tail.index < known.index {
        return Err(HistoryLost::Rewound { root, known: known.index, tail: tail.index });
    }
    if tail.index == known.index && known.index != LogIndex(0) && tail.chain != known.chain {
        return Err(HistoryLost::Diverged { root, index: known.index });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(index: u64, chain: u8) -> Head {
        let tail = Tail { index: LogIndex(index), epoch: Epoch(1), chain: Chain([chain; 16]) };
        Head { id: Some(LogId([1; 16])), tail, ..Head::default() }
    }

    fn known(index: u64, chain: u8) -> Known {
        Known { log: Some(LogId([1; 16])), index: LogIndex(index), chain: Chain([chain; 16]) }
    }

    #[test]
    fn a_log_that_lacks_what_is_known_is_told_apart_from_one_that_grew() {
        let keys = Keys::new("/q", 1);
        let judged = |known: &Known, head: &Head| judge(&keys, known, head);
        assert_eq!(judged(&Known::default(), &Head::default()), Ok(()));
        assert_eq!(judged(&Known::default(), &head(9, 1)), Ok(()));
        assert_eq!(judged(&known(5, 1), &head(5, 1)), Ok(()));
        assert_eq!(judged(&known(5, 1), &head(6, 2)), Ok(()));
        assert!(matches!(judged(&known(5, 1), &head(4, 1)), Err(HistoryLost::Rewound { .. })));
        assert!(matches!(judged(&known(5, 1), &head(5, 2)), Err(HistoryLost::Diverged { .. })));
        assert!(matches!(judged(&known(0, 0), &Head::default()), Err(HistoryLost::Absent { .. })));
        let ended = Head { ended: Some(2), ..head(9, 1) };
        assert!(matches!(judged(&known(5, 1), &ended), Err(HistoryLost::Ended { generation: 2, .. })));
        let other = Known { log: Some(LogId([2; 16])), ..Known::default() };
        assert!(matches!(judged(&other, &head(4, 1)), Err(HistoryLost::Foreign { .. })));
    }
}
