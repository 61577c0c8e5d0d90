//! The cluster as whoever drives it sees it.

use std::{fmt, sync::Arc};

use crate::runtime::watch;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{MemoryConfig, nodes::Node, state::State};
use crate::{
    consensus::{Epoch, LogId, LogIndex, NodeId},
    runtime::{Clock, Rng},
};

/// What all nodes of a memory cluster share, and the controls of their fate. Clones are the same cluster.
#[derive(Clone)]
pub struct MemoryCluster(pub(super) Arc<Shared>);

pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) clock: Clock,
    /// Counts changes; streams and engines look again.
    pub(super) changed: watch::Sender<u64>,
}

impl Shared {
    /// Reads, or changes what nobody waits for.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock())
    }

    /// Changes the state, and wakes whoever waits if anything that can be waited for is another.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let before = fingerprint(&state);
        let result = change(&mut state);
        let changed = before != fingerprint(&state);
        drop(state);
        if changed {
            self.changed.send_modify(|count| *count += 1);
        }
        result
    }
}

type Fingerprint = (Epoch, bool, LogIndex, LogIndex, Vec<(LogIndex, LogIndex, Option<u64>, [bool; 4])>);

fn fingerprint(state: &State) -> Fingerprint {
    let node = |node: &Node| {
        let fatal = node.process.as_ref().is_some_and(|process| process.fatal.is_some());
        let number = node.process.as_ref().map(|process| process.number);
        (node.known, node.first, number, [node.cut, node.paused, node.held, fatal])
    };
    let nodes = state.nodes.values().map(node).collect();
    (state.epoch, state.leadership.is_some(), state.last(), state.committed, nodes)
}

impl MemoryCluster {
    /// A cluster with an empty log.
    #[must_use]
    pub fn new(config: MemoryConfig, clock: Clock, rng: Rng) -> Self {
        let state = Mutex::new(State::new(config, clock.clone(), rng));
        Self(Arc::new(Shared { state, clock, changed: watch::channel(0).0 }))
    }

    /// Makes `node` the leader of a new epoch, whoever leads now. `None` if it cannot be: it or more than half of the
    /// voters do not take part, or the cluster is not founded. Of what the former leader had appended and not yet
    /// committed, a seeded part is kept.
    pub fn elect(&self, node: NodeId) -> Option<Epoch> {
        self.0.change(|state| state.elect(node))
    }

    /// Ends the leadership; nobody leads until the next election.
    pub fn depose(&self) {
        self.0.change(State::depose);
    }

    /// Lets `node` notice that it hears of no leader, or, if it leads, no quorum.
    pub fn suspect(&self, node: NodeId) {
        self.0.change(|state| state.suspect(node));
    }

    /// Cuts `node` off from all others.
    pub fn cut(&self, node: NodeId) {
        self.set(node, |node| node.cut = true);
    }

    /// Joins `node` to the others again. If it led and nobody has led since, it resumes.
    pub fn heal(&self, node: NodeId) {
        self.set(node, |node| node.cut = false);
    }

    /// Lets `node` stand still: it hears nothing, says nothing and notices nothing, its calls wait.
    pub fn pause(&self, node: NodeId) {
        self.set(node, |node| node.paused = true);
    }

    /// Lets `node` go on.
    pub fn resume(&self, node: NodeId) {
        self.set(node, |node| node.paused = false);
    }

    /// Keeps `node` from learning of new entries, while it takes part in everything else.
    pub fn hold(&self, node: NodeId) {
        self.set(node, |node| node.held = true);
    }

    /// Ends [`MemoryCluster::hold`].
    pub fn release(&self, node: NodeId) {
        self.set(node, |node| node.held = false);
    }

    /// Ends the process of `node` as `kill -9` would: calls end unknown, streams end, what is durable stays. The next
    /// start of its [`Memory`](super::Memory) is a restart.
    pub fn kill(&self, node: NodeId) {
        self.0.change(|state| {
            let process = state.nodes.get(&node).and_then(|here| here.process.as_ref());
            if let Some(number) = process.map(|process| process.number) {
                state.end_process(node, number);
            }
        });
    }

    /// Lets the backend of `node` fail for good.
    pub fn fail(&self, node: NodeId, reason: &str) {
        self.0.change(|state| state.fail(node, reason));
    }

    /// Commits the next `count` proposals and answers that their outcome is unknown.
    pub fn lose_replies(&self, count: u32) {
        self.0.look(|state| state.lost_replies = count);
    }

    /// Loses the last `count` committed entries for good, as disks do that lied about their syncs. Only a cluster
    /// that breaks its promises does this.
    pub fn forget(&self, count: u64) {
        self.0.change(|state| state.forget(count));
    }

    /// The log's name.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.0.look(|state| state.config.log_id)
    }

    /// The newest epoch.
    #[must_use]
    pub fn newest_epoch(&self) -> Epoch {
        self.0.look(|state| state.epoch)
    }

    /// The cluster's clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    /// Who leads which epoch, if the leader and a quorum take part.
    #[must_use]
    pub fn leader(&self) -> Option<(NodeId, Epoch)> {
        self.0.look(|state| state.acting().map(|led| (led.node, led.epoch)))
    }

    /// The last committed entry.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        self.0.look(|state| state.committed)
    }

    /// The committed entries after `after`, as far as any node still keeps them: what a test holds the nodes against.
    #[must_use]
    pub fn entries(&self, after: LogIndex) -> Vec<(LogIndex, Epoch, Bytes)> {
        self.0.look(|state| {
            let indexes = (after.0 + 1..=state.committed.0).map(LogIndex);
            let entry = |index| state.entry(index).map(|entry| (index, entry.epoch, entry.data.clone()));
            indexes.filter_map(entry).collect()
        })
    }

    fn set(&self, node: NodeId, set: impl FnOnce(&mut Node)) {
        self.0.change(|state| {
            if let Some(node) = state.nodes.get_mut(&node) {
                set(node);
            }
            state.settle();
        });
    }
}

impl fmt::Debug for MemoryCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCluster").field("leader", &self.leader()).finish_non_exhaustive()
    }
}
