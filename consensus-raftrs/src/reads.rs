//! Read barriers that wait for a quorum.
//!
//! All that wait share one request; those that come while it is under way share the next. A request that got lost is
//! made again under another context, so that a late answer to the first confirms nothing it should not.

use std::time::Duration;

use quorate_core::{consensus::Unavailable, ids::LogIndex, runtime::Moment};
use tokio::sync::oneshot;

pub(crate) type Barrier = Result<LogIndex, Unavailable>;

struct Waiting {
    deadline: Moment,
    done: oneshot::Sender<Barrier>,
}

struct Request {
    context: Vec<u8>,
    made: Moment,
    waiting: Vec<Waiting>,
}

/// Barriers that wait.
pub(crate) struct Reads {
    /// This life of this node: another one's requests are not ours.
    life: u64,
    count: u64,
    waiting: Vec<Waiting>,
    request: Option<Request>,
}

impl Reads {
    pub(crate) fn new(life: u64) -> Self {
        Self { life, count: 0, waiting: Vec::new(), request: None }
    }

    pub(crate) fn add(&mut self, deadline: Moment, done: oneshot::Sender<Barrier>) {
        self.waiting.push(Waiting { deadline, done });
    }

    /// The context of a request to make now, if there is one. One that was made longer than `patience` ago and not
    /// answered is made again.
    pub(crate) fn next(&mut self, now: Moment, patience: Duration) -> Option<Vec<u8>> {
        if let Some(lost) = self.request.take_if(|request| now.since(request.made) >= patience) {
            self.waiting.extend(lost.waiting);
        }
        if self.request.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.count += 1;
        let context = [self.life.to_be_bytes(), self.count.to_be_bytes()].concat();
        let waiting = std::mem::take(&mut self.waiting);
        self.request = Some(Request { context: context.clone(), made: now, waiting });
        Some(context)
    }

    /// A quorum has confirmed `index` for a request.
    pub(crate) fn confirmed(&mut self, context: &[u8], index: LogIndex) {
        let Some(request) = self.request.take_if(|request| request.context == context) else { return };
        for waiting in request.waiting {
            // Whoever asked may have stopped waiting.
            let _gone = waiting.done.send(Ok(index));
        }
    }

    /// Answers those whose time is up.
    pub(crate) fn expire(&mut self, now: Moment, why: impl Fn() -> String) {
        let due = |waiting: &mut Waiting| waiting.deadline <= now;
        let flying = self.request.as_mut().map(|request| &mut request.waiting);
        for list in flying.into_iter().chain([&mut self.waiting]) {
            for waiting in list.extract_if(.., due) {
                let _gone = waiting.done.send(Err(Unavailable(why())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_nanos(10);

    fn wait(reads: &mut Reads, deadline: u64) -> oneshot::Receiver<Barrier> {
        let (done, barrier) = oneshot::channel();
        reads.add(Moment(deadline), done);
        barrier
    }

    #[test]
    fn an_answer_confirms_only_those_who_asked_before_the_request() {
        let mut reads = Reads::new(7);
        let mut early = wait(&mut reads, 100);
        let first = reads.next(Moment(1), PATIENCE).unwrap();
        let mut late = wait(&mut reads, 100);
        assert_eq!(reads.next(Moment(2), PATIENCE), None, "one at a time");
        reads.confirmed(&first, LogIndex(5));
        assert_eq!(early.try_recv(), Ok(Ok(LogIndex(5))));
        assert!(late.try_recv().is_err());
        let second = reads.next(Moment(3), PATIENCE).unwrap();
        reads.confirmed(&first, LogIndex(5));
        assert!(late.try_recv().is_err(), "an answer that comes twice");
        reads.confirmed(&second, LogIndex(6));
        assert_eq!(late.try_recv(), Ok(Ok(LogIndex(6))));
    }

    #[test]
    fn a_lost_request_is_made_again_and_not_for_ever() {
        let mut reads = Reads::new(7);
        let mut barrier = wait(&mut reads, 100);
        let first = reads.next(Moment(1), PATIENCE).unwrap();
        let second = reads.next(Moment(11), PATIENCE).unwrap();
        assert_ne!(first, second);
        reads.expire(Moment(100), || "nobody".to_owned());
        assert_eq!(barrier.try_recv(), Ok(Err(Unavailable("nobody".to_owned()))));
    }
}
