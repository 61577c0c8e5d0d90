//! The port's calls on a library's running node.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use quorate_core::{
    consensus::{
        Committed, CompactError, Epoch, LeaderEvents, LogIndex, MembershipChange, MembershipError,
        ProposeError, Running, SNAPSHOT_CHUNK_BYTES, Snapshot, SnapshotError, Status, Unavailable,
    },
    runtime::TaskScope,
};
use tokio::sync::OnceCell;

use super::{
    backend::Shared,
    calls::{Call, NoAnswer},
    committed::Reader,
};
use crate::{Capability, answer::Answer, raw::status};

/// A running node. Dropping it is a crash.
pub(super) struct Handle {
    shared: Arc<Shared>,
    tasks: TaskScope,
    told_to_stop: AtomicBool,
    stopped: OnceCell<()>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, tasks: TaskScope) -> Self {
        Self { shared, tasks, told_to_stop: AtomicBool::new(false), stopped: OnceCell::new() }
    }

    /// The answer to one of the calls that ask a quorum.
    async fn ask(&self, entry: &str, send: impl FnOnce(&Shared) -> Call) -> Result<Answer, String> {
        if self.shared.has_ended() {
            return Err("the backend has stopped".to_owned());
        }
        let limit = self.shared.library.limits().call;
        let outcome = send(&self.shared).answer_within(limit).await;
        self.shared.checked(entry, outcome).map_err(|none| match none {
            NoAnswer::Late => format!("the backend has not answered within {} s", limit.as_secs()),
            _ => "the backend has stopped".to_owned(),
        })
    }

    async fn compaction(
        &self,
        entry: &str,
        send: impl FnOnce(&Shared) -> Call,
    ) -> Result<Answer, CompactError> {
        let answer = self.ask(entry, send).await.map_err(CompactError::Unavailable)?;
        Err(match answer.status {
            status::OK => return Ok(answer),
            status::UNAVAILABLE | status::STOPPED => CompactError::Unavailable(answer.sentence()),
            status::FOREIGN => CompactError::Foreign,
            status::SNAPSHOT => SnapshotError(answer.sentence()).into(),
            status::STORAGE => CompactError::Storage(answer.sentence()),
            _ => {
                self.shared.unexpected(entry, &answer);
                CompactError::Unavailable("the backend has failed".to_owned())
            }
        })
    }

    async fn stop_node(&self) {
        if !self.shared.has_ended() && !self.told_to_stop.swap(true, Ordering::Relaxed) {
            let limit = self.shared.library.limits().stop;
            let outcome = self.shared.node.shutdown().answer_within(limit).await;
            match self.shared.checked("shutdown", outcome) {
                Err(NoAnswer::Late) => {
                    tracing::error!("the consensus backend has not stopped within {} s", limit.as_secs());
                }
                Ok(answer) if answer.status != status::OK => {
                    tracing::error!("the consensus backend has not stopped in order: {}", answer.sentence());
                }
                _ => drop(self.shared.status()),
            }
        }
        self.shared.end();
        self.tasks.stop().await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end();
        self.tasks.kill();
    }
}

