//! Snapshots that the host gives the backend to keep.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use quorate_core::consensus::{CompactError, Running, Snapshot, SnapshotError, SnapshotMeta};
use tokio::sync::{mpsc, oneshot};

use crate::answer::Answer;
use crate::raw::status;

/// Snapshots that are given at the same time.
const OPEN: usize = 16;

#[derive(Default)]
pub(super) struct Incoming(Mutex<Open>);

#[derive(Default)]
struct Open {
    last: u64,
    snapshots: BTreeMap<u64, Writing>,
}

struct Writing {
    chunks: mpsc::Sender<Result<Bytes, SnapshotError>>,
    outcome: oneshot::Receiver<Answer>,
}

impl Incoming {
    /// The answer that names a snapshot, and what is to be run to keep it.
    pub(super) fn open(
        &self,
        running: Arc<dyn Running>,
        meta: SnapshotMeta,
    ) -> Result<(Answer, impl Future<Output = ()> + Send + use<>), &'static str> {
        // One chunk at a time: the host waits until the backend has taken the one before.
        let (chunks, receiver) = mpsc::channel(1);
        let (done, outcome) = oneshot::channel();
        let name = {
            let mut open = self.0.lock();
            if open.snapshots.len() >= OPEN {
                return Err("too many snapshots at the same time");
            }
            open.last += 1;
            let name = open.last;
            open.snapshots.insert(name, Writing { chunks, outcome });
            name
        };
        let chunks =
            stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        let snapshot = Snapshot { meta, chunks: chunks.boxed() };
        let keep = async move {
            let kept = AssertUnwindSafe(running.compact(snapshot)).catch_unwind().await;
            let answer = kept.map_or_else(|_| Answer::of(status::PANIC), answer);
            // The host may have given up.
            let _ = done.send(answer);
        };
        Ok((Answer { snapshot: name, ..Answer::of(status::OK) }, keep))
    }

    /// Passes a chunk on.
    pub(super) async fn push(&self, name: u64, chunk: Bytes) -> Answer {
        let chunks = self.0.lock().snapshots.get(&name).map(|writing| writing.chunks.clone());
        let Some(chunks) = chunks else { return unknown(name) };
        // A backend that has finished early needs no more of it; the end says how it went.
        let _ = chunks.send(Ok(chunk)).await;
        Answer::of(status::OK)
    }

    /// Ends a snapshot, and says what became of it.
    pub(super) async fn finish(&self, name: u64, keep: bool) -> Answer {
        let writing = self.0.lock().snapshots.remove(&name);
        let Some(Writing { chunks, outcome }) = writing else { return unknown(name) };
        if !keep {
            let _ = chunks.send(Err(SnapshotError("the broker has given it up".to_owned()))).await;
        }
        drop(chunks);
        let answer = outcome.await.unwrap_or_else(|_| Answer::of(status::STOPPED));
        if keep || answer.status == status::PANIC { answer } else { Answer::of(status::OK) }
    }

    pub(super) fn clear(&self) {
        let given_up = std::mem::take(&mut self.0.lock().snapshots);
        drop(given_up);
    }
}

fn unknown(name: u64) -> Answer {
    Answer::because(status::SNAPSHOT, format!("there is no snapshot {name} to write"))
}

fn answer(kept: Result<(), CompactError>) -> Answer {
    match kept {
        Ok(()) => Answer::of(status::OK),
        Err(CompactError::Unavailable(why)) => Answer::because(status::UNAVAILABLE, why),
        Err(CompactError::Foreign) => Answer::of(status::FOREIGN),
        Err(CompactError::Snapshot(SnapshotError(why))) => Answer::because(status::SNAPSHOT, why),
        Err(CompactError::Storage(why)) => Answer::because(status::STORAGE, why),
    }
}
