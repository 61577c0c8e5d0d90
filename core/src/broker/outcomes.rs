//! What became of this node's proposals: the applier notes it, whoever proposed looks it up by the entry's index.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::{ids::LogIndex, metadata::Outcome};

/// Outcomes of entries that somebody may still ask for.
#[derive(Debug, Default)]
pub(super) struct Outcomes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Proposals under way: how far the image had come when each began.
    open: BTreeMap<u64, LogIndex>,
    next: u64,
    kept: BTreeMap<LogIndex, Outcome>,
}

/// A proposal under way. Outcomes of later entries are kept while it lives.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    outcomes: &'a Outcomes,
    number: u64,
}

impl Outcomes {
    /// A proposal begins, when the image has come to `applied`: its entry comes after that.
    pub(super) fn ticket(&self, applied: LogIndex) -> Ticket<'_> {
        let mut state = self.0.lock();
        state.next += 1;
        let number = state.next;
        state.open.insert(number, applied);
        Ticket { outcomes: self, number }
    }

    /// The applier has applied an entry, and has not told anybody yet.
    pub(super) fn note(&self, index: LogIndex, outcome: &Outcome) {
        let mut state = self.0.lock();
        if !state.open.is_empty() {
            state.kept.insert(index, outcome.clone());
        }
    }
}

impl Ticket<'_> {
    /// What became of the entry, once it is applied. `None` if a snapshot took its place.
    pub(super) fn take(&self, index: LogIndex) -> Option<Outcome> {
        self.outcomes.0.lock().kept.remove(&index)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.outcomes.0.lock();
        state.open.remove(&self.number);
        match state.open.values().min().copied() {
            Some(oldest) => state.kept = state.kept.split_off(&oldest.next()),
            None => state.kept.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_kept_for_as_long_as_somebody_may_ask() {
        let outcomes = Outcomes::default();
        outcomes.note(LogIndex(1), &Outcome::Engine);
        let early = outcomes.ticket(LogIndex(1));
        outcomes.note(LogIndex(2), &Outcome::Engine);
        let late = outcomes.ticket(LogIndex(2));
        outcomes.note(LogIndex(3), &Outcome::Engine);
        assert_eq!(early.take(LogIndex(1)), None);
        assert_eq!(early.take(LogIndex(2)), Some(Outcome::Engine));
        drop(early);
        assert_eq!(outcomes.0.lock().kept.len(), 1);
        assert_eq!(late.take(LogIndex(3)), Some(Outcome::Engine));
        drop(late);
        outcomes.note(LogIndex(4), &Outcome::Engine);
        assert!(outcomes.0.lock().kept.is_empty());
    }
}
