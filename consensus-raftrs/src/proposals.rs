//! Proposals that were appended and wait for their outcome.

use std::collections::BTreeMap;

use quorate_core::{
    consensus::ProposeError,
    ids::{Epoch, LogIndex, NodeId},
    runtime::Moment,
};
use tokio::sync::oneshot;

pub(crate) type Outcome = Result<LogIndex, ProposeError>;

struct Pending {
    epoch: Epoch,
    /// When to give up, once this node does not lead the epoch any more.
    deadline: Option<Moment>,
    done: oneshot::Sender<Outcome>,
}

/// Appended proposals, by their place.
#[derive(Default)]
pub(crate) struct Proposals(BTreeMap<LogIndex, Pending>);

impl Proposals {
    pub(crate) fn add(&mut self, index: LogIndex, epoch: Epoch, done: oneshot::Sender<Outcome>) {
        let displaced = self.0.insert(index, Pending { epoch, deadline: None, done });
        if let Some(displaced) = displaced {
            // Its place was given to another entry here, but it may live on at a node that leads later.
            answer(displaced, Err(ProposeError::Unknown));
        }
    }

    /// An entry has committed. Proposals of older epochs that are not below it never will.
    pub(crate) fn committed(&mut self, index: LogIndex, epoch: Epoch, leader: Option<NodeId>) {
        while let Some(first) = self.0.first_entry().filter(|first| *first.key() <= index) {
            let (place, pending) = first.remove_entry();
            let outcome = if place < index {
                Err(ProposeError::Unknown)
            } else if pending.epoch == epoch {
                Ok(index)
            } else {
                Err(ProposeError::NotLeader { hint: leader })
            };
            answer(pending, outcome);
        }
        for (_, pending) in self.0.extract_if(.., |_, pending| pending.epoch < epoch) {
            answer(pending, Err(ProposeError::NotLeader { hint: leader }));
        }
    }

    /// The log went on behind a snapshot: what was before it cannot be told any more.
    pub(crate) fn skip_to(&mut self, index: LogIndex) {
        for (_, pending) in self.0.extract_if(..=index, |_, _| true) {
            answer(pending, Err(ProposeError::Unknown));
        }
    }

    /// This node leads `leading`, or nothing: other proposals wait no longer than until `deadline`.
    pub(crate) fn lead(&mut self, leading: Option<Epoch>, deadline: Moment) {
        for pending in self.0.values_mut().filter(|pending| Some(pending.epoch) != leading) {
            pending.deadline.get_or_insert(deadline);
        }
    }

    pub(crate) fn expire(&mut self, now: Moment) {
        let due = |pending: &Pending| pending.deadline.is_some_and(|deadline| deadline <= now);
        for (_, pending) in self.0.extract_if(.., |_, pending| due(pending)) {
            answer(pending, Err(ProposeError::Unknown));
        }
    }
}

fn answer(pending: Pending, outcome: Outcome) {
    // Whoever proposed may have stopped waiting.
    let _gone = pending.done.send(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINT: Option<NodeId> = Some(NodeId(2));

    fn propose(proposals: &mut Proposals, index: u64, epoch: u64) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        proposals.add(LogIndex(index), Epoch(epoch), done);
        outcome
    }

    #[test]
    fn an_entry_of_a_newer_epoch_refuses_what_it_replaced_and_what_came_after() {
        let mut proposals = Proposals::default();
        let mut kept = propose(&mut proposals, 5, 2);
        let mut replaced = propose(&mut proposals, 6, 2);
        let mut after = propose(&mut proposals, 7, 2);
        proposals.committed(LogIndex(5), Epoch(2), HINT);
        proposals.committed(LogIndex(6), Epoch(3), HINT);
        assert_eq!(kept.try_recv(), Ok(Ok(LogIndex(5))));
        assert_eq!(replaced.try_recv(), Ok(Err(ProposeError::NotLeader { hint: HINT })));
        assert_eq!(after.try_recv(), Ok(Err(ProposeError::NotLeader { hint: HINT })));
    }

    #[test]
    fn a_deposed_leader_does_not_wait_for_ever() {
        let mut proposals = Proposals::default();
        let mut pending = propose(&mut proposals, 5, 2);
        proposals.lead(Some(Epoch(2)), Moment(10));
        proposals.expire(Moment(100));
        assert!(pending.try_recv().is_err(), "it still leads");
        proposals.lead(None, Moment(200));
        proposals.lead(None, Moment(300));
        proposals.expire(Moment(200));
        assert_eq!(pending.try_recv(), Ok(Err(ProposeError::Unknown)));
    }
}
