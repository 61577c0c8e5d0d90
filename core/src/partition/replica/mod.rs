//! A partition's replica on this node: its log, the rules of its role and its producers, under one lock, with a watch
//! of its progress for whoever waits. It has no task of its own; what takes long is pushed to the [`Duties`].

mod follow;
mod list_offsets;
mod produce;
mod read;
mod sync;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::runtime::watch;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    ids::{BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionId},
    log::{Expired, Log, ReadError, Unusable, producers::Producers},
    metadata::image::Partition,
    planted::{Bug, planted},
    runtime::{Clock, Moment},
};

pub use follow::{FollowError, FromLeader, Position};
pub use list_offsets::{FoundOffset, ListError, Wanted};
pub use produce::{AckError, Acks, ProduceError, Written};
pub use read::{FetchAnswer, FetchError, FetchQuery, NotServed, Reader};

use super::{
    backlog::Backlog,
    isr::{Effect, Proposal, Verdict},
    leader::Leadership,
    settings::Settings,
};

/// A partition's replica on this node.
pub struct Replica {
    /// Which partition.
    pub partition: PartitionId,
    /// The topic's name.
    pub topic: Arc<str>,
    node: NodeId,
    clock: Clock,
    duties: Duties,
    settings: ArcSwap<Settings>,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    waits_for_sync: AtomicBool,
    waits_for_proposal: AtomicBool,
    has_news: AtomicBool,
}

/// Where a replica leaves what the node's tasks have to do for it. A replica is in each list at most once.
#[derive(Clone, Default)]
pub struct Duties {
    /// Batches to be synced; one list for each log directory.
    pub sync: Arc<Backlog<Arc<Replica>>>,
    /// Changes of an ISR to be asked of the controller.
    pub proposals: Arc<Backlog<Arc<Replica>>>,
    /// Followers whose leader is to be told something, or that have to begin to fetch.
    pub news: Arc<Backlog<Arc<Replica>>>,
}

/// How far a replica has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether it leads and serves.
    pub leads: bool,
    /// The leadership that it leads or follows; [`LeaderEpoch::NONE`] once the partition is gone.
    pub leader_epoch: LeaderEpoch,
    /// The first offset.
    pub log_start: Offset,
    /// What consumers may see ends here.
    pub high_watermark: Offset,
    /// The offset of the next record.
    pub log_end: Offset,
    /// What survives a power cut ends here.
    pub synced_end: Offset,
}

struct State {
    log: Log,
    producers: Producers,
    high_watermark: Offset,
    role: Role,
    /// The log was damaged when it was opened, and this replica has followed nobody since.
    opened_damaged: bool,
}

enum Role {
    /// Nothing is known from the metadata yet.
    None,
    Leader(Box<Leadership>),
    Follower(Following),
    /// The partition is not on this node any more.
    Gone,
}

/// Whom a follower follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Following {
    leader: NodeId,
    epoch: LeaderEpoch,
}

impl Replica {
    /// A replica with its log opened. It serves nothing before [`Replica::observe`].
    ///
    /// # Errors
    /// The producers could not be read from the log. A damaged log is no error: it serves nothing.
    pub fn new(
        partition: PartitionId,
        topic: Arc<str>,
        mut log: Log,
        settings: Settings,
        (node, clock): (NodeId, Clock),
        duties: Duties,
    ) -> Result<Arc<Self>, ReadError> {
        let producers = match log.load_producers() {
            Err(ReadError::Unusable(Unusable::Damaged(_))) => Producers::default(),
            other => other?,
        };
        log.reconfigure(settings.log);
        let high_watermark = log.start_offset();
        let opened_damaged = matches!(log.unusable(), Some(Unusable::Damaged(_)));
        let state = State { log, producers, high_watermark, role: Role::None, opened_damaged };
        let progress = watch::Sender::new(state.progress());
        Ok(Arc::new(Self {
            partition,
            topic,
            node,
            clock,
            duties,
            settings: ArcSwap::from_pointee(settings),
            state: Mutex::new(state),
            progress,
            waits_for_sync: AtomicBool::new(false),
            waits_for_proposal: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
        }))
    }

