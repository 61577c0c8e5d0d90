//! What the cluster knows of one node, and what of it survives a crash.

use bytes::Bytes;

use crate::{
    consensus::{Epoch, Leader, LeaderAnnouncer, LogIndex, SnapshotMeta},
    runtime::Moment,
};

/// A snapshot that a node keeps.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) meta: SnapshotMeta,
    pub(super) chunks: Vec<Bytes>,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    /// Durable: the last entry that it knows to be committed.
    pub(super) known: LogIndex,
    /// Durable: the first entry that it keeps.
    pub(super) first: LogIndex,
    /// Durable: what stands for the entries before.
    pub(super) snapshot: Option<Kept>,
    /// The process, while there is one.
    pub(super) process: Option<Process>,
    /// Nothing reaches it and it reaches nobody.
    pub(super) cut: bool,
    /// It stands still, without knowing it.
    pub(super) paused: bool,
    /// It takes part, but learns of no new entries.
    pub(super) held: bool,
}

/// One life of a node.
#[derive(Debug)]
pub(super) struct Process {
    /// Tells one life from the next.
    pub(super) number: u64,
    pub(super) announcer: LeaderAnnouncer,
    pub(super) fatal: Option<String>,
    /// When a quorum was last in reach.
    pub(super) contact: Option<Moment>,
    /// When it will look for another leader.
    pub(super) election_at: Option<Moment>,
    /// It does not campaign before.
    pub(super) rests_until: Moment,
    /// When it will have learned of the entries up to an index, or have committed them if it leads.
    pub(super) due: Option<(Moment, LogIndex)>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            known: LogIndex(0),
            first: LogIndex(1),
            snapshot: None,
            process: None,
            cut: false,
            paused: false,
            held: false,
        }
    }

    /// Whether it takes part: it runs, and the others and it hear each other.
    pub(super) fn takes_part(&self) -> bool {
        !self.cut && !self.paused && self.process.as_ref().is_some_and(|process| process.fatal.is_none())
    }

    /// The process, if it is still the life that the caller is of and has not failed.
    pub(super) fn living(&self, number: u64) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.number == number && process.fatal.is_none())
    }

    pub(super) fn announce(&self, epoch: Epoch, leader: Leader) -> bool {
        self.process.as_ref().is_some_and(|process| process.announcer.announce(epoch, leader))
    }

    /// Says that it knows of no leader, in the newest epoch it has heard of.
    pub(super) fn announce_unknown(&self) -> bool {
        let Some(process) = &self.process else { return false };
        process.announcer.last().is_some_and(|last| process.announcer.announce(last.epoch, Leader::Unknown))
    }

    /// Why it does not take part.
    pub(super) fn problem(&self) -> Option<String> {
        match &self.process {
            None => Some("does not run".to_owned()),
            Some(process) if process.fatal.is_some() => Some("has failed".to_owned()),
            Some(_) if self.cut || self.paused => Some("does not answer".to_owned()),
            Some(_) => None,
        }
    }
}
