//! Compaction: a snapshot's chunks, then the key that makes it the newest, then the deletion of what it replaces.
//! Every step is a transaction that holds only while this node leads.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use quorate_core::consensus::{CompactError, LogIndex, Snapshot, SnapshotError, SnapshotMeta};

use crate::{
    head::Head,
    shared::{Fence, Shared},
    storage::{
        Op, Range, Revision, StoreError, Txn,
        keys::Keys,
        records::{SnapshotRecord, read_entry},
    },
};

/// A chunk in etcd; with its key it stays far below the largest request.
const CHUNK_BYTES: usize = 512 << 10;
/// Entries deleted by one transaction: etcd does nothing else meanwhile.
const DELETED_ENTRIES: u64 = 1_000;
/// How often a request without an answer is repeated before the compaction is given up.
const ATTEMPTS: u32 = 20;
const RETRY: Duration = Duration::from_millis(200);

/// Keeps the snapshot in etcd and deletes what it makes superfluous. On a node that does not lead nothing is done: the
/// log in etcd is everybody's, and whatever `snapshot` stands for stays readable there as entries.
pub(crate) async fn compact(shared: &Shared, snapshot: Snapshot) -> Result<(), CompactError> {
    let meta = snapshot.meta;
    let head = match shared.read_head().await {
        Ok(Ok(head)) => head,
        Ok(Err(lost)) => {
            shared.fail(&lost.to_string());
            return Err(CompactError::Storage(lost.to_string()));
        }
        Err(error) => return Err(CompactError::Unavailable(error.to_string())),
    };
    if meta.index > head.tail.index || meta.index == LogIndex(0) {
        return Err(CompactError::Foreign);
    }
    if head.snapshot.is_some_and(|kept| kept.index >= meta.index) {
        return Ok(());
    }
    let Some(fence) = shared.leading.get() else { return Ok(()) };
    let compaction = Compaction { shared, fence };
    compaction.check(&head, meta).await?;
    let record = compaction.upload(snapshot).await?;
    compaction.put(vec![Op::Put { key: shared.keys.snapshot(), value: record.write(), lease: None }]).await?;
    compaction.delete(&head, record.index).await?;
    shared.refresh.notify_one();
    Ok(())
}

struct Compaction<'a> {
    shared: &'a Shared,
    fence: Fence,
}

impl Compaction<'_> {
    /// The snapshot must be of this log.
    async fn check(&self, head: &Head, meta: SnapshotMeta) -> Result<(), CompactError> {
        let keys = &self.shared.keys;
        if meta.index < head.first {
            return Ok(());
        }
        let range = Keys::one(keys.entry(meta.index));
        let mut tries = 0;
        let page = loop {
            match self.shared.store.range(&range).await {
                Ok(page) => break page,
                Err(error) => self.pause(&mut tries, &error).await?,
            }
        };
        let entry = page.entries.first().map(|kv| read_entry(keys, kv)).transpose();
        let entry = entry.map_err(|damaged| CompactError::Storage(damaged.to_string()))?;
        match entry {
            Some(entry) if entry.chain != meta.chain || entry.epoch != meta.epoch => {
                Err(CompactError::Foreign)
            }
            _ => Ok(()),
        }
    }

    async fn upload(&self, snapshot: Snapshot) -> Result<SnapshotRecord, CompactError> {
        let index = snapshot.meta.index;
        let mut cutter = Cutter::new(snapshot);
        while let Some((number, chunk)) = cutter.next().await? {
            let key = self.shared.keys.chunk(index, number);
            self.put(vec![Op::Put { key, value: chunk, lease: None }]).await?;
        }
        Ok(cutter.record())
    }

    /// Deletes entries up to `index`, but neither the newest ones nor ever the last, and older snapshots.
    async fn delete(&self, head: &Head, index: LogIndex) -> Result<(), CompactError> {
        let keys = &self.shared.keys;
        let newest = head.tail.index.0.saturating_sub(self.shared.keep_entries);
        let end = newest.min(index.0).saturating_add(1);
        let mut from = head.first.0;
        while from < end {
            let to = from.saturating_add(DELETED_ENTRIES).min(end);
            let (first, next) = (keys.entry(LogIndex(from)), keys.entry(LogIndex(to)));
            self.put(vec![Op::Delete { from: first, to: next }]).await?;
            from = to;
        }
        let (from, to) = keys.chunks_before(index);
        self.put(vec![Op::Delete { from, to }]).await
    }

    /// One fenced transaction, asked until it is answered: doing it twice is doing it once.
    async fn put(&self, then: Vec<Op>) -> Result<(), CompactError> {
        let txn = Txn { when: vec![self.fence.compare.clone()], then, otherwise: Vec::new() };
        let mut tries = 0;
        loop {
            match self.shared.store.txn(&txn).await {
                Ok(reply) if reply.succeeded => return Ok(()),
                Ok(_) => return Err(CompactError::Unavailable("this node leads no more".to_owned())),
                Err(error) => self.pause(&mut tries, &error).await?,
            }
        }
    }

    async fn pause(&self, tries: &mut u32, error: &StoreError) -> Result<(), CompactError> {
        *tries += 1;
        let leading = self.shared.leading.get().as_ref() == Some(&self.fence);
        if *tries >= ATTEMPTS || !leading || matches!(error, StoreError::Refused(..)) {
            return Err(CompactError::Unavailable(error.to_string()));
        }
        self.shared.runtime.clock.sleep(RETRY).await;
        Ok(())
    }
}

