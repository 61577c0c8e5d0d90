//! What the engine shows to everybody else: progress, the log to read from, and facts for the status.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;
use quorate_consensus_kit::{
    founding::Founding,
    log::{Entry, Log},
    membership::Membership,
    snapshot::Snapshots,
    transport::Transport,
};
use quorate_core::{
    consensus::{Committed, LeaderAnnouncer, Peer, Status},
    ids::{Epoch, LogIndex, NodeId},
    runtime::{Clock, Moment},
};
use tokio::sync::watch;

use crate::{
    config::{MAX_ENTRY_BYTES, Timings},
    storage::History,
};

/// Entries that a reader takes out of the log at once, in bytes.
const READ_BYTES: u64 = 1 << 20;

/// How far the log has come, for readers that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Everything up to here is committed, and durable here.
    pub(crate) committed: LogIndex,
    /// Nothing more will come.
    pub(crate) stopped: bool,
}

/// What there is once the cluster is founded.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) log: Log,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) history: Arc<Mutex<History>>,
}

/// What the engine knows of the cluster now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) epoch: Epoch,
    pub(crate) leader: Option<NodeId>,
    pub(crate) membership: Membership,
    pub(crate) contacts: BTreeMap<NodeId, Moment>,
    pub(crate) matched: BTreeMap<NodeId, LogIndex>,
}

pub(crate) struct Shared {
    pub(crate) me: NodeId,
    pub(crate) voters: BTreeMap<NodeId, String>,
    pub(crate) timings: Timings,
    /// Entries that are kept behind a snapshot.
    pub(crate) tail: u64,
    pub(crate) clock: Clock,
    pub(crate) announcer: LeaderAnnouncer,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) founding: Arc<Founding>,
    pub(crate) transport: Transport,
    pub(crate) parts: OnceLock<Parts>,
    pub(crate) facts: Mutex<Facts>,
    pub(crate) fatal: Mutex<Option<String>>,
}

impl Shared {
    /// The backend has failed for good: the sentence is kept, streams end.
    pub(crate) fn fail(&self, sentence: String) {
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
    pub(crate) fn stop(&self) {
        self.announcer.stop();
        self.progress.send_modify(|progress| progress.stopped = true);
    }

    pub(crate) fn publish(&self, committed: LogIndex) {
        self.progress.send_if_modified(|progress| {
            let newer = committed > progress.committed;
            progress.committed = progress.committed.max(committed);
            newer
        });
    }

    /// The committed log after an index.
    pub(crate) fn committed(self: &Arc<Self>, after: LogIndex) -> BoxStream<'static, Committed> {
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

    pub(crate) fn status(&self) -> Status {
        let facts = self.facts.lock().clone();
        let founded = self.founding.founders();
        let now = self.clock.now();
        let mut status = Status {
            backend: "raftrs",
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
struct Reader {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    position: LogIndex,
    taken: VecDeque<Entry>,
}

impl Reader {
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
