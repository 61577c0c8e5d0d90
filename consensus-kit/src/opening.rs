//! The start of a backend: its ports, its part in the founding, and what a founded cluster has on this node's disk.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{CompactError, Resume, Snapshot, SnapshotError, StartError, leader_channel},
    ids::{DirectoryId, LogIndex},
    runtime::{Runtime, TaskScope},
};
use tokio::sync::{mpsc, watch};

use crate::{
    config::{MESSAGE_BYTES, SEGMENT_BYTES, VoterConfig},
    founding::{Charter, Founding, FoundingConfig, Phase},
    log::{Log, LogConfig, LogError, Vote},
    shared::{Facts, Parts, Progress, Shared},
    snapshot::{SnapshotFileError, Snapshots, point},
    transport::{Event, Transport, TransportConfig},
};

/// A backend that has begun: it meets the other voters, and waits for its engine.
pub struct Begun<M> {
    /// What the handle and the engine have in common.
    pub shared: Arc<Shared<M>>,
    /// How far the founding has come.
    pub phase: Phase,
    /// What the peers say.
    pub events: mpsc::Receiver<Event>,
    /// The ports, of which the tasks end with the backend.
    pub runtime: Runtime,
    /// The same tasks.
    pub scope: Scope,
    /// The backend's folder.
    pub folder: PathBuf,
    /// The log directory that it is in.
    pub directory: DirectoryId,
}

/// The tasks of a running backend; dropping it is a crash.
pub struct Scope(TaskScope);

