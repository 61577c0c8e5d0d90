//! The Raft node, behind a wall: raft-rs panics where its state is impossible, and here a panic becomes a sentence.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;
use quorate_consensus_kit::config::MESSAGE_ENTRIES_BYTES;
use quorate_core::ids::{Epoch, LogIndex, NodeId};
use raft::{
    Config, ProgressState, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole, eraftpb::Message,
};

use crate::{
    config::{Timings, UNCOMMITTED_BYTES},
    logger::logger,
    storage::Store,
    transport::{node_of, raft_id},
};

/// Messages to one peer that may be unanswered.
const IN_FLIGHT: usize = 64;
/// Committed entries that are taken at once, in bytes.
const COMMITTED_BYTES: u64 = 4 << 20;

/// The node can go on no more, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

/// What became of an attempt to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// At this place; whether it commits is open.
    At(LogIndex),
    /// Refused: too much is uncommitted, or leadership is being handed over.
    Refused,
}

pub(crate) struct Node {
    raw: RawNode<Store>,
    trouble: Arc<Mutex<Option<String>>>,
    /// Election timeouts, in ticks: at least, and less than.
    timeouts: (usize, usize),
    seed: u64,
    ticks: u64,
    /// Until this tick the node does not ask for votes.
    quiet_until: u64,
}

