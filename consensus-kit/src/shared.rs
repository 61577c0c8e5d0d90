//! What an engine shows to everybody else: progress, the log to read from, and facts for the status.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{Committed, LeaderAnnouncer, Peer, Status},
    ids::{Epoch, LogIndex, NodeId},
    runtime::{Clock, Moment},
};
use tokio::sync::watch;

use crate::{
    config::{MAX_ENTRY_BYTES, Timings},
    founding::Founding,
    log::{Entry, Log},
    membership::Membership,
    snapshot::Snapshots,
    transport::Transport,
};

/// Entries that a reader takes out of the log at once, in bytes.
const READ_BYTES: u64 = 1 << 20;

/// How far the log has come, for readers that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is committed, and durable here.
    pub committed: LogIndex,
    /// Nothing more will come.
    pub stopped: bool,
}

/// Who the members were, and are, in the backend's own words.
#[derive(Clone, Debug)]
pub struct History<M>(Vec<(LogIndex, M)>);

impl<M: Clone> History<M> {
    /// The members as everything up to `at` left them.
    #[must_use]
    pub fn new(at: LogIndex, members: M) -> Self {
        Self(vec![(at, members)])
    }

    /// The members as the entry at `index` left them.
    #[must_use]
    pub fn at(&self, index: LogIndex) -> Option<&M> {
        self.0.iter().rev().find(|(at, _)| *at <= index).map(|(_, members)| members)
    }

    /// The members now, and the entry that made them so.
    #[must_use]
    pub fn now(&self) -> Option<(LogIndex, &M)> {
        self.0.last().map(|(at, members)| (*at, members))
    }

    /// The entry at `index` has changed the members.
    pub fn push(&mut self, index: LogIndex, members: M) {
        self.0.push((index, members));
    }

    /// Lets go of what was before `index`.
    pub fn forget(&mut self, index: LogIndex) {
        let kept = self.0.iter().rposition(|(at, _)| *at <= index).unwrap_or(0);
        self.0.drain(..kept);
    }
}

/// What there is once the cluster is founded.
#[derive(Clone)]
pub struct Parts<M> {
    /// Votes and entries.
    pub log: Log,
    /// What stands for the entries that are gone.
    pub snapshots: Arc<Snapshots>,
    /// The members.
    pub history: Arc<Mutex<History<M>>>,
}

/// What the engine knows of the cluster now.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The newest term.
    pub epoch: Epoch,
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// Who the members are.
    pub membership: Membership,
    /// When each of them was heard last.
    pub contacts: BTreeMap<NodeId, Moment>,
    /// How far the log of each is known to agree; a leader knows.
    pub matched: BTreeMap<NodeId, LogIndex>,
}

/// What the handle and the engine of a backend have in common.
pub struct Shared<M> {
    /// The backend's name.
    pub backend: &'static str,
    /// This node.
    pub me: NodeId,
    /// Who the configuration says votes.
    pub voters: BTreeMap<NodeId, String>,
    /// How fast.
    pub timings: Timings,
    /// Entries that are kept behind a snapshot.
    pub tail: u64,
    /// Time.
    pub clock: Clock,
    /// Where leaders are announced.
    pub announcer: LeaderAnnouncer,
    /// How far the log has come.
    pub progress: watch::Sender<Progress>,
    /// How the cluster came about.
    pub founding: Arc<Founding>,
    /// The way to the others.
    pub transport: Transport,
    /// Set once the cluster is founded.
    pub parts: OnceLock<Parts<M>>,
    /// For the status.
    pub facts: Mutex<Facts>,
    /// Why the backend has failed for good.
    pub fatal: Mutex<Option<String>>,
}

