//! Snapshots that the host reads.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use quorate_core::consensus::{SNAPSHOT_CHUNK_BYTES, Snapshot, SnapshotError};

use crate::answer::Answer;
use crate::raw::{committed, status};

/// Snapshots that are read at the same time; the oldest is given up for one more.
const OPEN: usize = 64;

#[derive(Default)]
pub(super) struct Outgoing(Mutex<Open>);

#[derive(Default)]
struct Open {
    last: u64,
    snapshots: BTreeMap<u64, Arc<tokio::sync::Mutex<Reading>>>,
}

struct Reading {
    chunks: BoxStream<'static, Result<Bytes, SnapshotError>>,
    offset: u64,
    /// The rest of a chunk that was larger than one may be.
    rest: Bytes,
}

impl Outgoing {
    /// The answer that names a snapshot.
    pub(super) fn open(&self, snapshot: Snapshot) -> Answer {
        let reading = Reading { chunks: snapshot.chunks, offset: 0, rest: Bytes::new() };
        let mut open = self.0.lock();
        open.last += 1;
        let name = open.last;
        let given_up = if open.snapshots.len() >= OPEN { open.snapshots.pop_first() } else { None };
        open.snapshots.insert(name, Arc::new(tokio::sync::Mutex::new(reading)));
        drop(open);
        drop(given_up);
        Answer {
            kind: committed::SNAPSHOT,
            snapshot: name,
            meta: Some(snapshot.meta),
            ..Answer::of(status::OK)
        }
    }

    /// The chunk of a snapshot at `offset`.
    pub(super) async fn read(&self, name: u64, offset: u64) -> Answer {
        let reading = self.0.lock().snapshots.get(&name).cloned();
        let Some(reading) = reading else {
            return Answer::because(status::SNAPSHOT, format!("there is no snapshot {name} to read"));
        };
        let mut reading = reading.lock().await;
        if offset != reading.offset {
            let sentence = format!("read at {offset}, and the next chunk begins at {}", reading.offset);
            return Answer::because(status::SNAPSHOT, sentence);
        }
        match reading.next().await {
            Ok(data) => Answer { data, ..Answer::of(status::OK) },
            Err(SnapshotError(why)) => Answer::because(status::SNAPSHOT, why),
        }
    }

    pub(super) fn close(&self, name: u64) {
        let closed = self.0.lock().snapshots.remove(&name);
        drop(closed);
    }

    pub(super) fn clear(&self) {
        let closed = std::mem::take(&mut self.0.lock().snapshots);
        drop(closed);
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Bytes, SnapshotError> {
        while self.rest.is_empty() {
            match self.chunks.next().await {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(Bytes::new()),
            }
        }
        let chunk = self.rest.split_to(self.rest.len().min(SNAPSHOT_CHUNK_BYTES));
        self.offset += chunk.len() as u64;
        Ok(chunk)
    }
}