/// Cuts a snapshot into the chunks that etcd keeps, one at a time: no more of it is ever held.
pub(crate) struct Cutter {
    meta: SnapshotMeta,
    source: BoxStream<'static, Result<Bytes, SnapshotError>>,
    waiting: BytesMut,
    ended: bool,
    chunks: u64,
    bytes: u64,
}

impl Cutter {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let Snapshot { meta, chunks: source } = snapshot;
        Self { meta, source, waiting: BytesMut::new(), ended: false, chunks: 0, bytes: 0 }
    }

    /// The next chunk with its number; `None` after the last, if they are as long as was announced.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Bytes)>, SnapshotError> {
        while !self.ended && self.waiting.len() < CHUNK_BYTES {
            match self.source.next().await.transpose()? {
                Some(bytes) => self.waiting.extend_from_slice(&bytes),
                None => self.ended = true,
            }
        }
        if self.waiting.is_empty() {
            let Self { bytes, meta, .. } = self;
            return match *bytes == meta.bytes {
                true => Ok(None),
                false => {
                    let reason = format!("it has {bytes} bytes and was announced with {}", meta.bytes);
                    Err(SnapshotError(reason))
                }
            };
        }
        let chunk = self.waiting.split_to(self.waiting.len().min(CHUNK_BYTES)).freeze();
        let number = self.chunks;
        self.chunks += 1;
        self.bytes = self.bytes.saturating_add(chunk.len() as u64);
        Ok(Some((number, chunk)))
    }

    /// What stands for the chunks so far.
    pub(crate) fn record(&self) -> SnapshotRecord {
        let Self { meta: SnapshotMeta { index, epoch, chain, .. }, bytes, chunks, .. } = *self;
        SnapshotRecord { index, epoch, chain, bytes, chunks }
    }
}

/// The snapshot of `record`, read chunk by chunk as of `revision`.
pub(crate) fn read(shared: &Arc<Shared>, record: SnapshotRecord, revision: Revision) -> Snapshot {
    let source = Chunks { shared: shared.clone(), record, revision, next: 0, bytes: 0 };
    let chunks = stream::try_unfold(source, |mut source| async move {
        Ok(source.next().await?.map(|chunk| (chunk, source)))
    });
    let chunks: BoxStream<'static, Result<Bytes, SnapshotError>> = chunks.boxed();
    Snapshot { meta: record.meta(), chunks }
}

struct Chunks {
    shared: Arc<Shared>,
    record: SnapshotRecord,
    revision: Revision,
    next: u64,
    bytes: u64,
}

impl Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        if self.next >= self.record.chunks {
            return match self.bytes == self.record.bytes {
                true => Ok(None),
                false => {
                    let Self { bytes, record, .. } = self;
                    Err(SnapshotError(format!("{bytes} of {} bytes are in etcd", record.bytes)))
                }
            };
        }
        let key = self.shared.keys.chunk(self.record.index, self.next);
        let range = Range { revision: self.revision, ..Keys::one(key) };
        let mut tries = 0;
        let page = loop {
            match self.shared.store.range(&range).await {
                Ok(page) => break page,
                Err(StoreError::Unknown(_)) if tries < ATTEMPTS && !self.shared.is_stopping() => {
                    tries += 1;
                    self.shared.runtime.clock.sleep(RETRY).await;
                }
                Err(error) => return Err(SnapshotError(error.to_string())),
            }
        };
        let Some(chunk) = page.entries.into_iter().next() else {
            return Err(SnapshotError("a newer snapshot has replaced it; read the log again".to_owned()));
        };
        self.next += 1;
        self.bytes = self.bytes.saturating_add(chunk.value.len() as u64);
        Ok(Some(chunk.value))
    }
}
