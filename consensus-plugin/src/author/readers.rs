//! The places of those who read the committed log, kept from one request to the next.

use std::collections::VecDeque;

use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use quorate_core::consensus::{Committed, LogIndex, Running, Snapshot};

use crate::answer::{Answer, ENTRIES_MAX};
use crate::raw::{committed, status};

/// Readers that are remembered; a broker has one, and a test a few.
const KEPT: usize = 8;

/// Streams by the place that they have come to.
#[derive(Default)]
pub(super) struct Readers(Mutex<VecDeque<Reader>>);

/// A stream of the log that has come to a place.
pub(super) struct Reader {
    after: LogIndex,
    stream: BoxStream<'static, Committed>,
    /// Read from the stream and not passed on yet.
    pending: Option<Committed>,
}

/// What comes next for a reader.
pub(super) enum Batch {
    Entries(Answer),
    Snapshot(Snapshot),
    Ended,
}

impl Readers {
    /// The reader that has come to `after`, or a new one.
    pub(super) fn at(&self, after: LogIndex, running: &dyn Running) -> Reader {
        let kept = {
            let mut kept = self.0.lock();
            let at = kept.iter().position(|reader| reader.after == after);
            at.and_then(|at| kept.remove(at))
        };
        kept.unwrap_or_else(|| Reader { after, stream: running.committed(after), pending: None })
    }

    /// Remembers a reader for its next request.
    pub(super) fn keep(&self, reader: Reader) {
        let mut kept = self.0.lock();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(reader);
    }

    pub(super) fn clear(&self) {
        let forgotten = std::mem::take(&mut *self.0.lock());
        drop(forgotten);
    }
}

impl Reader {
    /// Waits for the next item, and takes those entries along that are there and that `bytes_max` has room for.
    pub(super) async fn next(&mut self, bytes_max: usize) -> Batch {
        let first = match self.pending.take() {
            Some(pending) => Some(pending),
            None => self.stream.next().await,
        };
        let mut answer = Answer { kind: committed::ENTRIES, ..Answer::of(status::OK) };
        let mut bytes = match first {
            None => return Batch::Ended,
            Some(Committed::Snapshot(snapshot)) => {
                self.after = snapshot.meta.index;
                return Batch::Snapshot(snapshot);
            }
            Some(Committed::Entry { index, epoch, data }) => {
                let bytes = data.len();
                self.after = index;
                answer.entries.push((index, epoch, data));
                bytes
            }
        };
        while answer.entries.len() < ENTRIES_MAX {
            match self.stream.next().now_or_never().flatten() {
                Some(Committed::Entry { index, epoch, data }) if bytes + data.len() <= bytes_max => {
                    bytes += data.len();
                    self.after = index;
                    answer.entries.push((index, epoch, data));
                }
                other => {
                    self.pending = other;
                    break;
                }
            }
        }
        Batch::Entries(answer)
    }
}