impl<M: Clone + Send + 'static> Shared<M> {
    /// The backend has failed for good: the sentence is kept, streams end.
    pub fn fail(&self, sentence: String) {
        {
            let mut fatal = self.fatal.lock();
            if fatal.is_none() {
                tracing::error!("{sentence}");
            }
            fatal.get_or_insert(sentence);
        }
        self.stop();
    }

    /// Ends all streams. Idempotent.
    pub fn stop(&self) {
        self.announcer.stop();
        self.progress.send_modify(|progress| progress.stopped = true);
    }

    /// Lets readers read up to `committed`.
    pub fn publish(&self, committed: LogIndex) {
        self.progress.send_if_modified(|progress| {
            let newer = committed > progress.committed;
            progress.committed = progress.committed.max(committed);
            newer
        });
    }

    /// The committed log after an index.
    pub fn committed(self: &Arc<Self>, after: LogIndex) -> BoxStream<'static, Committed> {
        let reader = Reader {
            shared: self.clone(),
            progress: self.progress.subscribe(),
            position: after,
            taken: VecDeque::new(),
        };
        Box::pin(stream::unfold(reader, |mut reader| async move {
            let item = reader.next().await?;
            Some((item, reader))
        }))
    }

    /// For the operator.
    pub fn status(&self) -> Status {
        let facts = self.facts.lock().clone();
        let founded = self.founding.founders();
        let now = self.clock.now();
        let mut status = Status {
            backend: self.backend,
            log_id: founded.as_ref().map(|(log, _)| *log),
            epoch: facts.epoch,
            committed: self.progress.borrow().committed,
            max_entry_bytes: MAX_ENTRY_BYTES,
            fatal: self.fatal.lock().clone(),
            voters: self.voters.clone(),
            ..Status::default()
        };
        if founded.is_none() {
            status.founding = Some(self.founding.status());
            status.peers =
                status.founding.as_ref().map(|founding| founding.awaited.clone()).unwrap_or_default();
            return status;
        }
        if let Some(parts) = self.parts.get() {
            status.first = parts.log.base().index.next();
        }
        let members = &facts.membership.voters;
        status.voters = members.iter().map(|(node, member)| (*node, member.endpoint.clone())).collect();
        let problems = self.transport.problems();
        for (node, member) in facts.membership.members().filter(|(node, _)| *node != self.me) {
            let age = facts.contacts.get(&node).map(|contact| now.since(*contact));
            status.peers.push(Peer {
                node: Some(node),
                endpoint: member.endpoint.clone(),
                contact_age: age,
                matched: facts.matched.get(&node).copied(),
                problem: problems.get(&node).cloned().or_else(|| self.silence(&facts, node, age)),
            });
        }
        status.quorum_contact_age = self.quorum_contact_age(&facts, now);
        self.say_what_hinders(&mut status);
        status
    }

    /// A full disk keeps this node from taking part; nothing else in the status would show it.
    fn say_what_hinders(&self, status: &mut Status) {
        let Some(trouble) = self.parts.get().and_then(|parts| parts.log.trouble()) else { return };
        status.peers.push(Peer {
            node: Some(self.me),
            endpoint: self.voters.get(&self.me).cloned().unwrap_or_else(|| "this node".to_owned()),
            contact_age: Some(Duration::ZERO),
            matched: None,
            problem: Some(trouble),
        });
    }

    /// Whether a peer that should be heard is not: by a leader everybody, by a follower the leader, and by a node
    /// without a leader everybody, because whoever is asked for a vote answers.
    fn silence(&self, facts: &Facts, node: NodeId, age: Option<Duration>) -> Option<String> {
        let should_be_heard = facts.leader.is_none_or(|leader| leader == self.me || leader == node);
        let limit = self.timings.election_max * if facts.leader.is_none() { 2 } else { 1 };
        match age {
            Some(age) if should_be_heard && age > limit => Some(format!("silent for {} ms", age.as_millis())),
            None if should_be_heard => Some("not heard yet".to_owned()),
            _ => None,
        }
    }

    /// For a leader: how old the answer is with which it had a quorum. For a follower: when it heard the leader.
    fn quorum_contact_age(&self, facts: &Facts, now: Moment) -> Option<Duration> {
        let age = |node: &NodeId| facts.contacts.get(node).map(|contact| now.since(*contact));
        match facts.leader {
            Some(leader) if leader == self.me => {
                let others = facts.membership.voters.keys().filter(|node| **node != self.me);
                let mut ages: Vec<Duration> = others.filter_map(age).collect();
                ages.sort_unstable();
                ages.insert(0, Duration::ZERO);
                ages.get(facts.membership.voters.len() / 2).copied()
            }
            Some(leader) => age(&leader),
            None => facts.contacts.keys().filter_map(age).min(),
        }
    }
}

/// Reads the committed log by index.
struct Reader<M> {
    shared: Arc<Shared<M>>,
    progress: watch::Receiver<Progress>,
    position: LogIndex,
    taken: VecDeque<Entry>,
}

impl<M: Clone + Send + 'static> Reader<M> {
    async fn next(&mut self) -> Option<Committed> {
        loop {
            if self.progress.borrow().stopped {
                return None;
            }
            if let Some(entry) = self.taken.pop_front() {
                self.position = entry.index;
                let data = if entry.engine == 0 { entry.data } else { bytes::Bytes::new() };
                return Some(Committed::Entry { index: entry.index, epoch: entry.epoch, data });
            }
            let position = self.position;
            let more = |progress: &Progress| progress.stopped || progress.committed > position;
            let progress = *self.progress.wait_for(more).await.ok()?;
            if progress.stopped {
                return None;
            }
            let parts = self.shared.parts.get()?.clone();
            if parts.log.base().index > position {
                let newest = parts.snapshots.newest().filter(|newest| newest.meta().index > position)?;
                self.position = newest.meta().index;
                return Some(Committed::Snapshot(newest.snapshot()));
            }
            match parts.log.entries(position.next(), progress.committed, READ_BYTES) {
                Ok(entries) => self.taken = entries.into(),
                Err(error) => self.shared.fail(error.to_string()),
            }
        }
    }
}
