//! What clients were told, by whom it does not matter: it must all be true at once.

use std::collections::BTreeMap;

use crate::{
    history::Outcome,
    simulator::{Violation, invariants::asserts},
};

/// Everything that clients were told so far.
#[derive(Default)]
pub(in crate::simulator) struct History {
    /// What became of each value that was sent.
    pub(in crate::simulator) outcomes: Vec<Outcome>,
    /// What was read, by partition and offset.
    pub(in crate::simulator) reads: BTreeMap<(i32, i64), String>,
    /// By partition, the offset below which everything was acknowledged with acks=all, or read by a consumer: the true
    /// high watermark is no smaller.
    pub(in crate::simulator) visible: BTreeMap<i32, i64>,
    /// What a client saw that must not be.
    pub(in crate::simulator) violation: Option<Violation>,
    /// No more is to be sent.
    pub(in crate::simulator) finishing: bool,
    /// Batches that were sent and are neither acknowledged nor given up.
    pub(in crate::simulator) under_way: u64,
    /// How far each consumer has read.
    pub(in crate::simulator) consumed: BTreeMap<i32, i64>,
}

impl History {
    pub(in crate::simulator) fn violated(&mut self, invariant: u32, what: String) {
        if asserts(invariant) {
            self.violation.get_or_insert(Violation::new(invariant, what));
        }
    }

    /// Everything below `end` is visible to somebody.
    pub(in crate::simulator) fn saw_visible(&mut self, partition: i32, end: i64) {
        let visible = self.visible.entry(partition).or_default();
        *visible = end.max(*visible);
    }

    /// A record was read.
    pub(in crate::simulator) fn saw(&mut self, partition: i32, offset: i64, value: String) {
        let place = (partition, offset);
        let first = self.reads.entry(place).or_insert_with(|| value.clone()).clone();
        if first != value {
            self.violated(
                7,
                format!("at offset {offset} of partition {partition} is '{value}', where '{first}' was"),
            );
        }
    }

    pub(in crate::simulator) fn acked(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.error.is_none()).count()
    }
}