    /// Takes in the high watermark that was known when the process ended before, as far as this replica's end that counts
    /// goes. It is never used to cut a log; consumers see at once again what they had seen.
    pub fn resume_high_watermark(&self, kept: Offset) {
        let mut state = self.state.lock();
        let end = state.own_end(&self.settings.load());
        state.high_watermark = kept.min(end).max(state.log.start_offset());
        self.publish(&state);
    }

    /// Follows the replica's progress. Every change is seen, though not each by itself.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// The topic's settings.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// The ISR and the maximal ISR as this leader knows them; `None` if it does not lead.
    #[must_use]
    pub fn in_sync(&self) -> Option<(Vec<NodeId>, Vec<NodeId>)> {
        let state = self.state.lock();
        let Role::Leader(leader) = &state.role else { return None };
        Some((leader.in_sync().current().to_vec(), leader.in_sync().maximal().to_vec()))
    }

    /// Takes in what the metadata says of the partition: leads, follows, or goes on as before. `active` tells a broker's
    /// registration while it is neither fenced nor shutting down. State of an older leadership changes nothing.
    pub fn observe(self: &Arc<Self>, wanted: &Partition, active: impl Fn(NodeId) -> Option<BrokerEpoch>) {
        let now = self.clock.now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if matches!(state.role, Role::Gone) || wanted.leader_epoch < state.leader_epoch() {
            return;
        }
        self.repair(state, wanted);
        let followed = state.following();
        match &mut state.role {
            Role::Leader(leader) if wanted.leader == self.node && leader.epoch() == wanted.leader_epoch => {
                leader.observe(wanted, now, active);
                if !planted(Bug::UnfencedStaysOut) {
                    leader.expand(state.high_watermark);
                }
            }
            _ if wanted.leader == self.node => {
                let start = state.log.end_offset();
                state.log.begin_epoch(wanted.leader_epoch);
                let rules = self.settings.load().leader;
                let leader = Leadership::begin(self.node, wanted, start, rules, now, active);
                tracing::info!(
                    "{}-{}: leads in epoch {} from offset {start}",
                    self.topic,
                    self.partition.index,
                    wanted.leader_epoch
                );
                state.role = Role::Leader(Box::new(leader));
            }
            _ => {
                let following = Following { leader: wanted.leader, epoch: wanted.leader_epoch };
                if planted(Bug::FollowerCutsToHighWatermark) {
                    // The worst that can come of it is what the simulator is to find.
                    let _ = state.log.truncate_to(state.high_watermark);
                }
                state.role = Role::Follower(following);
            }
        }
        if state.following() != followed {
            self.tell(&self.has_news, &self.duties.news);
        }
        self.settle(guard, now);
    }

    /// Cuts a damaged log where it is damaged, if nobody counts on what lies behind: this replica is in no ISR and
    /// follows somebody who has it.
    ///
    /// Only what was damaged when this process opened it: a replica that has fetched in this registration may be about to
    /// join the ISR, without this node's image saying so yet, and would be counted on for what is cut. After a restart
    /// such a change is refused, because it names the registration before.
    fn repair(&self, state: &mut State, wanted: &Partition) {
        let counts = wanted.isr.contains(&self.node) || wanted.elr.contains(&self.node);
        if !state.opened_damaged || counts || !wanted.has_leader() || wanted.leader == self.node {
            return;
        }
        state.opened_damaged = false;
        let cut = state.log.discard_damage();
        match cut.map(|_| state.log.load_producers()) {
            Ok(Ok(producers)) => {
                state.producers = producers;
                state.high_watermark = state.high_watermark.min(state.log.end_offset());
                tracing::warn!(
                    "{}-{}: cut at the damage, offset {}; what follows is fetched from node {}",
                    self.topic,
                    self.partition.index,
                    state.log.end_offset(),
                    wanted.leader
                );
            }
            Ok(Err(error)) => tracing::error!("{}-{}: {error}", self.topic, self.partition.index),
            Err(error) => tracing::error!("{}-{}: {error}", self.topic, self.partition.index),
        }
    }