impl Scope {
    /// Ends them where they stand.
    pub fn kill(&self) {
        self.0.kill();
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Begins: reads the founding's file, checks that it is of the caller's cluster, and listens to the peers. Whatever goes
/// wrong from here on, nothing is left running. `tail` entries are kept behind a snapshot.
///
/// # Errors
/// The disk failed, or the folder is of another cluster.
pub fn begin<M: Clone + Send + 'static>(
    backend: &'static str,
    config: VoterConfig,
    tail: u64,
    resume: Resume,
) -> Result<Begun<M>, StartError> {
    let VoterConfig { node, directory_id, folder, voters, incoming, timings, runtime } = config;
    let runtime = Runtime { tasks: runtime.tasks.child(), ..runtime };
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
        engine: backend,
        node,
        directory: directory_id,
        endpoints: voters.clone(),
        message_bytes: MESSAGE_BYTES,
        patience: timings.election_max * 2,
    };
    let (transport, events) = Transport::start(transport, founding.clone(), incoming, &runtime);
    let (announcer, _) = leader_channel();
    let shared = Arc::new(Shared {
        backend,
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
    Ok(Begun { shared, phase, events, runtime, scope, folder, directory: directory_id })
}

/// An engine that panics has failed for good, and says so: a silent one would look like a healthy follower.
pub async fn guarded<M: Clone + Send + 'static>(shared: Arc<Shared<M>>, engine: impl Future<Output = ()>) {
    if std::panic::AssertUnwindSafe(engine).catch_unwind().await.is_err() {
        shared.fail("the consensus engine panicked; the lines before this one say where".to_owned());
    }
}

/// Whether the caller's state and the backend's folder are of one cluster.
fn check_cluster(phase: &Phase, resume: Resume, folder: &Path) -> Result<(), StartError> {
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

/// What a founded cluster has on this node's disk.
pub struct Opened {
    /// Votes and entries.
    pub log: Log,
    /// The snapshots.
    pub snapshots: Snapshots,
    /// The newest vote. Its commit index is raised to what a snapshot or the caller proves to be committed.
    pub vote: Vote,
}

/// Opens snapshots and log, and holds them against what the caller has applied. `tail` entries are kept behind the
/// newest snapshot.
///
/// # Errors
/// As the disk says, or the history differs from the caller's.
pub async fn open(
    (folder, charter): (&Path, &Charter),
    (founding, tail): (&Founding, u64),
    runtime: &Runtime,
    resume: Resume,
) -> Result<Opened, StartError> {
    let snapshots = Snapshots::open(folder.join("snapshots"), charter.log, runtime).map_err(of_snapshot)?;
    let newest = snapshots.newest();
    let config = LogConfig {
        folder: folder.join("log"),
        log: charter.log,
        segment_bytes: SEGMENT_BYTES,
        snapshot: newest.as_ref().map(|newest| point(&newest.meta())),
        must_exist: founding.has_log().await,
    };
    let log = Log::open(config, runtime).await.map_err(of_log)?;
    let made = founding.made_log().await;
    made.map_err(|error| StartError::Storage(error.to_string()))?;
    check_resume(&log, resume)?;
    let at = newest.map_or(LogIndex(0), |newest| newest.meta().index);
    log.forget(LogIndex(at.0.saturating_sub(tail))).await.map_err(of_log)?;
    // The durable commit index lags behind; whatever a snapshot or the applier has, was committed.
    let mut vote = log.vote();
    vote.commit = vote.commit.max(at).max(resume.applied).max(log.base().index);
    Ok(Opened { log, snapshots, vote })
}

/// Holds the log against what the caller has applied.
fn check_resume(log: &Log, resume: Resume) -> Result<(), StartError> {
    let last = log.last().index;
    if resume.applied > last {
        return Err(StartError::Storage(format!(
            "the log ends at entry {last}, but this node has applied entries up to {}: the disk has lost \
             acknowledged writes; replace it, empty the data directory, and remove and add this voter",
            resume.applied
        )));
    }
    let here = log.point(resume.applied);
    if resume.applied.0 > 0 && here.is_some_and(|here| here.chain != resume.chain) {
        return Err(StartError::Foreign(format!(
            "the log and this node's metadata differ at entry {}; they are not of one history: \
             restore both from one backup, or empty the data directory, and remove and add this voter",
            resume.applied
        )));
    }
    Ok(())
}

/// Makes a snapshot durable, unless there is a newer one. `encode` writes the backend's part of it: the members at its
/// index. The index of the newest snapshot is returned; entries behind it may be forgotten.
///
/// # Errors
/// The snapshot is not of this log, its chunks cannot be read, or the disk failed or is full.
pub async fn keep<M: Clone>(
    parts: &Parts<M>,
    committed: LogIndex,
    snapshot: Snapshot,
    encode: impl Fn(&M) -> Bytes,
) -> Result<LogIndex, CompactError> {
    let meta = snapshot.meta;
    let kept = parts.snapshots.newest().map_or(LogIndex(0), |newest| newest.meta().index);
    if meta.index <= kept {
        return Ok(kept);
    }
    if meta.index > committed || parts.log.point(meta.index) != Some(point(&meta)) {
        return Err(CompactError::Foreign);
    }
    let engine = parts.history.lock().at(meta.index).map(encode).ok_or(CompactError::Foreign)?;
    let mut writer = parts.snapshots.begin(meta, engine).map_err(refused)?;
    let mut chunks = snapshot.chunks;
    while let Some(chunk) = chunks.next().await {
        writer.push(&chunk?).map_err(refused)?;
    }
    let staged = writer.finish().map_err(refused)?;
    parts.snapshots.publish(staged).await.map_err(refused)?;
    parts.history.lock().forget(meta.index);
    Ok(meta.index)
}

fn refused(error: SnapshotFileError) -> CompactError {
    match error {
        SnapshotFileError::Full(sentence) => CompactError::Unavailable(sentence),
        SnapshotFileError::Malformed(sentence) => CompactError::Snapshot(SnapshotError(sentence)),
        other => CompactError::Storage(other.to_string()),
    }
}

/// An error of the log, at a start.
#[must_use]
pub fn of_log(error: LogError) -> StartError {
    match error {
        LogError::Foreign(sentence) => StartError::Foreign(sentence),
        other => StartError::Storage(other.to_string()),
    }
}

fn of_snapshot(error: SnapshotFileError) -> StartError {
    match error {
        SnapshotFileError::Foreign(sentence) => StartError::Foreign(sentence),
        other => StartError::Storage(other.to_string()),
    }
}
