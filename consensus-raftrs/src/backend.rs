//! The port, implemented.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use quorate_consensus_kit::{
    founding::{Founding, FoundingConfig, Phase},
    snapshot::{SnapshotFileError, point},
    transport::{Transport, TransportConfig},
};
use quorate_core::{
    consensus::{
        Committed, CompactError, Consensus, LeaderEvents, LogIndex, MembershipChange, MembershipError,
        ProposeError, Resume, Running, Snapshot, StartError, Status, Unavailable, leader_channel,
    },
    ids::Epoch,
    runtime::{Runtime, TaskScope},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    config::{MAX_ENTRY_BYTES, MESSAGE_BYTES, QUEUED_BYTES, QUEUED_PROPOSALS, RaftrsConfig, TAIL_ENTRIES},
    engine::{Command, Starter, build},
    shared::{Facts, Progress, Shared},
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
        let RaftrsConfig { node, directory_id, folder, voters, incoming, timings, runtime } = config;
        let runtime = Runtime { tasks: runtime.tasks.child(), ..runtime };
        // Whatever goes wrong from here on, nothing is left running.
        let scope = Scope(runtime.tasks.clone());
        let founding = FoundingConfig {
            node,
            directory: directory_id,
            voters: voters.clone(),
            path: folder.join("founding"),
        };
        let founding = Founding::open(founding, &runtime);
        let founding = Arc::new(founding.map_err(|error| StartError::Storage(error.to_string()))?);
        let phase = founding.claim().phase;
        check_cluster(&phase, resume, &folder)?;
        let transport = TransportConfig {
            engine: "raftrs",
            node,
            directory: directory_id,
            endpoints: voters.clone(),
            message_bytes: MESSAGE_BYTES,
            patience: timings.election_max * 2,
        };
        let (transport, events) = Transport::start(transport, founding.clone(), incoming, &runtime);
        let (announcer, _) = leader_channel();
        let shared = Arc::new(Shared {
            me: node,
            voters,
            timings,
            tail,
            clock: runtime.clock.clone(),
            announcer,
            progress: watch::Sender::new(Progress::default()),
            founding,
            transport,
            parts: OnceLock::new(),
            facts: Mutex::new(Facts::default()),
            fatal: Mutex::new(None),
        });
        let (sender, commands) = mpsc::channel(QUEUED_PROPOSALS);
        let starter = Starter {
            me: node,
            directory: directory_id,
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

/// Whether the caller's state and this folder are of one cluster.
fn check_cluster(phase: &Phase, resume: Resume, folder: &std::path::Path) -> Result<(), StartError> {
    let Some(log) = resume.log_id else { return Ok(()) };
    match phase {
        Phase::Final(charter) if charter.log == log => Ok(()),
        Phase::Final(charter) => Err(StartError::Foreign(format!(
            "the consensus folder {} is of the cluster {}, this node's metadata is of {log}; \
             bring the two together again, or empty the data directory, and remove and add this voter",
            folder.display(),
            charter.log
        ))),
        Phase::Fresh | Phase::Tentative(_) => Err(StartError::Foreign(format!(
            "the consensus folder {} is empty, but this node's metadata is of the cluster {log}: its votes and \
             entries are lost; empty the whole data directory, and remove and add this voter",
            folder.display()
        ))),
    }
}

/// An engine that panics has failed for good, and says so: a silent one would look like a healthy follower.
async fn guarded(shared: Arc<Shared>, engine: impl Future<Output = ()>) {
    if std::panic::AssertUnwindSafe(engine).catch_unwind().await.is_err() {
        shared.fail("the consensus engine panicked; the lines before this one say where".to_owned());
    }
}

/// The tasks of a running backend; dropping it is a crash.
struct Scope(TaskScope);

impl Drop for Scope {
    fn drop(&mut self) {
        self.0.kill();
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

    async fn keep(&self, snapshot: Snapshot) -> Result<LogIndex, CompactError> {
        let parts = self.shared.parts.get().ok_or(CompactError::Foreign)?.clone();
        let meta = snapshot.meta;
        let kept = parts.snapshots.newest().map_or(LogIndex(0), |newest| newest.meta().index);
        if meta.index <= kept {
            return Ok(kept);
        }
        let committed = self.shared.progress.borrow().committed;
        if meta.index > committed || parts.log.point(meta.index) != Some(point(&meta)) {
            return Err(CompactError::Foreign);
        }
        let membership = parts.history.lock().at(meta.index).cloned().ok_or(CompactError::Foreign)?;
        let mut writer = parts.snapshots.begin(meta, membership.encode().into()).map_err(refused)?;
        let mut chunks = snapshot.chunks;
        while let Some(chunk) = chunks.next().await {
            writer.push(&chunk?).map_err(refused)?;
        }
        let staged = writer.finish().map_err(refused)?;
        parts.snapshots.publish(staged).await.map_err(refused)?;
        parts.history.lock().forget(meta.index);
        let behind = LogIndex(meta.index.0.saturating_sub(self.shared.tail));
        parts.log.forget(behind).await.map_err(|error| CompactError::Storage(error.to_string()))?;
        Ok(meta.index)
    }
}

fn refused(error: SnapshotFileError) -> CompactError {
    match error {
        SnapshotFileError::Full(sentence) => CompactError::Unavailable(sentence),
        SnapshotFileError::Malformed(sentence) => {
            CompactError::Snapshot(quorate_core::consensus::SnapshotError(sentence))
        }
        other => CompactError::Storage(other.to_string()),
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
        kept.map(|_| ())
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
        self.scope.0.kill();
    }
}
