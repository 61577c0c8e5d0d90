//! The founding of a cluster: the rule ([`Machine`]), the file that remembers, and what an operator is told.

mod machine;
mod record;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use parking_lot::Mutex;
use quorate_core::{
    consensus::{Founding as FoundingStatus, LogId, Peer},
    ids::{DirectoryId, NodeId},
    runtime::{Moment, Runtime},
};
use thiserror::Error;
use tokio::sync::watch;

pub use machine::{Charter, Claim, Machine, Phase};
pub(crate) use record::WirePhase;

use crate::{
    disk::{create_folder, on_a_thread, parent},
    membership::Membership,
};

/// A voter that has not answered for so long is awaited again.
const SILENCE: Duration = Duration::from_secs(3);

/// Why a node's part in the founding cannot be remembered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FoundingError {
    /// The disk failed.
    #[error("{0}")]
    Storage(String),
    /// The file is damaged.
    #[error("{0}")]
    Damaged(String),
}

/// Which node founds, and with whom.
#[derive(Clone, Debug)]
pub struct FoundingConfig {
    /// This node.
    pub node: NodeId,
    /// Its log directory.
    pub directory: DirectoryId,
    /// The voters that the configuration lists, and where they are reached.
    pub voters: BTreeMap<NodeId, String>,
    /// The file that remembers.
    pub path: PathBuf,
}

/// One node's part in the founding, kept durably.
pub struct Founding {
    config: FoundingConfig,
    runtime: Runtime,
    state: Mutex<State>,
    /// One transition at a time, from decision to disk.
    turn: tokio::sync::Mutex<bool>,
    phase: watch::Sender<Phase>,
}

struct State {
    machine: Machine,
    seen: BTreeMap<NodeId, Moment>,
    problems: BTreeMap<NodeId, String>,
    failure: Option<FoundingError>,
}

impl Founding {
    /// Reads what this node remembers.
    ///
    /// # Errors
    /// The disk failed, or the file is damaged.
    pub fn open(config: FoundingConfig, runtime: &Runtime) -> Result<Self, FoundingError> {
        let folder = parent(&config.path);
        create_folder(&runtime.disk, folder).map_err(|error| {
            FoundingError::Storage(format!("cannot make the folder {}: {error}", folder.display()))
        })?;
        let record = record::load(&runtime.disk, &config.path)?;
        let machine =
            Machine::new(config.node, config.directory, config.voters.clone(), record.phase.clone());
        let state = State { machine, seen: BTreeMap::new(), problems: BTreeMap::new(), failure: None };
        Ok(Self {
            config,
            runtime: runtime.clone(),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(record.has_log),
            phase: watch::Sender::new(record.phase),
        })
    }