impl Node {
    /// A node that continues from what `store` holds, of which everything up to the vote's commit index is applied.
    pub(crate) fn new(me: NodeId, store: Store, timings: &Timings, seed: u64) -> Result<Self, Broken> {
        let least = timings.ticks(timings.election_min).max(3);
        let timeouts = (least, timings.ticks(timings.election_max).max(least + 1));
        let config = Config {
            id: raft_id(me),
            election_tick: timeouts.0,
            heartbeat_tick: 2,
            min_election_tick: timeouts.0,
            max_election_tick: timeouts.1,
            applied: store.vote.commit.0,
            max_size_per_msg: MESSAGE_ENTRIES_BYTES,
            max_inflight_msgs: IN_FLIGHT,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            max_committed_size_per_ready: COMMITTED_BYTES,
            ..Config::default()
        };
        let trouble = store.trouble.clone();
        let made = catch_unwind(AssertUnwindSafe(|| RawNode::new(&config, store, &logger())));
        let raw = match made {
            Ok(Ok(raw)) => raw,
            Ok(Err(error)) => return Err(Broken(error.to_string())),
            Err(panic) => return Err(broken(&*panic, &trouble)),
        };
        let mut node = Self { raw, trouble, timeouts, seed, ticks: 0, quiet_until: 0 };
        node.draw_timeout();
        Ok(node)
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut RawNode<Store>) -> T) -> Result<T, Broken> {
        let result = catch_unwind(AssertUnwindSafe(|| call(&mut self.raw)));
        let result = result.map_err(|panic| broken(&*panic, &self.trouble))?;
        self.draw_timeout();
        Ok(result)
    }

    /// raft-rs draws the election timeout from the thread's generator. It is replaced by a pure function of this
    /// node's seed, the term and the time, so that a simulation can be replayed.
    fn draw_timeout(&mut self) {
        let (least, most) = self.timeouts;
        let mixed = mix(self.seed ^ self.term().0.rotate_left(32) ^ (self.ticks / 64));
        let span = (most - least) as u64;
        let timeout = least + usize::try_from(mixed % span.max(1)).unwrap_or(0);
        self.raw.raft.set_randomized_election_timeout(timeout);
    }

    pub(crate) fn term(&self) -> Epoch {
        Epoch(self.raw.raft.term)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        node_of(self.raw.raft.leader_id)
    }

    /// How far a peer's log is known to agree, whether it has answered lately, and whether a snapshot is on the way.
    pub(crate) fn progress(&self, node: NodeId) -> Option<(LogIndex, bool, bool)> {
        let progress = self.raw.raft.prs().get(raft_id(node))?;
        let snapshot = progress.state == ProgressState::Snapshot;
        Some((LogIndex(progress.matched), progress.recent_active, snapshot))
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    pub(crate) fn is_handing_over(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    pub(crate) fn has_pending_change(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// Lets time pass. A node that may not ask for votes, or must be quiet, stops short of the timeout.
    pub(crate) fn tick(&mut self, may_campaign: bool) -> Result<(), Broken> {
        self.ticks += 1;
        let raft = &mut self.raw.raft;
        let due = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if raft.state != StateRole::Leader && due && (!may_campaign || self.ticks < self.quiet_until) {
            // Far enough to vote for others, and no further.
            raft.election_elapsed = self.timeouts.0;
            return Ok(());
        }
        self.call(|raw| raw.tick()).map(|_| ())
    }

    /// Does not ask for votes for so many ticks.
    pub(crate) fn be_quiet(&mut self, ticks: u64) {
        self.quiet_until = self.ticks.saturating_add(ticks);
    }

    /// Asks for votes now.
    pub(crate) fn campaign(&mut self) -> Result<(), Broken> {
        self.call(|raw| raw.campaign()).map(|_| ())
    }

    /// Hears a peer. A message that Raft does not want now is no error.
    pub(crate) fn step(&mut self, message: Message) -> Result<(), Broken> {
        let stepped = self.call(|raw| raw.step(message))?;
        if let Err(error) = stepped {
            tracing::debug!(%error, "a message was not wanted");
        }
        Ok(())
    }

    /// Appends an entry as leader.
    pub(crate) fn propose(&mut self, data: Vec<u8>) -> Result<Appended, Broken> {
        self.append(|raw| raw.propose(Vec::new(), data).is_ok())
    }

    /// Appends a change of the members as leader.
    pub(crate) fn propose_change(&mut self, change: raft::eraftpb::ConfChangeV2) -> Result<Appended, Broken> {
        self.append(|raw| raw.propose_conf_change(Vec::new(), change).is_ok())
    }

    fn append(&mut self, append: impl FnOnce(&mut RawNode<Store>) -> bool) -> Result<Appended, Broken> {
        let before = self.last_index();
        let appended = self.call(append)?;
        let after = self.last_index();
        Ok(if appended && after > before { Appended::At(after) } else { Appended::Refused })
    }

    /// Asks for an index that a quorum confirms; it comes with a later [`Ready`].
    pub(crate) fn read_index(&mut self, context: Vec<u8>) -> Result<(), Broken> {
        self.call(|raw| raw.read_index(context))
    }

    /// Hands leadership to another voter.
    pub(crate) fn transfer(&mut self, to: NodeId) -> Result<(), Broken> {
        self.call(|raw| raw.transfer_leader(raft_id(to)))
    }

    /// Gives up leadership without a successor, as a leader that lost its quorum does.
    pub(crate) fn step_down(&mut self) -> Result<(), Broken> {
        let term = self.term().0;
        self.call(|raw| {
            if raw.raft.state == StateRole::Leader {
                raw.raft.become_follower(term, raft::INVALID_ID);
            }
        })
    }

    pub(crate) fn unreachable(&mut self, node: NodeId) -> Result<(), Broken> {
        self.call(|raw| raw.report_unreachable(raft_id(node)))
    }

    pub(crate) fn snapshot_sent(&mut self, node: NodeId, taken: bool) -> Result<(), Broken> {
        let status = if taken { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.call(|raw| raw.report_snapshot(raft_id(node), status))
    }

    pub(crate) fn apply_change(&mut self, change: &raft::eraftpb::ConfChangeV2) -> Result<(), Broken> {
        let applied = self.call(|raw| raw.apply_conf_change(change))?;
        applied
            .map(|_| ())
            .map_err(|error| Broken(format!("a change of the voters cannot be applied: {error}")))
    }

    /// What there is to do, if anything. It must be done and given back to [`Node::advance`].
    pub(crate) fn ready(&mut self) -> Result<Option<Ready>, Broken> {
        self.call(|raw| raw.has_ready().then(|| raw.ready()))
    }

    pub(crate) fn advance(&mut self, ready: Ready) -> Result<raft::LightReady, Broken> {
        self.call(|raw| raw.advance(ready))
    }

    pub(crate) fn advance_apply(&mut self) -> Result<(), Broken> {
        self.call(RawNode::advance_apply)
    }
}

/// SplitMix64's finish: a number that looks random for each argument.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a panic of raft-rs means.
fn broken(panic: &(dyn std::any::Any + Send), trouble: &Mutex<Option<String>>) -> Broken {
    if let Some(trouble) = trouble.lock().clone() {
        return Broken(trouble);
    }
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let text = text.unwrap_or_else(|| "no reason was given".to_owned());
    if text.contains("to_commit") && text.contains("out of range") {
        return Broken(format!(
            "the disk of this node has lost writes that it had acknowledged ({text}); \
             replace it, empty the data directory, and remove and add this voter"
        ));
    }
    Broken(format!("the Raft engine met an impossible state: {text}"))
}
