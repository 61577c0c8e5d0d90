//! Before openraft runs: waiting for the cluster to be founded, and making openraft then.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;
use quorate_consensus_kit::{
    founding::{Charter, Phase},
    log::{Batch, Log, LogError, Vote},
    opening::{Opened, of_log, open},
    shared::History,
    transport::Event,
};
use quorate_core::{
    consensus::{MembershipError, Resume, StartError},
    ids::{DirectoryId, LogIndex, NodeId},
    runtime::Runtime,
};
use tokio::sync::mpsc;

use super::{Command, Engine, State};
use crate::{
    backend::Running,
    config::{Parts, Raft, Shared, Timings, engine_config},
    election::Election,
    machine::Machine,
    network::Network,
    peers::{Peers, View},
    runtime::within,
    storage::Store,
    types::{Configs, Entry, Members, Payload, Place, founders, place_of, raft_id, snapshot_meta},
};

/// Everything that an engine is made of.
pub(crate) struct Starter {
    pub(crate) me: NodeId,
    pub(crate) directory: DirectoryId,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) timings: Timings,
    pub(crate) runtime: Runtime,
    pub(crate) shared: Arc<Shared>,
    pub(crate) running: Running,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) commands: mpsc::Receiver<Command>,
}

/// What was recovered of a founded cluster.
pub(crate) struct Recovered {
    charter: Charter,
    parts: Parts,
    vote: Vote,
}

/// Opens snapshots and log of a founded cluster.
pub(crate) async fn build(
    (folder, directory): (&Path, DirectoryId),
    charter: Charter,
    shared: &Shared,
    runtime: &Runtime,
    resume: Resume,
) -> Result<Recovered, StartError> {
    let Opened { log, snapshots, vote } =
        open((folder, &charter), (&shared.founding, shared.tail), runtime, resume).await?;
    let is_founder = charter.founders.get(&shared.me).is_some_and(|founder| founder.directory == directory);
    if is_founder && log.last().index == LogIndex(0) {
        initialize(&log, &charter).await.map_err(of_log)?;
    }
    let (at, members) = match snapshots.newest() {
        Some(newest) => {
            let meta = snapshot_meta(&newest.meta(), newest.engine()).ok_or_else(|| {
                StartError::Storage("the newest snapshot does not say who the voters are".to_owned())
            })?;
            (newest.meta().index, meta.last_membership)
        }
        None => (LogIndex(0), Members::default()),
    };
    let mut history = History::new(at, members);
    replay(&log, &mut history, at, vote.commit).map_err(of_log)?;
    let parts = Parts { log, snapshots: Arc::new(snapshots), history: Arc::new(Mutex::new(history)) };
    Ok(Recovered { charter, parts, vote })
}

/// Writes the entry that openraft's `initialize` would write, which names the founders: the same one on every founder.
/// openraft itself refuses to be initialised once it has given a vote; so if one founder began, got the votes of the
/// others and was lost, these could never begin by themselves.
async fn initialize(log: &Log, charter: &Charter) -> Result<(), LogError> {
    let founders = Configs::from(founders(&charter.founders));
    let entry = Entry { log_id: Place::default(), payload: Payload::Members(founders) };
    log.write(Batch { entries: vec![entry.to_kit()], ..Batch::default() }).await
}

/// Follows the changes of the members between a snapshot and the last entry that is known to be committed.
fn replay(
    log: &Log,
    history: &mut History<Members>,
    after: LogIndex,
    commit: LogIndex,
) -> Result<(), LogError> {
    let mut next = after.next();
    while next <= commit {
        let entries = log.entries(next, commit, 1 << 20)?;
        let Some(last) = entries.last() else { break };
        next = last.index.next();
        for entry in entries {
            let index = entry.index;
            if let Some(Entry { log_id, payload: Payload::Members(configs) }) = Entry::of_kit(entry) {
                history.push(index, Members::new(Some(log_id), configs));
            }
        }
    }
    Ok(())
}

