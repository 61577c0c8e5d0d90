//! Carries out the proposals of one leadership: takes them from the queue, asks etcd, answers whoever waits.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::ProposeError;

use crate::{
    head::HistoryLost,
    proposal::{BATCH_BYTES, BATCH_ENTRIES, Batch, Leadership, Outcome},
    queue::Proposal,
    shared::Shared,
    storage::{Refusal, StoreError, TxnReply, records::Damaged},
};

/// Between attempts of the same request while etcd does not answer.
const RETRY: Duration = Duration::from_millis(50);

/// The leadership is lost.
struct Lost;

/// The proposals of one leadership: one batch in flight.
pub(crate) struct Proposing<'a> {
    shared: &'a Shared,
    leadership: Leadership,
    /// What etcd has been found to take.
    entries: usize,
    bytes: usize,
}

impl<'a> Proposing<'a> {
    pub(crate) fn new(shared: &'a Shared, leadership: Leadership) -> Self {
        Self { shared, leadership, entries: BATCH_ENTRIES, bytes: BATCH_BYTES }
    }

    /// Runs until the leadership is found to be lost.
    pub(crate) async fn run(mut self) {
        loop {
            let proposals = self.shared.queue.take(self.entries, self.bytes).await;
            if self.commit(proposals).await.is_err() {
                return;
            }
        }
    }

    /// Asks for one batch until it is known what became of it. Whoever waits for a proposal that is dropped here is
    /// told that its outcome is unknown.
    async fn commit(&mut self, proposals: Vec<Proposal>) -> Result<(), Lost> {
        let entries: Vec<Bytes> = proposals.iter().map(|proposal| proposal.data.clone()).collect();
        let batch = self.leadership.batch(&entries);
        let mut asked = 0_u32;
        loop {
            match self.shared.store.txn(&batch.txn).await {
                Ok(reply) => {
                    self.shared.contacted();
                    let outcome = self.leadership.judge(&batch, &reply);
                    if asked > 0 {
                        tracing::info!(node = %self.shared.node, first = %batch.first, asked, ?outcome, "settled");
                    }
                    return self.settle(proposals, &batch, outcome);
                }
                // etcd says so too after it has carried out the request that went beyond its quota.
                Err(StoreError::Refused(Refusal::NoSpace, why)) if asked == 0 => {
                    return self.look(proposals, &batch, &why).await;
                }
                // Nothing of it has ever been sent before: this answer is about all of it.
                Err(StoreError::Refused(refusal, why)) if asked == 0 => {
                    self.refused(proposals, refusal, &why);
                    return Ok(());
                }
                Err(error) => {
                    if asked == 0 {
                        tracing::warn!(node = %self.shared.node, first = %batch.first, "asking again: {error}");
                    }
                    asked += 1;
                    self.shared.runtime.clock.sleep(RETRY).await;
                }
            }
        }
    }

    /// Finds out whether a batch that was answered with a full store is there. It was asked for once, and is no more on
    /// its way.
    async fn look(&mut self, proposals: Vec<Proposal>, batch: &Batch, why: &str) -> Result<(), Lost> {
        let look = batch.look();
        let reply = loop {
            match self.shared.store.txn(&look).await {
                Ok(reply) => break TxnReply { succeeded: false, ..reply },
                Err(_) => self.shared.runtime.clock.sleep(RETRY).await,
            }
        };
        self.shared.contacted();
        match self.leadership.judge(batch, &reply) {
            Ok(Outcome::TailMoved(tail)) if tail == self.leadership.tail => {
                self.refused(proposals, Refusal::NoSpace, why);
                Ok(())
            }
            outcome => self.settle(proposals, batch, outcome),
        }
    }

    fn settle(
        &mut self,
        proposals: Vec<Proposal>,
        batch: &Batch,
        outcome: Result<Outcome, Damaged>,
    ) -> Result<(), Lost> {
        let tail = match outcome {
            Ok(Outcome::Committed) => {
                self.shared.committed(&self.leadership);
                let mut index = batch.first;
                for proposal in proposals {
                    let _ = proposal.answer.send(Ok(index));
                    index = index.next();
                }
                return Ok(());
            }
            Ok(Outcome::Lost) => {
                let hint = self.shared.hint();
                answer(proposals, ProposeError::NotLeader { hint });
                return Err(Lost);
            }
            Ok(Outcome::Unknown) => return Err(Lost),
            Ok(Outcome::TailMoved(tail)) => tail,
            Err(damaged) => {
                self.shared.fail(&HistoryLost::from(damaged).to_string());
                return Err(Lost);
            }
        };
        let (root, mine) = (self.leadership.keys.root(), self.leadership.tail);
        if tail.index < mine.index {
            self.shared.fail(&HistoryLost::Rewound { root, known: mine.index, tail: tail.index }.to_string());
        } else if tail != mine {
            self.shared.fail(&HistoryLost::Diverged { root, index: mine.index.next() }.to_string());
        }
        Err(Lost)
    }

    fn refused(&mut self, proposals: Vec<Proposal>, refusal: Refusal, why: &str) {
        match (refusal, proposals.len()) {
            (Refusal::TooLarge, 1) => answer(proposals, ProposeError::TooLarge),
            (Refusal::TooLarge, _) => {
                self.bytes = (self.bytes / 2).max(1);
                self.shared.queue.put_back(proposals);
            }
            (Refusal::TooManyOperations, 2..) => {
                self.entries = (self.entries / 2).max(1);
                self.shared.queue.put_back(proposals);
            }
            _ => {
                tracing::warn!(node = %self.shared.node, "proposals were refused: {why}");
                answer(proposals, ProposeError::Busy);
            }
        }
    }
}

fn answer(proposals: Vec<Proposal>, error: ProposeError) {
    for proposal in proposals {
        let _ = proposal.answer.send(Err(error));
    }
}