    /// Takes in who may be in an ISR. A follower that has everything and is silent because nothing is written joins
    /// now: no Fetch of its own would come to ask for it.
    pub fn brokers_changed(self: &Arc<Self>, active: impl Fn(NodeId) -> Option<BrokerEpoch>) {
        let mut guard = self.state.lock();
        let high_watermark = guard.high_watermark;
        if let Role::Leader(leader) = &mut guard.role {
            leader.brokers_changed(active);
            if !planted(Bug::UnfencedStaysOut) {
                leader.expand(high_watermark);
            }
        }
        self.settle(guard, self.clock.now());
    }

    /// Takes other settings, unless those that it has are of a newer image.
    pub fn reconfigure(self: &Arc<Self>, settings: Settings) {
        let mut guard = self.state.lock();
        if settings.image < self.settings.load().image {
            return;
        }
        self.settings.store(Arc::new(settings));
        guard.log.reconfigure(settings.log);
        if let Role::Leader(leader) = &mut guard.role {
            leader.reconfigure(settings.leader);
        }
        self.settle(guard, self.clock.now());
    }

    /// Serves nothing any more, and whoever waits is told. What was handed out before stays readable.
    pub fn retire(self: &Arc<Self>) {
        let mut guard = self.state.lock();
        guard.role = Role::Gone;
        self.tell(&self.has_news, &self.duties.news);
        self.publish(&guard);
    }

    /// Whether the partition is not on this node any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.state.lock().role, Role::Gone)
    }

    /// What the passing of time brings: members of the ISR that have fallen behind are asked to leave, replicas that
    /// were waited for in vain hold up nothing any more, and whoever is in sync and was refused is asked for again. Producers that have been silent for long are forgotten.
    pub fn tick(self: &Arc<Self>) {
        let now = self.clock.now();
        let settings = self.settings.load();
        let mut guard = self.state.lock();
        let (own_end, high_watermark) = (guard.own_end(&settings), guard.high_watermark);
        // Whoever cannot read its log cannot tell who has fallen behind it: others may go on without it, not it without
        // them.
        let is_usable = guard.log.unusable().is_none();
        if let Role::Leader(leader) = &mut guard.role {
            if is_usable {
                leader.shrink(own_end, now);
            }
            if !planted(Bug::UnfencedStaysOut) {
                leader.expand(high_watermark);
            }
        }
        guard.producers.expire(self.clock.wall_ms(), settings.producer_expiration_ms);
        self.settle(guard, now);
    }

    /// Removes segments that are too old or too much, below the high watermark only.
    ///
    /// # Errors
    /// As [`Log::expire`].
    pub fn expire(&self) -> Result<Expired, ReadError> {
        let mut guard = self.state.lock();
        let high_watermark = guard.high_watermark;
        let expired = guard.log.expire(self.clock.wall_ms(), high_watermark);
        // A follower's high watermark may lie before what its leader has removed.
        guard.high_watermark = high_watermark.max(guard.log.start_offset());
        self.publish(&guard);
        expired
    }

    /// What is to be asked of the controller, once.
    pub fn take_proposal(&self) -> Option<Proposal> {
        self.waits_for_proposal.store(false, Ordering::Release);
        match &mut self.state.lock().role {
            Role::Leader(leader) => leader.take_proposal(),
            _ => None,
        }
    }

    /// Puts a proposal that has to be asked again back into the list.
    pub fn propose_again(self: &Arc<Self>) {
        self.tell(&self.waits_for_proposal, &self.duties.proposals);
    }

    /// Takes in the controller's answer. With [`Effect::Retry`] the caller waits a while and has it proposed again.
    pub fn answered(self: &Arc<Self>, proposal: &Proposal, verdict: &Verdict) -> Effect {
        let mut guard = self.state.lock();
        let high_watermark = guard.high_watermark;
        if planted(Bug::LeaderCutsToHighWatermark) {
            let _ = guard.log.truncate_to(high_watermark);
        }
        let Role::Leader(leader) = &mut guard.role else { return Effect::Settled };
        let effect = leader.answered(proposal, verdict, high_watermark);
        // A proposal that is to be sent again waits for its turn in the caller's hands.
        if effect == Effect::Retry {
            return effect;
        }
        self.settle(guard, self.clock.now());
        effect
    }

    /// Does something with the log that changes no offset but the start: checkpoints, sizes, a snapshot at a clean end.
    pub fn with_log<T>(&self, work: impl FnOnce(&mut Log, &Producers) -> T) -> T {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        work(&mut state.log, &state.producers)
    }

    /// Draws all conclusions from a change under the lock: the high watermark, proposals, syncs; tells everybody.
    fn settle(self: &Arc<Self>, mut guard: MutexGuard<'_, State>, now: Moment) {
        let settings = self.settings.load();
        guard.advance(&settings, now);
        if let Role::Leader(leader) = &guard.role
            && leader.has_proposal()
        {
            self.tell(&self.waits_for_proposal, &self.duties.proposals);
        }
        self.ask_for_sync(&guard, &settings);
        self.publish(&guard);
    }

    /// Puts the replica into a list, unless it is in it.
    fn tell(self: &Arc<Self>, is_in_it: &AtomicBool, list: &Backlog<Arc<Self>>) {
        if !is_in_it.swap(true, Ordering::AcqRel) {
            list.push(self.clone());
        }
    }

    fn publish(&self, state: &State) {
        state.validate();
        let now = state.progress();
        self.progress.send_if_modified(|before| {
            let is_news = *before != now;
            *before = now;
            is_news
        });
    }
}

