//! Proposals that wait for their turn: ordered, bounded, open only while this node leads.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::consensus::{Epoch, LogIndex, NodeId, ProposeError};
use tokio::sync::{Notify, oneshot};

/// Proposals that may wait. A batch takes a few milliseconds; more than this is an overload that the caller must see.
const WAITING_ENTRIES: usize = 4_096;
/// Bytes that may wait.
const WAITING_BYTES: usize = 32 << 20;

/// A proposal and who waits for it. Dropping it tells them that the outcome is unknown.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) data: Bytes,
    pub(crate) answer: oneshot::Sender<Result<LogIndex, ProposeError>>,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The epoch that this node leads.
    open: Option<Epoch>,
    waiting: VecDeque<Proposal>,
    bytes: usize,
}

impl Queue {
    /// Adds a proposal at the end.
    pub(crate) fn push(
        &self,
        epoch: Epoch,
        proposal: Proposal,
        hint: Option<NodeId>,
    ) -> Result<(), ProposeError> {
        let mut state = self.state.lock();
        if state.open != Some(epoch) {
            return Err(ProposeError::NotLeader { hint });
        }
        let bytes = state.bytes.saturating_add(proposal.data.len());
        if state.waiting.len() >= WAITING_ENTRIES || bytes > WAITING_BYTES {
            return Err(ProposeError::Busy);
        }
        state.bytes = bytes;
        state.waiting.push_back(proposal);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes the oldest proposals, at least one: at most `entries`, and no more than `bytes` together unless the first
    /// alone is larger. Cancel safe.
    pub(crate) async fn take(&self, entries: usize, bytes: usize) -> Vec<Proposal> {
        loop {
            let filled = self.filled.notified();
            let batch = self.take_now(entries, bytes);
            if !batch.is_empty() {
                return batch;
            }
            filled.await;
        }
    }

    fn take_now(&self, entries: usize, bytes: usize) -> Vec<Proposal> {
        let mut state = self.state.lock();
        let mut batch = Vec::new();
        let mut total = 0_usize;
        while batch.len() < entries
            && let Some(next) = state.waiting.front()
            && (batch.is_empty() || total.saturating_add(next.data.len()) <= bytes)
        {
            total = total.saturating_add(next.data.len());
            batch.extend(state.waiting.pop_front());
        }
        state.bytes = state.bytes.saturating_sub(total);
        batch
    }

    /// Puts back what was taken, in its old place.
    pub(crate) fn put_back(&self, batch: Vec<Proposal>) {
        let mut state = self.state.lock();
        for proposal in batch.into_iter().rev() {
            state.bytes = state.bytes.saturating_add(proposal.data.len());
            state.waiting.push_front(proposal);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// This node leads `epoch`.
    pub(crate) fn open(&self, epoch: Epoch) {
        self.state.lock().open = Some(epoch);
    }

    /// This node leads no more: whatever still waits was never sent.
    pub(crate) fn close(&self, why: ProposeError) {
        let mut state = self.state.lock();
        state.open = None;
        state.bytes = 0;
        for proposal in std::mem::take(&mut state.waiting) {
            // Whoever has stopped waiting does not mind.
            let _ = proposal.answer.send(Err(why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = oneshot::Receiver<Result<LogIndex, ProposeError>>;

    fn proposal(bytes: usize) -> (Proposal, Answer) {
        let (answer, receiver) = oneshot::channel();
        (Proposal { data: Bytes::from(vec![0; bytes]), answer }, receiver)
    }

    #[tokio::test]
    async fn batches_keep_the_order_and_the_limits() {
        let queue = Queue::default();
        queue.open(Epoch(1));
        let mut answers = Vec::new();
        for bytes in [50, 40, 20, 500, 1] {
            let (proposal, answer) = proposal(bytes);
            queue.push(Epoch(1), proposal, None).unwrap();
            answers.push(answer);
        }
        let sizes = |batch: &[Proposal]| batch.iter().map(|p| p.data.len()).collect::<Vec<_>>();
        let first = queue.take(10, 100).await;
        assert_eq!(sizes(&first), [50, 40]);
        queue.put_back(first);
        assert_eq!(sizes(&queue.take(1, 100).await), [50]);
        assert_eq!(sizes(&queue.take(10, 100).await), [40, 20]);
        assert_eq!(sizes(&queue.take(10, 100).await), [500]);
        queue.close(ProposeError::NotLeader { hint: None });
        let last = answers.pop().unwrap();
        assert_eq!(last.await.unwrap(), Err(ProposeError::NotLeader { hint: None }));
    }

    #[test]
    fn another_epoch_and_a_full_queue_are_refused() {
        let queue = Queue::default();
        let refused = queue.push(Epoch(1), proposal(1).0, Some(NodeId(3)));
        assert_eq!(refused, Err(ProposeError::NotLeader { hint: Some(NodeId(3)) }));
        queue.open(Epoch(2));
        assert!(queue.push(Epoch(1), proposal(1).0, None).is_err());
        for _ in 0..WAITING_ENTRIES {
            queue.push(Epoch(2), proposal(1).0, None).unwrap();
        }
        assert_eq!(queue.push(Epoch(2), proposal(1).0, None), Err(ProposeError::Busy));
    }
}
