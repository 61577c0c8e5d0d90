//! What must hold, checked by somebody who sees everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::consensus::{Epoch, Leader, LeaderEvent, LogIndex, NodeId, ProposeError};

#[derive(Default)]
pub(super) struct Oracle {
    /// The log, as whoever read an index first has read it.
    log: BTreeMap<LogIndex, (Epoch, Bytes)>,
    leaders: BTreeMap<Epoch, (NodeId, LogIndex)>,
    outcomes: BTreeMap<Bytes, Result<LogIndex, ProposeError>>,
    pub(super) broken: Option<String>,
    pub(super) digest: u64,
    pub(super) committed: usize,
    pub(super) unknown: usize,
}

impl Oracle {
    fn check(&mut self, holds: bool, reason: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(reason());
        }
    }

    pub(super) fn leaderships(&self) -> usize {
        self.leaders.len()
    }

    /// FNV-1a over what happens, to compare two runs.
    fn trace(&mut self, what: &str) {
        let start = if self.digest == 0 { 0xcbf2_9ce4_8422_2325 } else { self.digest };
        self.digest =
            what.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    }

    pub(super) fn announced(&mut self, node: NodeId, event: LeaderEvent) {
        self.trace(&format!("{node} {event:?}"));
        let Leader::Me { opened_at } = event.leader else { return };
        let first = *self.leaders.entry(event.epoch).or_insert((node, opened_at));
        let epoch = event.epoch;
        self.check(first == (node, opened_at), || {
            format!("epoch {epoch}: {first:?} and {:?}", (node, opened_at))
        });
    }

    /// A node has read an entry; `position` is where it stood.
    pub(super) fn read(&mut self, node: NodeId, position: LogIndex, index: LogIndex, entry: (Epoch, Bytes)) {
        self.trace(&format!("{node} {index}"));
        self.check(index == position.next(), || format!("node {node} reads {index} after {position}"));
        let first = self.log.entry(index).or_insert_with(|| entry.clone()).clone();
        self.check(first == entry, || format!("entry {index} is {first:?} and, at node {node}, {entry:?}"));
        let before = self.log.range(..index).next_back().map(|(_, (epoch, _))| *epoch);
        self.check(before.is_none_or(|before| before <= entry.0), || format!("the epoch falls at {index}"));
    }

    pub(super) fn proposed(&mut self, data: Bytes, outcome: Result<LogIndex, ProposeError>) {
        self.trace(&format!("{data:?} {outcome:?}"));
        match outcome {
            Ok(_) => self.committed += 1,
            Err(ProposeError::Unknown) => self.unknown += 1,
            Err(_) => {}
        }
        self.outcomes.insert(data, outcome);
    }

    /// Everything has been read: what was promised must be true.
    pub(super) fn settle(&mut self) {
        let mut places: BTreeMap<&Bytes, Vec<LogIndex>> = BTreeMap::new();
        for (index, (_, data)) in &self.log {
            places.entry(data).or_default().push(*index);
        }
        let wrong = self.outcomes.iter().find_map(|(data, outcome)| {
            let places = places.get(data).cloned().unwrap_or_default();
            let right = match outcome {
                Ok(index) => places == [*index],
                Err(ProposeError::Unknown) => places.len() <= 1,
                Err(_) => places.is_empty(),
            };
            (!right).then(|| format!("{data:?} was answered {outcome:?} and stands at {places:?}"))
        });
        let openings = self.leaders.iter().find_map(|(epoch, (node, opened_at))| {
            let (found, data) = self.log.get(opened_at)?;
            (found != epoch || !data.is_empty())
                .then(|| format!("epoch {epoch} of {node} opens at {opened_at}"))
        });
        if let Some(reason) = wrong.or(openings) {
            self.check(false, || reason);
        }
    }
}
