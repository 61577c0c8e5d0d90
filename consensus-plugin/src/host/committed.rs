//! The committed log of a library's node, as a stream: one request at a time, and every answer checked.

use std::{collections::VecDeque, sync::Weak};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use quorate_core::consensus::{
    Committed, Epoch, LogIndex, SNAPSHOT_CHUNK_BYTES, Snapshot, SnapshotError, SnapshotMeta,
};
use tokio_util::sync::CancellationToken;

use super::backend::Shared;
use crate::{
    answer::Answer,
    raw::{committed, status},
};

/// A reader's place.
pub(super) struct Reader {
    pub(super) shared: Weak<Shared>,
    pub(super) ended: CancellationToken,
    pub(super) after: LogIndex,
    pub(super) epoch: Epoch,
    pub(super) ready: VecDeque<(LogIndex, Epoch, Bytes)>,
}

impl Reader {
    pub(super) fn stream(self) -> BoxStream<'static, Committed> {
        stream::unfold(self, |mut reader| async move { Some((reader.next().await?, reader)) }).boxed()
    }

    async fn next(&mut self) -> Option<Committed> {
        if self.ended.is_cancelled() {
            return None;
        }
        if let Some((index, epoch, data)) = self.ready.pop_front() {
            return Some(Committed::Entry { index, epoch, data });
        }
        let call = self.shared.upgrade()?.node.next_committed(self.after);
        let outcome = tokio::select! { biased;
            () = self.ended.cancelled() => return None,
            outcome = call.answer() => outcome,
        };
        let shared = self.shared.upgrade()?;
        let answer = shared.checked("next_committed", outcome).ok()?;
        match (answer.status, answer.kind) {
            (status::OK, committed::ENTRIES) => self.entries(&shared, answer),
            (status::OK, committed::SNAPSHOT) => self.snapshot(&shared, &answer),
            (status::OK, kind) => {
                shared.fail_contract("next_committed", &format!("the kind {kind}"));
                None
            }
            (status::STOPPED, _) => None,
            _ => {
                shared.unexpected("next_committed", &answer);
                None
            }
        }
    }

    fn entries(&mut self, shared: &Shared, answer: Answer) -> Option<Committed> {
        for (index, epoch, _) in &answer.entries {
            if Some(index.0) != self.after.0.checked_add(1) || *epoch < self.epoch {
                let what = format!("entry {index} of epoch {epoch} after {} of {}", self.after, self.epoch);
                shared.fail_contract("next_committed", &what);
                return None;
            }
            (self.after, self.epoch) = (*index, *epoch);
        }
        self.ready = answer.entries.into();
        let Some((index, epoch, data)) = self.ready.pop_front() else {
            shared.fail_contract("next_committed", "no entry");
            return None;
        };
        Some(Committed::Entry { index, epoch, data })
    }

    fn snapshot(&mut self, shared: &Shared, answer: &Answer) -> Option<Committed> {
        let newer = |meta: &SnapshotMeta| meta.index > self.after && meta.epoch >= self.epoch;
        let Some(meta) = answer.meta.filter(|meta| newer(meta) && answer.snapshot != 0) else {
            shared.fail_contract("next_committed", "a snapshot that is none, or older than what was read");
            return None;
        };
        (self.after, self.epoch) = (meta.index, meta.epoch);
        let chunks = Chunks {
            shared: self.shared.clone(),
            ended: self.ended.clone(),
            snapshot: answer.snapshot,
            offset: 0,
            bytes: meta.bytes,
        };
        Some(Committed::Snapshot(Snapshot { meta, chunks: chunks.stream() }))
    }
}

/// A snapshot that is being read.
struct Chunks {
    shared: Weak<Shared>,
    ended: CancellationToken,
    snapshot: u64,
    offset: u64,
    bytes: u64,
}

impl Chunks {
    fn stream(self) -> BoxStream<'static, Result<Bytes, SnapshotError>> {
        stream::unfold(Some(self), |chunks| async move {
            let mut chunks = chunks?;
            match chunks.next().await {
                Some(Ok(chunk)) => Some((Ok(chunk), Some(chunks))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes, SnapshotError>> {
        if self.offset == self.bytes {
            return None;
        }
        Some(self.read().await.map_err(SnapshotError))
    }

    async fn read(&mut self) -> Result<Bytes, String> {
        let stopped = || "the backend has stopped".to_owned();
        let (call, limit) = {
            let shared = self.shared.upgrade().filter(|shared| !shared.has_ended()).ok_or_else(stopped)?;
            (shared.node.read_snapshot(self.snapshot, self.offset), shared.library.limits().call)
        };
        let outcome = tokio::select! { biased;
            () = self.ended.cancelled() => return Err(stopped()),
            outcome = call.answer_within(limit) => outcome,
        };
        let shared = self.shared.upgrade().ok_or_else(stopped)?;
        let answer = shared
            .checked("read_snapshot", outcome)
            .map_err(|_| "the backend has not answered for a chunk".to_owned())?;
        if answer.status != status::OK {
            return Err(answer.sentence());
        }
        let left = self.bytes.saturating_sub(self.offset);
        let length = answer.data.len();
        if length == 0 || length > SNAPSHOT_CHUNK_BYTES || length as u64 > left {
            return Err(format!("a chunk of {length} bytes where {left} are left"));
        }
        self.offset = self.offset.saturating_add(length as u64);
        Ok(answer.data)
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade().filter(|shared| !shared.has_ended()) {
            shared.node.drop_snapshot(self.snapshot);
        }
    }
}
