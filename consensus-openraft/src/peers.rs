//! The other voters: what this node asks them, and what they ask of this node.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use openraft::{LeaderId, ServerState, Vote};
use parking_lot::Mutex;
use quorate_consensus_kit::{
    membership::{Member, Membership},
    snapshot::Staged,
    transport::Event,
};
use quorate_core::{
    consensus::Leader,
    ids::{DirectoryId, Epoch, LogIndex, NodeId},
    runtime::TaskScope,
};
use tokio::sync::{OnceCell, Semaphore, oneshot};

use crate::{
    calls::Calls,
    config::{CALLS_UNDER_WAY, Parts, Raft, Shared},
    election::Election,
    transport::{Answer, Content, Request, decode, decode_vote, encode},
    types::{
        Members, Place, Snapshot, SnapshotMeta, index_of, kit_membership, last_index, node_of, place_of,
        snapshot_meta,
    },
};

/// What everybody who talks to peers has in common.
pub(crate) struct Peers {
    pub(crate) shared: Arc<Shared>,
    pub(crate) parts: Parts,
    pub(crate) tasks: TaskScope,
    pub(crate) calls: Calls,
    pub(crate) election: Mutex<Election>,
    pub(crate) founders: BTreeMap<NodeId, Member>,
    /// Set as soon as openraft runs.
    pub(crate) raft: OnceCell<Raft>,
    /// What each peer has acknowledged, in the newest epoch that this node led.
    pub(crate) acknowledged: Mutex<BTreeMap<(NodeId, DirectoryId), (Epoch, LogIndex)>>,
    /// Snapshots on their way, one to a peer.
    pub(crate) snapshots_sent: Mutex<BTreeMap<NodeId, oneshot::Sender<bool>>>,
    /// One snapshot is kept at a time, whether it was made here or arrived.
    pub(crate) keeping: tokio::sync::Mutex<()>,
    pub(crate) answering: Arc<Semaphore>,
    /// Whether this node is to be silent as a leader, so that the others look for another one.
    pub(crate) muted: AtomicBool,
}

/// openraft's state, as it was reported last.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) term: u64,
    pub(crate) leads: bool,
    /// Who leads the term, where a quorum has granted it.
    pub(crate) leader: Option<NodeId>,
    pub(crate) last: LogIndex,
    /// For a leader: the time since a quorum has answered, when this was reported.
    pub(crate) quorum_age: Option<Duration>,
    pub(crate) matched: BTreeMap<NodeId, LogIndex>,
    /// Why openraft has ended.
    pub(crate) ended: Option<String>,
}