impl State {
    fn leader_epoch(&self) -> LeaderEpoch {
        match &self.role {
            Role::Leader(leader) => leader.epoch(),
            Role::Follower(following) => following.epoch,
            Role::None | Role::Gone => LeaderEpoch::NONE,
        }
    }

    /// Whom it follows.
    fn following(&self) -> Option<Following> {
        if let Role::Follower(following) = self.role { Some(following) } else { None }
    }

    fn progress(&self) -> Progress {
        Progress {
            leads: matches!(&self.role, Role::Leader(leader) if !leader.in_sync().is_recovering()),
            leader_epoch: self.leader_epoch(),
            log_start: self.log.start_offset(),
            high_watermark: self.high_watermark,
            log_end: self.log.end_offset(),
            synced_end: self.log.synced_end(),
        }
    }

    /// The end that counts.
    fn own_end(&self, settings: &Settings) -> Offset {
        let is_synced = settings.is_synced() && !planted(Bug::CountsUnsynced);
        if is_synced { self.log.synced_end() } else { self.log.end_offset() }
    }

    /// Moves a leader's high watermark as far as the rules allow.
    fn advance(&mut self, settings: &Settings, now: Moment) {
        let own_end = self.own_end(settings);
        if let Role::Leader(leader) = &self.role
            && self.log.unusable().is_none()
        {
            self.high_watermark = leader.high_watermark(self.high_watermark, own_end, now);
        }
    }

    /// What holds at all times, see [`super`].
    fn validate(&self) {
        debug_assert!(self.log.start_offset() <= self.high_watermark, "{:?}", self.progress());
        debug_assert!(self.high_watermark <= self.log.end_offset(), "{:?}", self.progress());
        debug_assert!(self.log.synced_end() <= self.log.end_offset(), "{:?}", self.progress());
    }
}

#[cfg(test)]
#[path = "replica_test.rs"]
mod tests;
