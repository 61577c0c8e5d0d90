//! What clients were told, by whom it does not matter: it must all be true at once.

use std::collections::BTreeMap;

use quorate_core::ids::{LeaderEpoch, PartitionId, TopicId};

use crate::{
    history::Outcome,
    simulator::{Violation, invariants::asserts, topics},
};

/// Of whatever leadership.
const LATEST: LeaderEpoch = LeaderEpoch(i32::MAX);

/// Everything that clients were told so far.
#[derive(Default)]
pub(in crate::simulator) struct History {
    /// What became of each value that was sent, by topic.
    pub(in crate::simulator) outcomes: BTreeMap<TopicId, Vec<Outcome>>,
    /// What was read.
    pub(in crate::simulator) reads: BTreeMap<(PartitionId, i64), String>,
    /// By partition, the offset below which everything was acknowledged with acks=all, or read by a consumer: the true
    /// high watermark is no smaller.
    pub(in crate::simulator) visible: BTreeMap<PartitionId, i64>,
    /// By partition, the offset below which records were out of range for a consumer: they are deleted.
    pub(in crate::simulator) deleted: BTreeMap<PartitionId, i64>,
    /// What a client saw that must not be.
    pub(in crate::simulator) violation: Option<Violation>,
    /// What a client saw that must not be, unless whoever said so does not lead any more, or the partition has lost
    /// records by an unclean election.
    pub(in crate::simulator) doubts: Vec<Doubt>,
    /// No more is to be sent.
    pub(in crate::simulator) finishing: bool,
    /// Topics of which an operator knows that nobody can lead them without a loss, and prefers the loss.
    pub(in crate::simulator) given_up: Vec<&'static str>,
    /// Batches that were sent and are neither acknowledged nor given up.
    pub(in crate::simulator) under_way: u64,
    /// How far each consumer has read.
    pub(in crate::simulator) consumed: BTreeMap<PartitionId, i64>,
}

/// What must not be of a partition's present leader.
pub(in crate::simulator) struct Doubt {
    pub(in crate::simulator) id: PartitionId,
    /// The leadership of whoever said so.
    pub(in crate::simulator) epoch: LeaderEpoch,
    pub(in crate::simulator) violation: Violation,
}

impl History {
    pub(in crate::simulator) fn violated(&mut self, invariant: u32, what: String) {
        if asserts(invariant) {
            self.violation.get_or_insert(Violation::new(invariant, what));
        }
    }

    /// As [`History::violated`], see [`History::doubts`].
    pub(in crate::simulator) fn doubted(
        &mut self,
        (id, epoch): (PartitionId, LeaderEpoch),
        invariant: u32,
        what: String,
    ) {
        if asserts(invariant) {
            self.doubts.push(Doubt { id, epoch, violation: Violation::new(invariant, what) });
        }
    }

    /// Everything below `end` is visible to somebody.
    pub(in crate::simulator) fn saw_visible(&mut self, id: PartitionId, end: i64) {
        let visible = self.visible.entry(id).or_default();
        *visible = end.max(*visible);
    }

    /// The partition begins at `start`, as its leader says.
    pub(in crate::simulator) fn saw_start(&mut self, id: PartitionId, start: i64) {
        let deleted = self.deleted.entry(id).or_default();
        *deleted = start.max(*deleted);
    }

    /// A record was read.
    pub(in crate::simulator) fn saw(&mut self, id: PartitionId, offset: i64, value: String) {
        let own = topics::mark(id.topic);
        if !value.ends_with(&own) {
            self.violated(25, format!("'{value}' is served at offset {offset} of {id}, whose mark is {own}"));
        }
        let first = self.reads.entry((id, offset)).or_insert_with(|| value.clone()).clone();
        if first != value {
            // Whoever serves it, it was visible once, and is another record now.
            self.doubted(
                (id, LATEST),
                7,
                format!("at offset {offset} of {id} is '{value}', where '{first}' was"),
            );
        }
    }

    /// Every outcome.
    pub(in crate::simulator) fn all(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.values().flatten()
    }

    /// Whether nothing more is to be sent.
    pub(in crate::simulator) fn is_done(&self) -> bool {
        self.finishing && self.acked() > 0
    }

    pub(in crate::simulator) fn acked(&self) -> usize {
        self.all().filter(|outcome| outcome.error.is_none()).count()
    }
}
