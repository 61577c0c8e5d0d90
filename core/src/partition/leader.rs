//! What a leader knows of its followers and concludes: the high watermark, who is in sync, who has fallen behind.
//!
//! Pure: time is given, offsets are given. Ends are the ends that count (see [`super`]): synced ends in a `synced`
//! topic.

use std::time::Duration;

use smallvec::SmallVec;

use crate::{
    ids::{BrokerEpoch, LeaderEpoch, NodeId, Offset},
    metadata::image::{Nodes, Partition},
    planted::{Bug, planted},
    runtime::Moment,
};

use super::isr::{Effect, InSync, Proposal, Verdict};

/// One leadership of a partition.
#[derive(Clone, Debug)]
pub struct Leadership {
    node: NodeId,
    broker_epoch: BrokerEpoch,
    epoch: LeaderEpoch,
    epoch_start: Offset,
    replicas: Nodes,
    followers: SmallVec<[Follower; 2]>,
    in_sync: InSync,
    rules: LeaderRules,
}

/// What the configuration says to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderRules {
    /// `min.insync.replicas`; at least 1.
    pub min_isr: usize,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
}

/// A follower as its leader sees it. What it was in an earlier leadership is forgotten, so that nobody is in sync who
/// has not fetched in this one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Follower {
    node: NodeId,
    /// The end that counts; `None` until its first fetch of this leadership.
    end: Option<Offset>,
    /// The leader's end when it last fetched.
    leader_end: Offset,
    fetched_at: Moment,
    /// The last moment at which it had everything that there was; `None` if it never did.
    caught_up_at: Option<Moment>,
    /// The registration that its connection proved.
    broker_epoch: BrokerEpoch,
    /// Its present registration, while it is neither fenced nor shutting down.
    active: Option<BrokerEpoch>,
}

/// What a follower's Fetch says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFetch {
    /// The follower.
    pub node: NodeId,
    /// The registration that its connection proved.
    pub broker_epoch: BrokerEpoch,
    /// The end of its log that counts.
    pub end: Offset,
}

/// A Fetch that is not from a follower of this leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAFollower {
    /// The node holds no replica, as far as this leader knows.
    NoReplica,
    /// The registration has been replaced by a newer one.
    OldBroker,
}

impl Leadership {
    /// Begins a leadership, with what the metadata says and where the log ends. `active` tells a broker's registration
    /// while it is neither fenced nor shutting down.
    #[must_use]
    pub fn begin(
        node: NodeId,
        state: &Partition,
        epoch_start: Offset,
        rules: LeaderRules,
        now: Moment,
        active: impl Fn(NodeId) -> Option<BrokerEpoch>,
    ) -> Self {
        let mut leadership = Self {
            node,
            broker_epoch: active(node).unwrap_or(BrokerEpoch::NONE),
            epoch: state.leader_epoch,
            epoch_start,
            replicas: Nodes::new(),
            followers: SmallVec::new(),
            in_sync: InSync::of(state),
            rules,
        };
        leadership.assign(state, now, active);
        leadership.in_sync.recover();
        leadership
    }

    /// Takes in newer metadata of the same leadership.
    pub fn observe(
        &mut self,
        state: &Partition,
        now: Moment,
        active: impl Fn(NodeId) -> Option<BrokerEpoch>,
    ) {
        if self.in_sync.observe(state) {
            self.assign(state, now, &active);
            self.in_sync.recover();
        }
        self.brokers_changed(active);
    }

    /// Takes in who may be in an ISR.
    pub fn brokers_changed(&mut self, active: impl Fn(NodeId) -> Option<BrokerEpoch>) {
        for follower in &mut self.followers {
            follower.active = active(follower.node);
        }
        self.broker_epoch = active(self.node).unwrap_or(self.broker_epoch);
    }

    /// Takes in the configuration.
    pub fn reconfigure(&mut self, rules: LeaderRules) {
        self.rules = rules;
    }

    fn assign(&mut self, state: &Partition, now: Moment, active: impl Fn(NodeId) -> Option<BrokerEpoch>) {
        self.replicas = state.replicas.clone();
        self.followers.retain(|follower| state.has_replica(follower.node));
        for node in state.replicas.iter().copied().filter(|node| *node != self.node) {
            if self.follower(node).is_some() {
                continue;
            }
            self.followers.push(Follower {
                node,
                end: None,
                leader_end: Offset(0),
                fetched_at: Moment::default(),
                // A member of the ISR has the time of lag to show up.
                caught_up_at: state.isr.contains(&node).then_some(now),
                broker_epoch: BrokerEpoch::NONE,
                active: active(node),
            });
        }
    }

