//! The calls that wait for their answer, by token.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use quorate_core::runtime::Clock;
use tokio::sync::oneshot;

use crate::{answer::Answer, raw};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The node has ended.
    Ended,
    /// The library took longer than it may.
    Late,
    /// The answer is not what the header says.
    Malformed(String),
}

type Outcome = Result<Answer, NoAnswer>;

/// The calls of one node that were not answered yet.
#[derive(Debug)]
pub(super) struct Calls {
    library: &'static str,
    entry_bytes: usize,
    clock: Clock,
    next: AtomicU64,
    /// `None` once the node has ended.
    waiting: Mutex<Option<BTreeMap<u64, oneshot::Sender<Outcome>>>>,
}

/// One call that waits. Dropping it makes its answer a late one, which is ignored.
pub(super) struct Call {
    pub(super) token: u64,
    calls: Arc<Calls>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Calls {
    pub(super) fn new(library: &'static str, entry_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            library,
            entry_bytes,
            clock: Clock::system(),
            next: AtomicU64::new(1),
            waiting: Mutex::new(Some(BTreeMap::new())),
        })
    }

    /// The library's name, as its folders record it.
    pub(super) fn library(&self) -> &'static str {
        self.library
    }

    /// A token that an answer is awaited for. Never 0.
    pub(super) fn begin(self: &Arc<Self>) -> Call {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, outcome) = oneshot::channel();
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.insert(token, sender);
        }
        Call { token, calls: self.clone(), outcome }
    }

    /// Takes an answer. One that nobody waits for is ignored, unread.
    ///
    /// # Safety
    /// As [`Answer::copy`].
    pub(super) unsafe fn complete(&self, token: u64, reply: *const raw::Reply) {
        let waiter = self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&token));
        let Some(waiter) = waiter else { return };
        // SAFETY: by this function's own contract.
        let answer = unsafe { Answer::copy(reply, self.entry_bytes) };
        // Whoever asked may have gone since.
        let _ = waiter.send(answer.map_err(NoAnswer::Malformed));
    }

    /// Ends every call, and those to come: nobody answers any more.
    pub(super) fn end(&self) {
        drop(self.waiting.lock().take());
    }
}

impl Call {
    /// The answer, however long it takes.
    pub(super) async fn answer(mut self) -> Outcome {
        (&mut self.outcome).await.unwrap_or(Err(NoAnswer::Ended))
    }

    /// The answer, if it comes in time.
    pub(super) async fn answer_within(self, limit: Duration) -> Outcome {
        let clock = self.calls.clock.clone();
        clock.timeout(limit, self.answer()).await.unwrap_or(Err(NoAnswer::Late))
    }

    /// The answer, if it is there.
    pub(super) fn answer_now(mut self) -> Outcome {
        match self.outcome.try_recv() {
            Ok(outcome) => outcome,
            Err(oneshot::error::TryRecvError::Empty) => Err(NoAnswer::Late),
            Err(oneshot::error::TryRecvError::Closed) => Err(NoAnswer::Ended),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(waiting) = self.calls.waiting.lock().as_mut() {
            waiting.remove(&self.token);
        }
    }
}
