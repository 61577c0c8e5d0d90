//! Questions to peers, and their answers: messages that name each other by a number.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use quorate_core::ids::NodeId;
use tokio::sync::oneshot;

use crate::transport::Answer;

/// Questions that wait for their answers.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    last: AtomicU64,
    calls: Mutex<BTreeMap<u64, (NodeId, oneshot::Sender<Answer>)>>,
}

/// One question. Dropping it lets go of the answer.
pub(crate) struct Call {
    calls: Calls,
    pub(crate) id: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Calls {
    pub(crate) fn begin(&self, to: NodeId) -> Call {
        let id = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, answer) = oneshot::channel();
        self.0.calls.lock().insert(id, (to, sender));
        Call { calls: self.clone(), id, answer }
    }

    /// An answer has arrived. One that nobody waits for, or of another node than was asked, is let go.
    pub(crate) fn answer(&self, from: NodeId, id: u64, answer: Answer) {
        let mut calls = self.0.calls.lock();
        if calls.get(&id).is_some_and(|(asked, _)| *asked == from)
            && let Some((_, waiting)) = calls.remove(&id)
        {
            // Whoever asked may have stopped waiting.
            let _gone = waiting.send(answer);
        }
    }

    /// Messages to a node were lost: its answers are not waited for.
    pub(crate) fn lost(&self, node: NodeId) {
        self.0.calls.lock().retain(|_, (asked, _)| *asked != node);
    }
}

impl Call {
    /// The answer; `None` if there will be none.
    pub(crate) async fn answer(mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.0.calls.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: NodeId = NodeId(1);

    #[tokio::test]
    async fn an_answer_reaches_whoever_asked_and_nobody_else() {
        let calls = Calls::default();
        let (one, other) = (calls.begin(ASKED), calls.begin(ASKED));
        let id = one.id;
        calls.answer(NodeId(2), id, Answer::Done);
        calls.answer(ASKED, id, Answer::Canvass(true));
        calls.answer(ASKED, id, Answer::Canvass(false));
        assert!(matches!(one.answer().await, Some(Answer::Canvass(true))));
        calls.lost(NodeId(2));
        assert_eq!(calls.0.calls.lock().len(), 1);
        calls.lost(ASKED);
        assert!(other.answer().await.is_none());
    }

    #[test]
    fn a_question_that_is_dropped_leaves_nothing() {
        let calls = Calls::default();
        drop(calls.begin(ASKED));
        assert!(calls.0.calls.lock().is_empty());
    }
}