    /// The leadership's number.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Where the log ended when the leadership began.
    #[must_use]
    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// The in-sync replicas.
    #[must_use]
    pub fn in_sync(&self) -> &InSync {
        &self.in_sync
    }

    /// Every replica, the preferred leader first.
    #[must_use]
    pub fn replicas(&self) -> &[NodeId] {
        &self.replicas
    }

    /// Whether the ISR is large enough for the high watermark to move (KIP-966).
    #[must_use]
    pub fn has_min_isr(&self) -> bool {
        self.in_sync.current().len() >= self.min_isr()
    }

    /// Whether the ISR is large enough for acks=all, without the members that were asked to leave. While no controller
    /// takes such a change in, the ISR stays as it is, and a producer would wait for replicas that are gone.
    #[must_use]
    pub fn can_acknowledge(&self) -> bool {
        self.in_sync.staying() >= self.min_isr()
    }

    fn min_isr(&self) -> usize {
        self.rules.min_isr.min(self.replicas.len())
    }

    /// Whether the high watermark has reached what was in the log when the leadership began. Before that, the true one
    /// may be larger, and a client that asks for the end of the partition must not be told a smaller one than before.
    #[must_use]
    pub fn is_high_watermark_known(&self, high_watermark: Offset) -> bool {
        high_watermark >= self.epoch_start
    }

    /// The high watermark that follows from `current`: the smallest end among the maximal ISR and the replicas that are
    /// about to join it, never less than `current`, and only while the ISR is large enough. `own_end` is this node's
    /// end that counts.
    ///
    /// Replicas that are about to join are waited for, because otherwise one that is always a batch behind a lone
    /// leader would never be in sync with it.
    #[must_use]
    pub fn high_watermark(&self, current: Offset, own_end: Offset, now: Moment) -> Offset {
        if !self.has_min_isr() || self.in_sync.is_recovering() {
            return current;
        }
        let counts = |follower: &&Follower| {
            self.in_sync.may_contain(follower.node)
                || (follower.is_eligible() && follower.is_caught_up(own_end, now, self.rules.lag_max))
        };
        let smallest =
            self.followers.iter().filter(counts).map(|follower| follower.end.unwrap_or(Offset(0))).min();
        let reached = smallest.map_or(own_end, |end| end.min(own_end));
        if planted(Bug::HighWatermarkFalls) { reached } else { reached.max(current) }
    }

    /// Takes in that the log has grown: whoever had everything until now was caught up until now. A follower that is
    /// silent because nothing is written has no other way to stay in sync.
    pub fn appended(&mut self, end_before: Offset, now: Moment) {
        for follower in &mut self.followers {
            if follower.end.is_some_and(|end| end >= end_before) {
                follower.caught_up_at = Some(now);
            }
        }
    }

    /// Takes in a follower's Fetch, and asks for it to join the ISR if it may. `own_end` is this node's end that
    /// counts, at the time of the Fetch.
    ///
    /// # Errors
    /// If it is not from a follower.
    pub fn fetched(
        &mut self,
        fetch: FollowerFetch,
        own_end: Offset,
        high_watermark: Offset,
        now: Moment,
    ) -> Result<(), NotAFollower> {
        let Some(follower) = self.followers.iter_mut().find(|follower| follower.node == fetch.node) else {
            return Err(NotAFollower::NoReplica);
        };
        if follower.active.is_some_and(|active| active > fetch.broker_epoch) {
            return Err(NotAFollower::OldBroker);
        }
        if fetch.end >= own_end {
            follower.caught_up_at = Some(now);
        } else if follower.end.is_some() && fetch.end >= follower.leader_end {
            // It has what there was when it last asked: a busy partition is never caught up with to the record.
            follower.caught_up_at = follower.caught_up_at.max(Some(follower.fetched_at));
        }
        follower.end = Some(fetch.end);
        follower.leader_end = own_end.max(follower.leader_end);
        follower.fetched_at = now;
        follower.broker_epoch = fetch.broker_epoch;
        self.consider_expanding(fetch.node, high_watermark);
        Ok(())
    }

