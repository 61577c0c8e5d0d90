//! The state of a memory cluster and its transitions. One lock holds it; nothing here waits.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Elections, MemoryConfig,
    nodes::{Kept, Node, Process},
};
use crate::{
    consensus::{
        Chain, CompactError, Epoch, Leader, LeaderAnnouncer, LogIndex, MembershipChange, MembershipError,
        NodeId, ProposeError, Resume, StartError,
    },
    runtime::{Clock, Rng},
};

type Outcome = Result<LogIndex, ProposeError>;

/// One entry of the log that all nodes share.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) epoch: Epoch,
    pub(super) data: Bytes,
    chain: Chain,
}

/// Who leads. It ends with the leader's process, and is suspended while that is cut off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leadership {
    pub(super) node: NodeId,
    pub(super) epoch: Epoch,
    pub(super) opened_at: LogIndex,
    pub(super) suspended: bool,
}

pub(super) struct State {
    pub(super) config: MemoryConfig,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    pub(super) founded: bool,
    pub(super) epoch: Epoch,
    pub(super) leadership: Option<Leadership>,
    pub(super) voters: BTreeMap<NodeId, String>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// The committed entries, and after them what the leader has appended.
    entries: VecDeque<Entry>,
    /// The last entry before `entries`, and the history there.
    base: (LogIndex, Chain),
    pub(super) committed: LogIndex,
    waiting: BTreeMap<LogIndex, oneshot::Sender<Outcome>>,
    processes: u64,
    pub(super) lost_replies: u32,
}

impl State {
    pub(super) fn new(config: MemoryConfig, clock: Clock, rng: Rng) -> Self {
        Self {
            founded: config.founded,
            voters: config.voters.clone(),
            nodes: config.voters.keys().map(|&node| (node, Node::new())).collect(),
            base: (LogIndex(0), Chain::start(config.log_id)),
            config,
            clock,
            rng,
            epoch: Epoch(0),
            leadership: None,
            entries: VecDeque::new(),
            committed: LogIndex(0),
            waiting: BTreeMap::new(),
            processes: 0,
            lost_replies: 0,
        }
    }

    // --- the log

    pub(super) fn last(&self) -> LogIndex {
        LogIndex(self.base.0.0 + self.entries.len() as u64)
    }

