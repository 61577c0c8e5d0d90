//! The port, implemented.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use quorate_consensus_kit::{
    config::{QUEUED_BYTES, QUEUED_PROPOSALS, TAIL_ENTRIES},
    founding::Phase,
    opening::{Begun, Scope, begin, guarded, keep},
};
use quorate_core::{
    consensus::{
        Committed, CompactError, Consensus, LeaderEvents, LogIndex, MembershipChange, MembershipError,
        ProposeError, Resume, Running, Snapshot, StartError, Status, Unavailable,
    },
    ids::Epoch,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    config::{MAX_ENTRY_BYTES, RaftrsConfig, Shared},
    engine::{Command, Starter, build},
};

/// The configured backend.
pub struct Raftrs {
    config: RaftrsConfig,
    tail: u64,
}

impl Raftrs {
    /// Checks the configuration. Touches nothing, waits for nothing.
    ///
    /// # Errors
    /// [`StartError::Config`], with a sentence that names the key.
    pub fn new(config: RaftrsConfig) -> Result<Self, StartError> {
        config.check()?;
        Ok(Self { config, tail: TAIL_ENTRIES })
    }

    /// Keeps so many entries behind a snapshot for readers and followers that are slow, instead of 10,000.
    #[must_use]
    pub fn with_tail(self, tail: u64) -> Self {
        Self { tail, ..self }
    }
}

#[async_trait]
impl Consensus for Raftrs {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        let Self { config, tail } = *self;
        let (node, timings) = (config.node, config.timings);
        let Begun { shared, phase, events, runtime, scope, folder, directory } =
            begin("raftrs", config, tail, resume)?;
        let (sender, commands) = mpsc::channel(QUEUED_PROPOSALS);
        let starter = Starter {
            me: node,
            directory,
            folder: folder.clone(),
            timings,
            runtime: runtime.clone(),
            shared: shared.clone(),
            events,
            commands,
        };
        if let Phase::Final(charter) = phase {
            let recovered = build(&folder, charter, &shared, &runtime, resume).await?;
            runtime.tasks.spawn(guarded(shared.clone(), starter.run_with(recovered)));
        } else {
            runtime.tasks.spawn(guarded(shared.clone(), starter.run()));
        }
        let room = Arc::new(Semaphore::new(QUEUED_BYTES));
        Ok(Arc::new(Handle {
            shared,
            commands: sender,
            room,
            scope,
            compacting: tokio::sync::Mutex::new(()),
        }))
    }
}

struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    /// Bytes of proposals that may wait for the engine.
    room: Arc<Semaphore>,
    scope: Scope,
    compacting: tokio::sync::Mutex<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Handle {
    fn is_stopped(&self) -> bool {
        self.shared.progress.borrow().stopped
    }

    async fn keep(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        let parts = self.shared.parts.get().ok_or(CompactError::Foreign)?.clone();
        let committed = self.shared.progress.borrow().committed;
        let kept = keep(&parts, committed, snapshot, |membership| membership.encode().into()).await?;
        let behind = LogIndex(kept.0.saturating_sub(self.shared.tail));
        parts.log.forget(behind).await.map_err(|error| CompactError::Storage(error.to_string()))
    }
}

#[async_trait]
impl Running for Handle {
    fn leader_events(&self) -> LeaderEvents {
        self.shared.announcer.subscribe()
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        self.shared.committed(after)
    }

    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError> {
        if entry.is_empty() || entry.len() > MAX_ENTRY_BYTES {
            return Err(ProposeError::TooLarge);
        }
        let bytes = u32::try_from(entry.len()).map_err(|_| ProposeError::TooLarge)?;
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| ProposeError::Busy)?;
        let (done, outcome) = oneshot::channel();
        let command = Command::Propose { epoch, entry, room, done };
        match self.commands.try_send(command) {
            Ok(()) if self.is_stopped() => return Err(ProposeError::Unknown),
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ProposeError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ProposeError::Stopped),
        }
        // The engine bounds how long a proposal waits for a quorum; a disk that hangs is bounded here.
        let patience = self.shared.timings.election_max * 10;
        let outcome = self.shared.clock.timeout(patience, outcome).await;
        outcome.unwrap_or(Ok(Err(ProposeError::Unknown))).unwrap_or(Err(ProposeError::Unknown))
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        let (done, barrier) = oneshot::channel();
        let stopped = || Unavailable("the backend has stopped".to_owned());
        self.commands.send(Command::Read { done }).await.map_err(|_| stopped())?;
        let patience = self.shared.timings.election_max * 10;
        match self.shared.clock.timeout(patience, barrier).await {
            Ok(barrier) => barrier.unwrap_or_else(|_| Err(stopped())),
            Err(_) => Err(Unavailable("the disk of this node hangs".to_owned())),
        }
    }

    async fn compact(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        if self.is_stopped() {
            return Err(CompactError::Unavailable("the backend has stopped".to_owned()));
        }
        let _one_at_a_time = self.compacting.lock().await;
        let kept = self.keep(snapshot).await;
        if let Err(CompactError::Storage(sentence)) = &kept {
            self.shared.fail(sentence.clone());
        }
        kept
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<(), MembershipError> {
        let (done, changed) = oneshot::channel();
        let stopped = || MembershipError::Unavailable("the backend has stopped".to_owned());
        self.commands.send(Command::Change { change, done }).await.map_err(|_| stopped())?;
        changed.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn resign(&self, epoch: Epoch) {
        let (done, resigned) = oneshot::channel();
        if self.commands.send(Command::Resign { epoch, done }).await.is_ok() {
            // An engine that has ended leads nothing.
            let _ended = resigned.await;
        }
    }

    fn status(&self) -> Status {
        self.shared.status()
    }

    async fn shutdown(&self) {
        let (done, left) = oneshot::channel();
        let leaving = async {
            if self.commands.send(Command::Shutdown { done }).await.is_ok() {
                let _ended = left.await;
            }
        };
        // A disk that hangs must not keep the process: then this is a crash, and as safe as one.
        let patience = self.shared.timings.election_max * 4;
        if self.shared.clock.timeout(patience, leaving).await.is_err() {
            tracing::warn!("the backend was stopped without waiting for its disk");
        }
        self.shared.stop();
        self.scope.kill();
    }
}