impl View {
    pub(crate) fn of(metrics: &openraft::RaftMetrics<u64, Member>) -> Self {
        let matched = metrics.replication.iter().flatten();
        let matched = matched.filter_map(|(id, place)| Some((node_of(*id)?, index_of(place.as_ref()?))));
        Self {
            term: metrics.current_term,
            leads: metrics.state == ServerState::Leader,
            leader: metrics.current_leader.and_then(node_of),
            last: LogIndex(metrics.last_log_index.map_or(0, |index| index.saturating_add(1))),
            quorum_age: metrics.millis_since_quorum_ack.map(Duration::from_millis),
            matched: matched.collect(),
            ended: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }
}

impl Peers {
    pub(crate) fn new(
        (shared, parts): (Arc<Shared>, Parts),
        founders: BTreeMap<NodeId, Member>,
        election: Election,
        tasks: TaskScope,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            parts,
            tasks,
            calls: Calls::default(),
            election: Mutex::new(election),
            founders,
            raft: OnceCell::new(),
            acknowledged: Mutex::default(),
            snapshots_sent: Mutex::default(),
            keeping: tokio::sync::Mutex::new(()),
            answering: Arc::new(Semaphore::new(CALLS_UNDER_WAY)),
            muted: AtomicBool::new(false),
        })
    }

    /// openraft's state now. The report is looked at for a moment only: whoever held it would stop openraft.
    pub(crate) fn view(&self) -> Option<View> {
        let metrics = self.raft.get()?.metrics();
        let view = View::of(&metrics.borrow());
        Some(view)
    }

    pub(crate) fn members(&self) -> (LogIndex, Members) {
        let history = self.parts.history.lock();
        history.now().map(|(at, members)| (at, members.clone())).unwrap_or_default()
    }

    pub(crate) fn membership(&self) -> Membership {
        kit_membership(&self.members().1, &self.founders)
    }

    /// Asks a peer. `None` if it cannot be reached or does not answer in time.
    pub(crate) async fn call(&self, to: NodeId, request: Request, within: Duration) -> Option<Answer> {
        let call = self.calls.begin(to);
        if !self.shared.transport.send(to, encode(call.id, &Content::Request(request))) {
            return None;
        }
        self.shared.clock.timeout(within, call.answer()).await.ok().flatten()
    }

    /// Tells a peer something that needs no answer.
    pub(crate) fn tell(&self, to: NodeId, content: &Content, id: u64) {
        // Whoever misses it asks again.
        let _lost = self.shared.transport.send(to, encode(id, content));
    }

    /// Takes what the transport says. Waits for nothing.
    pub(crate) fn hear(self: &Arc<Self>, event: Event) {
        match event {
            Event::Message { from, body } => self.message(from, body),
            Event::Unreachable(node) => self.calls.lost(node),
            Event::SnapshotSent { to, taken } => {
                if let Some(sent) = self.snapshots_sent.lock().remove(&to) {
                    // Whoever sent it may have been called off.
                    let _gone = sent.send(taken);
                }
            }
            Event::Snapshot { from, body, engine, staged, taken } => {
                let peers = self.clone();
                self.tasks.spawn(async move {
                    let installed = peers.install(from, body, engine, staged).await;
                    if let Err(problem) = &installed {
                        tracing::info!(node = from.0, problem, "a snapshot was not taken");
                    }
                    // The sender may have stopped waiting.
                    let _gone = taken.send(installed.is_ok());
                });
            }
        }
    }

    fn message(self: &Arc<Self>, from: NodeId, body: Bytes) {
        let Some((id, content)) = decode(body, from) else {
            tracing::debug!(node = from.0, "a peer's message was not understood");
            return;
        };
        self.shared.facts.lock().contacts.insert(from, self.shared.clock.now());
        match content {
            Content::Answer(answer) => self.calls.answer(from, id, answer),
            Content::Request(request) => {
                // With so many under way openraft waits for its disk. The peer asks again.
                let Ok(permit) = self.answering.clone().try_acquire_owned() else { return };
                let peers = self.clone();
                self.tasks.spawn(async move {
                    if let Some(answer) = peers.answer(from, request).await {
                        peers.tell(from, &Content::Answer(answer), id);
                    }
                    drop(permit);
                });
            }
        }
    }

    /// The answer to a request; `None` where openraft has ended, or none is due.
    async fn answer(&self, from: NodeId, request: Request) -> Option<Answer> {
        let raft = self.raft.get()?;
        match request {
            Request::Append(append) => {
                let answer = raft.append_entries(append).await.ok()?;
                if !matches!(answer, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                    self.heard_leader();
                }
                Some(Answer::Append(answer))
            }
            Request::Vote(vote) => {
                let answer = raft.vote(vote).await.ok()?;
                if answer.vote_granted {
                    self.heard_leader();
                }
                Some(Answer::Vote(answer))
            }
            Request::Canvass(last) => Some(Answer::Canvass(self.would_vote(last))),
            Request::Read => Some(Answer::Read(self.confirm().await)),
            Request::Abdicate { term, campaign } => {
                self.abdicated(from, term, campaign).await?;
                Some(Answer::Done)
            }
            Request::Forgot { term, index } => {
                self.forgot(from, term, index);
                None
            }
        }
    }

    fn heard_leader(&self) {
        self.election.lock().hear(self.shared.clock.now());
    }

    /// Whether a node whose log ends at `last` would have this node's vote.
    fn would_vote(&self, last: Option<Place>) -> bool {
        let leads = matches!(self.shared.announcer.last().map(|last| last.leader), Some(Leader::Me { .. }));
        let mine = place_of(self.parts.log.last());
        !leads && last >= mine && self.election.lock().would_vote(self.shared.clock.now())
    }

    /// An index that no read may be behind, confirmed by a quorum. This node must lead.
    pub(crate) async fn confirm(&self) -> Result<LogIndex, String> {
        let raft = self.raft.get().ok_or("it does not run yet")?;
        let confirmed = raft.get_read_log_id().await.map_err(|error| error.to_string())?;
        Ok(last_index(confirmed.0.as_ref()))
    }

    /// The leader of the term gives up.
    async fn abdicated(&self, from: NodeId, term: u64, campaign: bool) -> Option<()> {
        let view = self.view()?;
        if view.term != term || view.leader != Some(from) || view.leads {
            return None;
        }
        let raft = self.raft.get()?;
        end_term(raft, term).await?;
        if campaign {
            raft.trigger().elect().await.ok()?;
            self.election.lock().tried(self.shared.clock.now());
        } else {
            self.heard_leader();
        }
        Some(())
    }

    /// A leader says that this node has forgotten what it had acknowledged. That the entry is not there is seen here.
    fn forgot(&self, from: NodeId, term: u64, index: LogIndex) {
        let last = self.parts.log.last().index;
        let leads = self.view().is_some_and(|view| view.term == term && view.leader == Some(from));
        if leads && last < index {
            self.shared.fail(format!(
                "the disk of this node has lost writes that it had acknowledged (the log ends at entry {last}, \
                 entry {index} was acknowledged); replace it, empty the data directory, and remove and add this voter"
            ));
        }
    }

    /// Makes a snapshot durable that has arrived, and gives it to openraft. It stands for committed entries, whoever sent
    /// it, so that nothing is lost where openraft does not want it.
    async fn install(&self, from: NodeId, body: Bytes, engine: Bytes, staged: Staged) -> Result<(), String> {
        let vote = decode_vote(body, from).ok_or("it is not of a leader")?;
        let meta = staged.meta();
        let described = snapshot_meta(&meta, &engine).ok_or("it does not say who the voters are")?;
        let raft = self.raft.get().ok_or("this node does not run yet")?;
        let _one_at_a_time = self.keeping.lock().await;
        let committed = self.shared.progress.borrow().committed;
        if meta.index <= committed {
            return Ok(());
        }
        if self.view().is_none_or(|view| view.term > vote.leader_id.term) {
            return Err("it is of a leader that was replaced".to_owned());
        }
        let file = self.parts.snapshots.publish(staged).await.map_err(|error| {
            self.shared.fail(error.to_string());
            error.to_string()
        })?;
        let snapshot = Snapshot { meta: described, snapshot: Box::new(Some(file)) };
        let installed =
            raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?;
        self.heard_leader();
        if installed.vote != vote || self.shared.progress.borrow().committed < meta.index {
            return Err("openraft does not want it".to_owned());
        }
        Ok(())
    }
}

/// Ends a term: openraft hears that the next one has begun, in which nobody has a vote yet. A leader steps down by it, and
/// a voter that had heard the leader is free to vote. What openraft hears it by is a snapshot of nothing, which it does
/// not install: of all messages it asks least of this one.
pub(crate) async fn end_term(raft: &Raft, term: u64) -> Option<()> {
    let leader_id = LeaderId { term: term.saturating_add(1), voted_for: None };
    let vote = Vote { leader_id, committed: false };
    let nothing = Snapshot { meta: SnapshotMeta::default(), snapshot: Box::new(None) };
    raft.install_full_snapshot(vote, nothing).await.ok().map(|_| ())
}