    pub(super) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let position = index.0.checked_sub(self.base.0.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(position).ok()?)
    }

    /// The history at an index that is still kept.
    pub(super) fn chain_at(&self, index: LogIndex) -> Option<Chain> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.entry(index).map(|entry| entry.chain)
    }

    fn push(&mut self, epoch: Epoch, data: Bytes) -> LogIndex {
        let before = self.entries.back().map_or(self.base.1, |entry| entry.chain);
        self.entries.push_back(Entry { epoch, chain: before.link(epoch, &data), data });
        self.last()
    }

    /// Forgets the entries that no node keeps.
    fn prune(&mut self) {
        let first = self.nodes.values().map(|node| node.first).min().unwrap_or(LogIndex(1));
        while self.base.0.next() < first {
            let Some(entry) = self.entries.pop_front() else { return };
            self.base = (self.base.0.next(), entry.chain);
        }
    }

    /// Loses what it promised to keep.
    pub(super) fn forget(&mut self, count: u64) {
        self.end_leadership();
        let kept = self.committed.0.saturating_sub(count).max(self.base.0.0);
        self.committed = LogIndex(kept);
        self.entries.truncate(usize::try_from(kept - self.base.0.0).unwrap_or(usize::MAX));
        self.nodes.values_mut().for_each(|node| node.known = node.known.min(LogIndex(kept)));
    }

    // --- processes

    pub(super) fn start(
        &mut self,
        node: NodeId,
        resume: Resume,
        announcer: LeaderAnnouncer,
    ) -> Result<u64, StartError> {
        self.check_history(resume)?;
        let now = self.clock.now();
        self.processes += 1;
        let process = Process {
            number: self.processes,
            announcer,
            fatal: None,
            contact: None,
            election_at: None,
            rests_until: now,
            due: None,
        };
        let here = self.nodes.entry(node).or_insert_with(Node::new);
        if here.process.is_some() {
            return Err(StartError::Config(format!("node {node} runs already")));
        }
        here.process = Some(process);
        if self.leadership.is_some_and(|led| led.node == node) {
            // It led in its former life, and a new life begins as a follower.
            self.end_leadership();
        }
        self.settle();
        Ok(self.processes)
    }

    fn check_history(&self, resume: Resume) -> Result<(), StartError> {
        let log_id = self.config.log_id;
        if let Some(other) = resume.log_id.filter(|other| *other != log_id) {
            return Err(StartError::Foreign(format!("the log is {log_id}, this node's state is of {other}")));
        }
        let foreign = |what: &str| {
            let index = resume.applied;
            Err(StartError::Foreign(format!("this node's state is at entry {index}, {what}")))
        };
        if resume.applied > self.committed {
            return foreign("which the log does not have");
        }
        match self.chain_at(resume.applied) {
            Some(chain) if resume.applied > LogIndex(0) && chain != resume.chain => {
                foreign("where the log has another history")
            }
            _ => Ok(()),
        }
    }

    /// Ends a process; its leadership stays open until another begins, as the others know nothing yet.
    pub(super) fn end_process(&mut self, node: NodeId, number: u64) {
        let Some(here) = self.nodes.get_mut(&node) else { return };
        let Some(process) = here.process.take_if(|process| process.number == number) else { return };
        process.announcer.stop();
        if self.leadership.is_some_and(|led| led.node == node) {
            self.answer_waiting_unknown();
        }
        self.settle();
    }

    /// A terminal failure: streams end, calls answer `Stopped`.
    pub(super) fn fail(&mut self, node: NodeId, reason: &str) {
        let process = self.nodes.get_mut(&node).and_then(|here| here.process.as_mut());
        if let Some(process) = process {
            process.fatal.get_or_insert_with(|| reason.to_owned());
            process.announcer.stop();
        }
        if self.leadership.is_some_and(|led| led.node == node) {
            self.answer_waiting_unknown();
        }
        self.settle();
    }

    // --- who leads

    pub(super) fn takes_part(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(Node::takes_part)
    }

    /// Whether more than half of the voters take part.
    pub(super) fn has_quorum(&self) -> bool {
        let present = self.voters.keys().filter(|&&node| self.takes_part(node)).count();
        present * 2 > self.voters.len()
    }

    /// The leadership that can commit now.
    pub(super) fn acting(&self) -> Option<Leadership> {
        self.leadership.filter(|led| self.takes_part(led.node) && self.has_quorum())
    }

    pub(super) fn may_lead(&self, node: NodeId) -> bool {
        self.founded && self.voters.contains_key(&node) && self.takes_part(node) && self.has_quorum()
    }

    /// Begins an epoch. Of what the former leader had appended and not committed, a seeded part is kept, as by a
    /// follower that had received just that.
    pub(super) fn elect(&mut self, node: NodeId) -> Option<Epoch> {
        if !self.may_lead(node) {
            return None;
        }
        self.end_leadership();
        let kept = self.rng.below(self.last().0 - self.committed.0 + 1);
        let len = self.committed.0 - self.base.0.0 + kept;
        self.entries.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        self.epoch = Epoch(self.epoch.0 + 1);
        let opened_at = self.push(self.epoch, Bytes::new());
        self.leadership = Some(Leadership { node, epoch: self.epoch, opened_at, suspended: false });
        self.settle();
        Some(self.epoch)
    }

    pub(super) fn end_leadership(&mut self) {
        self.leadership = None;
        self.answer_waiting_unknown();
    }

    fn answer_waiting_unknown(&mut self) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            let _ = waiting.send(Err(ProposeError::Unknown));
        }
    }

    /// The leader notices that it is cut off, or a follower that its leader is gone.
    pub(super) fn suspect(&mut self, node: NodeId) {
        if let Some(led) = self.leadership.as_mut().filter(|led| led.node == node && !led.suspended) {
            led.suspended = true;
            self.answer_waiting_unknown();
        }
        if let Some(here) = self.nodes.get(&node) {
            here.announce_unknown();
        }
    }

    /// Ends the leadership and tells whoever can hear.
    pub(super) fn depose(&mut self) {
        self.end_leadership();
        for node in self.nodes.values().filter(|node| node.takes_part()) {
            node.announce_unknown();
        }
        self.settle();
    }

    /// Gives up a leadership; hands it over where elections are ours.
    pub(super) fn resign(&mut self, node: NodeId, epoch: Epoch) {
        if !self.leadership.is_some_and(|led| led.node == node && led.epoch == epoch) {
            return;
        }
        let process = self.nodes.get_mut(&node).and_then(|here| here.process.as_mut());
        let Elections::Timed(timeout) = self.config.elections else { return self.depose() };
        if let Some(process) = process {
            process.rests_until = self.clock.now().plus(timeout * 4);
        }
        let others: Vec<NodeId> =
            self.voters.keys().copied().filter(|&n| n != node && self.may_lead(n)).collect();
        let chosen = usize::try_from(self.rng.below(others.len() as u64)).unwrap_or(0);
        match others.get(chosen) {
            Some(&other) => drop(self.elect(other)),
            None => self.depose(),
        }
    }

    // --- what follows from a change

    /// Draws every conclusion that takes no time: the founding, commits and their spreading where they take no time,
    /// and who is told of which leader.
    pub(super) fn settle(&mut self) {
        self.founded |= self.voters.keys().all(|&node| self.takes_part(node));
        let now = self.clock.now();
        if self.has_quorum() {
            for node in self.nodes.values_mut().filter(|node| node.takes_part()) {
                node.process.iter_mut().for_each(|process| process.contact = Some(now));
            }
        }
        let Some(led) = self.acting() else { return };
        if let Some(led) = &mut self.leadership {
            led.suspended = false;
        }
        if self.config.delay.end.is_zero() {
            self.commit(self.last());
            self.nodes
                .keys()
                .copied()
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|node| self.reveal(node, self.committed));
        }
        for (&id, node) in self.nodes.iter().filter(|(_, node)| node.takes_part()) {
            if id != led.node {
                node.announce(led.epoch, Leader::Other(led.node));
            } else if node.known >= led.opened_at {
                node.announce(led.epoch, Leader::Me { opened_at: led.opened_at });
            }
        }
    }

    /// The acting leader's entries up to `index` are on a quorum.
    pub(super) fn commit(&mut self, index: LogIndex) {
        self.committed = self.committed.max(index.min(self.last()));
        while let Some(waiting) = self.waiting.first_entry().filter(|first| *first.key() <= self.committed) {
            let index = *waiting.key();
            let outcome = if self.lost_replies > 0 { Err(ProposeError::Unknown) } else { Ok(index) };
            self.lost_replies = self.lost_replies.saturating_sub(1);
            let _ = waiting.remove().send(outcome);
        }
    }

    /// A node learns that the entries up to `index` are committed; if the leader has forgotten what it needs, it is
    /// sent the snapshot.
    pub(super) fn reveal(&mut self, id: NodeId, index: LogIndex) {
        let leader = self.acting().and_then(|led| self.nodes.get(&led.node));
        let Some(leader) = leader else { return };
        let (first, snapshot) = (leader.first, leader.snapshot.clone());
        let index = index.min(self.committed);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if !node.takes_part() || node.held || node.known >= index {
            return;
        }
        if node.known.next() < first
            && let Some(kept) = snapshot
        {
            node.known = kept.meta.index;
            node.first = first;
            node.snapshot = Some(kept);
        }
        node.known = node.known.max(index);
    }

    /// How long the next step of replication takes.
    pub(super) fn draw_delay(&self) -> Duration {
        let Range { start, end } = self.config.delay.clone();
        start + self.jitter(end.saturating_sub(start))
    }

    /// A seeded part of `span`.
    pub(super) fn jitter(&self, span: Duration) -> Duration {
        Duration::from_nanos(self.rng.below(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    // --- calls

    /// Appends an entry of the leader's; the receiver is told what became of it.
    pub(super) fn append(
        &mut self,
        (node, number): (NodeId, u64),
        epoch: Epoch,
        data: Bytes,
    ) -> Result<oneshot::Receiver<Outcome>, ProposeError> {
        let living = self.nodes.get(&node).is_some_and(|here| here.living(number).is_some());
        if !living {
            return Err(ProposeError::Stopped);
        }
        let leads = |led: &Leadership| led.node == node && led.epoch == epoch && !led.suspended;
        if !self.leadership.as_ref().is_some_and(leads) {
            let hint = self.acting().map(|led| led.node).filter(|leader| *leader != node);
            return Err(ProposeError::NotLeader { hint: hint.filter(|_| self.takes_part(node)) });
        }
        if self.waiting.len() >= self.config.max_waiting {
            return Err(ProposeError::Busy);
        }
        let index = self.push(epoch, data);
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(index, sender);
        self.settle();
        Ok(receiver)
    }

    /// Changes the voters by an entry of the engine's own; `None` if there is nothing to change.
    pub(super) fn change_voters(
        &mut self,
        node: (NodeId, u64),
        change: MembershipChange,
    ) -> Result<Option<oneshot::Receiver<Outcome>>, MembershipError> {
        let led = self.leadership.filter(|led| led.node == node.0).ok_or(MembershipError::NotLeader)?;
        if !self.has_quorum() {
            return Err(MembershipError::Unavailable("less than half of the voters take part".to_owned()));
        }
        match change {
            MembershipChange::Add { node, endpoint } => {
                if self.voters.insert(node, endpoint).is_some() {
                    return Ok(None);
                }
                self.nodes.entry(node).or_insert_with(Node::new);
            }
            MembershipChange::Remove(node) => {
                if self.voters.remove(&node).is_none() {
                    return Ok(None);
                }
            }
        }
        self.append(node, led.epoch, Bytes::new()).map(Some).map_err(|_| MembershipError::InProgress)
    }

    /// Keeps a snapshot at one node.
    pub(super) fn compact(&mut self, node: NodeId, kept: Kept) -> Result<(), CompactError> {
        let tail = self.config.kept_tail;
        let chain = self.chain_at(kept.meta.index);
        let epoch = self.entry(kept.meta.index).map_or(kept.meta.epoch, |entry| entry.epoch);
        let Some(here) = self.nodes.get_mut(&node) else { return Err(CompactError::Foreign) };
        if here.snapshot.as_ref().is_some_and(|newer| newer.meta.index >= kept.meta.index) {
            return Ok(());
        }
        if kept.meta.index > here.known || chain != Some(kept.meta.chain) || epoch != kept.meta.epoch {
            return Err(CompactError::Foreign);
        }
        here.first = here.first.max(LogIndex((kept.meta.index.0 + 1).saturating_sub(tail)));
        here.snapshot = Some(kept);
        self.prune();
        Ok(())
    }
}