    /// What this node says of itself.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.state.lock().machine.claim().clone()
    }

    /// The phase, and every later one.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Whether the log has been made, see [`Founding::made_log`].
    pub async fn has_log(&self) -> bool {
        *self.turn.lock().await
    }

    /// Remembers that the log has been made: from now on a missing one is a lost one.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn made_log(&self) -> Result<(), FoundingError> {
        let mut has_log = self.turn.lock().await;
        if !*has_log {
            self.save(self.claim().phase, true).await?;
            *has_log = true;
        }
        Ok(())
    }

    /// Takes note of what another node says of itself, and of the answer to a call that failed.
    pub fn note_problem(&self, node: NodeId, problem: String) {
        self.state.lock().problems.insert(node, problem);
    }

    /// Hears another node, and takes the step that follows from it. Returns when the step is durable.
    ///
    /// # Errors
    /// The disk failed; the step was not taken.
    pub async fn meet(&self, claim: Claim) -> Result<(), FoundingError> {
        {
            let mut state = self.state.lock();
            state.seen.insert(claim.node, self.runtime.clock.now());
            state.problems.remove(&claim.node);
            state.machine.meet(claim);
        }
        self.advance().await
    }

    /// Hears that a member of a founded cluster addresses this node, by its directory, as a member.
    ///
    /// # Errors
    /// As [`Founding::meet`].
    pub async fn invite(&self, charter: Charter) -> Result<(), FoundingError> {
        self.state.lock().machine.invite(charter);
        self.advance().await
    }

    /// Takes every step that is due. A voter that is alone in its list founds by this.
    ///
    /// # Errors
    /// As [`Founding::meet`].
    pub async fn advance(&self) -> Result<(), FoundingError> {
        let has_log = self.turn.lock().await;
        loop {
            let id = LogId::of(self.runtime.rng.uuid(), 1);
            let next = self.state.lock().machine.next(id);
            let Some(phase) = next else { return Ok(()) };
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            self.save(phase.clone(), *has_log).await?;
            self.state.lock().machine.enter(phase.clone());
            self.phase.send_replace(phase);
        }
    }

    async fn save(&self, phase: Phase, has_log: bool) -> Result<(), FoundingError> {
        let (disk, path) = (self.runtime.disk.clone(), self.config.path.clone());
        let record = record::Record { phase, has_log };
        let saving = async move { record::save(&disk, &path, &record).await };
        let stopping = || FoundingError::Storage("the node is stopping".to_owned());
        let saved = on_a_thread(&self.runtime.tasks, "consensus-founding", saving).await;
        let saved = saved.ok_or_else(stopping)?;
        if let Err(failure) = &saved {
            // A failed sync is never tried again.
            self.state.lock().failure = Some(failure.clone());
            self.phase.send_modify(|_| {});
        }
        saved
    }

    /// Why nothing can be remembered any more; whoever watches [`Founding::phase`] is woken when it happens.
    #[must_use]
    pub fn failure(&self) -> Option<FoundingError> {
        self.state.lock().failure.clone()
    }

    /// Who takes part, and who is awaited and why.
    #[must_use]
    pub fn status(&self) -> FoundingStatus {
        let state = self.state.lock();
        let now = self.runtime.clock.now();
        let mut status = FoundingStatus::default();
        if state.machine.claim().listed.contains(&self.config.node) {
            status.have.push(self.config.node);
        }
        for (node, claim) in state.machine.others() {
            let age = state.seen.get(&node).map(|seen| now.since(*seen));
            let problem = match claim {
                Some(claim) if age.is_some_and(|age| age <= SILENCE) => state.objection(claim),
                _ => Some(state.problems.get(&node).cloned().unwrap_or_else(|| "no answer yet".to_owned())),
            };
            match problem {
                None => status.have.push(node),
                Some(problem) => status.awaited.push(Peer {
                    node: Some(node),
                    endpoint: self.config.voters.get(&node).cloned().unwrap_or_default(),
                    contact_age: age,
                    matched: None,
                    problem: Some(problem),
                }),
            }
        }
        status
    }

    /// The first members, once the cluster exists.
    #[must_use]
    pub fn founders(&self) -> Option<(LogId, Membership)> {
        match self.claim().phase {
            Phase::Final(charter) => {
                Some((charter.log, Membership { voters: charter.founders, ..Membership::default() }))
            }
            _ => None,
        }
    }
}

impl State {
    /// Why a node that answers holds the founding up.
    fn objection(&self, claim: &Claim) -> Option<String> {
        let me = self.machine.claim();
        let its = |charter: &Charter| charter.log;
        match (&me.phase, &claim.phase) {
            (Phase::Fresh, Phase::Final(charter)) => Some(refusal(me, charter)),
            (Phase::Tentative(mine), Phase::Final(charter)) if mine.log != charter.log => Some(format!(
                "belongs to the cluster {}, this folder to the unfinished {}",
                its(charter),
                mine.log
            )),
            (Phase::Tentative(mine), Phase::Tentative(other)) if mine.log != other.log => Some(format!(
                "takes part in another founding ({} instead of {}); empty the data directory of one of the two",
                other.log, mine.log
            )),
            (Phase::Fresh, Phase::Tentative(other)) if !other.founders.contains_key(&me.node) => {
                Some(format!("takes part in the founding of {} without this node", other.log))
            }
            (Phase::Fresh, Phase::Tentative(other)) if me.listed.first() == Some(&me.node) => Some(format!(
                "takes part in the unfinished founding of {}, which this emptied node began; \
                 empty its data directory too",
                other.log
            )),
            _ if claim.directory == me.directory => {
                Some(format!("has the same directory id {}; a data directory was copied", me.directory))
            }
            _ if claim.listed != me.listed => Some(format!("lists other voters: {}", list(claim))),
            _ => None,
        }
    }
}

/// What the cluster says to a fresh folder.
fn refusal(me: &Claim, charter: &Charter) -> String {
    match charter.founders.get(&me.node) {
        Some(founder) if founder.directory == me.directory => format!(
            "is of the cluster {}, which knows node {} with this very directory, but the consensus folder in it is \
             empty, so that its votes and entries are lost; bring the old data back, or empty the data directory, \
             and remove this voter and add it again",
            charter.log, me.node
        ),
        Some(founder) => format!(
            "is of the cluster {}, which knows node {} with the directory {} and not with this empty one ({}); \
             bring the old data back, or remove this voter and add it again",
            charter.log, me.node, founder.directory, me.directory
        ),
        None => format!("is of the cluster {}, which this node was not added to yet", charter.log),
    }
}

fn list(claim: &Claim) -> String {
    claim.listed.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}
