//! Before the Raft node exists: waiting for the cluster to be founded, and making the node then.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;
use quorate_consensus_kit::{
    founding::{Charter, Phase},
    log::{Log, LogError, Vote},
    membership::Membership,
    opening::{Opened, of_log, open},
    transport::Event,
};
use quorate_core::{
    consensus::{MembershipError, ProposeError, Resume, StartError, Unavailable},
    ids::{DirectoryId, LogIndex, NodeId},
    runtime::Runtime,
};
use tokio::sync::mpsc;

use super::{Command, Engine, State};
use crate::{
    config::{Parts, Shared, Timings},
    node::{Broken, Node},
    storage::{History, Store, change_members, kit_change, members},
};

/// Everything that an engine is made of.
pub(crate) struct Starter {
    pub(crate) me: NodeId,
    pub(crate) directory: DirectoryId,
    pub(crate) folder: std::path::PathBuf,
    pub(crate) timings: Timings,
    pub(crate) runtime: Runtime,
    pub(crate) shared: Arc<Shared>,
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
    folder: &Path,
    charter: Charter,
    shared: &Shared,
    runtime: &Runtime,
    resume: Resume,
) -> Result<Recovered, StartError> {
    let Opened { log, snapshots, vote } =
        open((folder, &charter), (&shared.founding, shared.tail), runtime, resume).await?;
    let (at, membership) = match snapshots.newest() {
        Some(newest) => {
            let membership = Membership::decode(newest.engine()).ok_or_else(|| {
                StartError::Storage("the newest snapshot does not say who the voters are".to_owned())
            })?;
            (newest.meta().index, membership)
        }
        None => (LogIndex(0), Membership { voters: charter.founders.clone(), ..Membership::default() }),
    };
    let history = Mutex::new(History::new(at, membership));
    replay(&log, &history, at, vote.commit).map_err(of_log)?;
    let parts = Parts { log, snapshots: Arc::new(snapshots), history: Arc::new(history) };
    Ok(Recovered { charter, parts, vote })
}

/// Follows the changes of the members between a snapshot and the last entry that is known to be committed.
fn replay(log: &Log, history: &Mutex<History>, after: LogIndex, commit: LogIndex) -> Result<(), LogError> {
    let mut next = after.next();
    while next <= commit {
        let entries = log.entries(next, commit, 1 << 20)?;
        let Some(last) = entries.last() else { break };
        next = last.index.next();
        for entry in &entries {
            if let Some(change) = kit_change(entry) {
                change_members(history, entry.index, &change);
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
            Err(Broken(sentence)) => return self.shared.fail(sentence),
        };
        let (shared, runtime) = (self.shared.clone(), self.runtime.clone());
        match build(&self.folder, charter, &shared, &runtime, Resume::default()).await {
            Ok(recovered) => self.run_with(recovered).await,
            Err(error) => shared.fail(error.to_string()),
        }
    }

    /// Runs the engine on what was recovered.
    pub(crate) async fn run_with(self, recovered: Recovered) {
        let shared = self.shared.clone();
        match self.into_engine(recovered) {
            Ok(engine) => engine.run().await,
            Err(Broken(sentence)) => shared.fail(sentence),
        }
    }

    fn into_engine(self, recovered: Recovered) -> Result<Engine, Broken> {
        let Recovered { charter, parts, vote } = recovered;
        let store = Store {
            log: parts.log.clone(),
            snapshots: parts.snapshots.clone(),
            history: parts.history.clone(),
            vote,
            trouble: Arc::default(),
        };
        let node = Node::new(self.me, store, &self.timings, self.runtime.rng.next_u64())?;
        let (at, membership) = members(&parts.history);
        self.shared.transport.set_snapshots(parts.snapshots.clone());
        self.shared.transport.set_members(&membership, at);
        // Set once: an engine is made once.
        let _fresh = self.shared.parts.set(parts.clone());
        self.shared.publish(vote.commit);
        let state = State::new(vote, self.runtime.rng.next_u64(), self.runtime.clock.now());
        Ok(Engine {
            me: self.me,
            directory: self.directory,
            log_id: charter.log,
            timings: self.timings,
            runtime: self.runtime,
            shared: self.shared,
            events: self.events,
            commands: self.commands,
            node,
            parts,
            state,
        })
    }

    /// The charter, once there is one. `None` if the backend is shut down before.
    async fn founded(&mut self) -> Result<Option<Charter>, Broken> {
        let advanced = self.shared.founding.advance().await;
        advanced.map_err(|error| Broken(error.to_string()))?;
        let mut phase = self.shared.founding.phase();
        loop {
            if let Some(failure) = self.shared.founding.failure() {
                return Err(Broken(failure.to_string()));
            }
            if let Phase::Final(charter) = &*phase.borrow_and_update() {
                return Ok(Some(charter.clone()));
            }
            tokio::select! { biased;
                changed = phase.changed() => changed.map_err(|_| Broken("the founding has ended".to_owned()))?,
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
            Command::Propose { done, .. } => {
                let _gone = done.send(Err(ProposeError::NotLeader { hint: None }));
            }
            Command::Read { done } => {
                let _gone = done.send(Err(Unavailable(self.shared.founding.status().to_string())));
            }
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