#[async_trait]
impl Running for Handle {
    fn leader_events(&self) -> LeaderEvents {
        self.shared.announcer.subscribe()
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        let reader = Reader {
            shared: Arc::downgrade(&self.shared),
            ended: self.shared.ended.clone(),
            after,
            epoch: Epoch(0),
            ready: VecDeque::new(),
        };
        reader.stream()
    }

    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError> {
        if entry.is_empty() || entry.len() > self.shared.library.entry_bytes() {
            return Err(ProposeError::TooLarge);
        }
        if self.shared.has_ended() {
            return Err(ProposeError::Stopped);
        }
        let limit = self.shared.library.limits().propose;
        let outcome = self.shared.node.propose(epoch, &entry).answer_within(limit).await;
        let answer = self.shared.checked("propose", outcome).map_err(|_| ProposeError::Unknown)?;
        Err(match answer.status {
            status::OK if answer.index.0 > 0 => return Ok(answer.index),
            status::NOT_LEADER => ProposeError::NotLeader { hint: answer.node },
            status::TOO_LARGE => ProposeError::TooLarge,
            status::BUSY => ProposeError::Busy,
            status::UNKNOWN => ProposeError::Unknown,
            status::STOPPED => ProposeError::Stopped,
            _ => {
                self.shared.unexpected("propose", &answer);
                ProposeError::Unknown
            }
        })
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        let answer =
            self.ask("read_barrier", |shared| shared.node.read_barrier()).await.map_err(Unavailable)?;
        match answer.status {
            status::OK => Ok(answer.index),
            status::UNAVAILABLE | status::STOPPED => Err(Unavailable(answer.sentence())),
            _ => {
                self.shared.unexpected("read_barrier", &answer);
                Err(Unavailable("the backend has failed".to_owned()))
            }
        }
    }

    async fn compact(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        let Snapshot { meta, mut chunks } = snapshot;
        let begun = self.compaction("compact_begin", |shared| shared.node.compact_begin(meta)).await?;
        if begun.snapshot == 0 {
            return Ok(());
        }
        let writing = Writing { shared: &self.shared, snapshot: begun.snapshot };
        let mut left = meta.bytes;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            if chunk.len() > SNAPSHOT_CHUNK_BYTES || chunk.len() as u64 > left {
                return Err(SnapshotError("larger than it says".to_owned()).into());
            }
            left = left.saturating_sub(chunk.len() as u64);
            if !chunk.is_empty() {
                self.compaction("compact_chunk", |shared| shared.node.compact_chunk(begun.snapshot, &chunk))
                    .await?;
            }
        }
        if left > 0 {
            return Err(SnapshotError("shorter than it says".to_owned()).into());
        }
        let finish = |shared: &Shared| shared.node.compact_finish(writing.keep(), true);
        self.compaction("compact_finish", finish).await.map(drop)
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<(), MembershipError> {
        if !self.shared.library.can(Capability::Membership) {
            return Err(MembershipError::Unsupported);
        }
        let answer = self.ask("change_membership", |shared| shared.node.change_membership(&change)).await;
        let answer = answer.map_err(MembershipError::Unavailable)?;
        match answer.status {
            status::OK => Ok(()),
            status::UNSUPPORTED => Err(MembershipError::Unsupported),
            status::NOT_LEADER => Err(MembershipError::NotLeader),
            status::IN_PROGRESS => Err(MembershipError::InProgress),
            status::UNAVAILABLE | status::STOPPED => Err(MembershipError::Unavailable(answer.sentence())),
            _ => {
                self.shared.unexpected("change_membership", &answer);
                Err(MembershipError::Unavailable("the backend has failed".to_owned()))
            }
        }
    }

    async fn resign(&self, epoch: Epoch) {
        if self.shared.has_ended() {
            return;
        }
        let limit = self.shared.library.limits().stop;
        let outcome = self.shared.node.resign(epoch).answer_within(limit).await;
        if matches!(self.shared.checked("resign", outcome), Err(NoAnswer::Late)) {
            tracing::warn!("the consensus backend has not resigned within {} s", limit.as_secs());
        }
    }

    fn status(&self) -> Status {
        self.shared.status()
    }

    async fn shutdown(&self) {
        self.stopped.get_or_init(|| self.stop_node()).await;
    }
}

/// A snapshot that the library is being given, to be forgotten unless it is kept.
struct Writing<'a> {
    shared: &'a Shared,
    snapshot: u64,
}

impl Writing<'_> {
    /// It is no longer to be forgotten.
    fn keep(self) -> u64 {
        let snapshot = self.snapshot;
        std::mem::forget(self);
        snapshot
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.shared.has_ended() {
            // Nobody waits for the answer.
            drop(self.shared.node.compact_finish(self.snapshot, false));
        }
    }
}