    /// Asks for every follower that is in sync to join the ISR, one at a time. For when a change has been settled.
    pub fn expand(&mut self, high_watermark: Offset) {
        let nodes: Nodes = self.followers.iter().map(|follower| follower.node).collect();
        for node in nodes {
            self.consider_expanding(node, high_watermark);
        }
    }

    /// In sync: at or past the high watermark, and at or past the start of this leadership, by a Fetch of this
    /// leadership. The second, because the true high watermark may lie between the leader's and where its log ended
    /// when it was elected. (There is no wait for the high watermark to reach that start: with an ISR below its minimum
    /// it never would, and Kafka has no such rule.)
    fn consider_expanding(&mut self, node: NodeId, high_watermark: Offset) {
        let Some(follower) = self.follower(node) else { return };
        let in_sync = follower.end.is_some_and(|end| end >= high_watermark && end >= self.epoch_start);
        if (in_sync || planted(Bug::JoinsBehind)) && follower.is_eligible() {
            self.in_sync.expand(node);
        }
    }

    /// Asks for the members of the ISR that have fallen behind to leave it: those that have not had everything for
    /// longer than `replica.lag.time.max.ms`.
    pub fn shrink(&mut self, own_end: Offset, now: Moment) -> bool {
        let behind = |node: &NodeId| {
            let follower = self.follower(*node);
            *node != self.node
                && !follower.is_some_and(|follower| follower.is_caught_up(own_end, now, self.rules.lag_max))
        };
        let leaving: Nodes = self.in_sync.current().iter().copied().filter(behind).collect();
        self.in_sync.shrink(&leaving)
    }

    /// Whether there is something to ask the controller.
    #[must_use]
    pub fn has_proposal(&self) -> bool {
        self.in_sync.has_proposal()
    }

    /// What is to be asked of the controller, once.
    pub fn take_proposal(&mut self) -> Option<Proposal> {
        let seen: SmallVec<[(NodeId, BrokerEpoch); 4]> =
            self.followers.iter().map(|follower| (follower.node, follower.broker_epoch)).collect();
        let (node, own) = (self.node, self.broker_epoch);
        self.in_sync.take(self.epoch, |member| {
            if member == node {
                return own;
            }
            seen.iter().find(|(other, _)| *other == member).map_or(BrokerEpoch::NONE, |(_, epoch)| *epoch)
        })
    }

    /// Takes in the controller's answer.
    pub fn answered(&mut self, proposal: &Proposal, verdict: &Verdict, high_watermark: Offset) -> Effect {
        if proposal.leader_epoch != self.epoch {
            return Effect::Settled;
        }
        let effect = self.in_sync.answered(proposal, verdict);
        // After a refusal the same process of a replica waits for its next Fetch or for the next look at everybody, so
        // that a refused one is not asked for in a loop. Another process of it may have come while the answer did not,
        // and is silent where nothing is written.
        if effect == Effect::Settled {
            let refused = !matches!(verdict, Verdict::Accepted { .. });
            let asked = |follower: &&Follower| proposal.isr.contains(&(follower.node, follower.broker_epoch));
            let followers = self.followers.iter().filter(|follower| !(refused && asked(follower)));
            let nodes: Nodes = followers.map(|follower| follower.node).collect();
            for node in nodes {
                self.consider_expanding(node, high_watermark);
            }
        }
        effect
    }

    /// The end that counts of a follower; `None` if it has not fetched in this leadership.
    #[must_use]
    pub fn follower_end(&self, node: NodeId) -> Option<Offset> {
        self.follower(node)?.end
    }

    fn follower(&self, node: NodeId) -> Option<&Follower> {
        self.followers.iter().find(|follower| follower.node == node)
    }
}

impl Follower {
    /// Whether it may be in an ISR: neither fenced nor shutting down, and the process that fetched is the registered
    /// one (KIP-841, KIP-903).
    fn is_eligible(&self) -> bool {
        self.active.is_some_and(|active| active == self.broker_epoch)
    }

    fn is_caught_up(&self, leader_end: Offset, now: Moment, lag_max: Duration) -> bool {
        self.end.is_some_and(|end| end >= leader_end)
            || self.caught_up_at.is_some_and(|at| now.since(at) <= lag_max)
    }
}

#[cfg(test)]
#[path = "leader_test.rs"]
mod tests;