impl Starter {
    /// Waits until the cluster is founded, then runs the engine.
    pub(crate) async fn run(mut self) {
        let charter = match self.founded().await {
            Ok(Some(charter)) => charter,
            Ok(None) => return self.shared.stop(),
            Err(sentence) => return self.shared.fail(sentence),
        };
        let (shared, runtime) = (self.shared.clone(), self.runtime.clone());
        match build((&self.folder, self.directory), charter, &shared, &runtime, Resume::default()).await {
            Ok(recovered) => self.run_with(recovered).await,
            Err(error) => shared.fail(error.to_string()),
        }
    }

    /// Runs the engine on what was recovered.
    pub(crate) async fn run_with(self, recovered: Recovered) {
        let shared = self.shared.clone();
        match self.into_engine(recovered).await {
            Ok(engine) => engine.run().await,
            Err(sentence) => shared.fail(sentence),
        }
    }

    async fn into_engine(self, recovered: Recovered) -> Result<Engine, String> {
        let Recovered { charter, parts, vote } = recovered;
        let (shared, tasks) = (self.shared.clone(), self.runtime.tasks.clone());
        let now = self.runtime.clock.now();
        let election = Election::new(self.timings, self.runtime.rng.clone(), now);
        let members = charter.founders;
        let peers = Peers::new((shared.clone(), parts.clone()), members.clone(), election, tasks.clone());
        let store = Store::new(shared.clone(), parts.clone(), vote.commit);
        let applied = parts.log.point(vote.commit).and_then(place_of);
        let machine = Machine::new(shared.clone(), parts.clone(), members, applied, store.begins());
        let opened = machine.opened();
        shared.transport.set_snapshots(parts.snapshots.clone());
        shared.transport.set_members(&peers.membership(), peers.members().0);
        // Set once: an engine is made once.
        let _fresh = shared.parts.set(parts);
        shared.publish(vote.commit);
        let config = Arc::new(engine_config(&self.timings, shared.tail)?);
        let network = Network(peers.clone());
        let raft = within(&tasks, Raft::new(raft_id(self.me), config, network, store, machine)).await;
        let raft = raft.map_err(|error| error.to_string())?;
        let _fresh = peers.raft.set(raft.clone());
        let _fresh = self.running.set(peers.clone());
        let metrics = raft.metrics();
        let view = View::of(&metrics.borrow());
        Ok(Engine {
            me: self.me,
            directory: self.directory,
            log_id: charter.log,
            timings: self.timings,
            runtime: self.runtime,
            shared,
            peers,
            raft,
            metrics,
            opened,
            events: self.events,
            commands: self.commands,
            state: State::new(view, now),
        })
    }

    /// The charter, once there is one. `None` if the backend is shut down before.
    async fn founded(&mut self) -> Result<Option<Charter>, String> {
        let advanced = self.shared.founding.advance().await;
        advanced.map_err(|error| error.to_string())?;
        let mut phase = self.shared.founding.phase();
        loop {
            if let Some(failure) = self.shared.founding.failure() {
                return Err(failure.to_string());
            }
            if let Phase::Final(charter) = &*phase.borrow_and_update() {
                return Ok(Some(charter.clone()));
            }
            tokio::select! { biased;
                changed = phase.changed() => changed.map_err(|_| "the founding has ended".to_owned())?,
                command = self.commands.recv() => match command {
                    None => return Ok(None),
                    Some(command) => if self.refuse(command) { return Ok(None) },
                },
            }
        }
    }

    /// Answers a command while there is no log. Whether it was the last one.
    fn refuse(&self, command: Command) -> bool {
        // In every case whoever asked may have stopped waiting.
        match command {
            Command::Change { done, .. } => {
                let _gone = done.send(Err(MembershipError::NotLeader));
            }
            Command::Resign { done, .. } => {
                let _gone = done.send(());
            }
            Command::Shutdown { done } => {
                self.shared.stop();
                let _gone = done.send(());
                return true;
            }
        }
        false
    }
}
