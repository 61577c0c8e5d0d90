//! One fetch session (KIP-227) as the follower's side keeps it: what the leader has been told of each partition, what it
//! has to be told, and what becomes of its answers.
//!
//! Two requests may be under way: one that waits at the leader, and a newer one that ends it. An answer is read with the
//! positions that its own request was sent with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    ids::{BrokerEpoch, NodeId, Offset, PartitionId, TopicId},
    log,
    partition::replica::{FollowError, FromLeader, Position, Replica},
    protocol::{
        errors::ErrorCode,
        fetch::{FetchPartition, FetchRequest},
        fetch_response::{FetchResponse, FetchedPartition},
        topics::TopicRef,
    },
    runtime::{Moment, Rng},
};

/// The shortest pause after a partition's error, in ms; each further one doubles it.
const PAUSE_MS: u64 = 20;
/// How often it doubles.
const DOUBLINGS_MAX: u32 = 5;

/// How much is fetched at once and how long a leader may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `replica.fetch.wait.max.ms`.
    pub(super) wait_ms: i32,
    /// `replica.fetch.min.bytes`.
    pub(super) bytes_min: i32,
    /// `replica.fetch.response.max.bytes`.
    pub(super) bytes_max: i32,
    /// `replica.fetch.max.bytes`, of each partition.
    pub(super) partition_bytes_max: i32,
}

/// The session with one leader's node.
pub(super) struct Session {
    leader: NodeId,
    rng: Rng,
    /// 0 until the leader has opened it.
    id: i32,
    epoch: i32,
    slots: BTreeMap<PartitionId, Slot>,
    /// What may have to be told.
    news: BTreeSet<PartitionId>,
    /// What is to be taken out of the session.
    forgotten: BTreeSet<PartitionId>,
}

struct Slot {
    replica: Arc<Replica>,
    /// What the leader was told last; `None` if it is not in the session.
    told: Option<Position>,
    /// What the leader had been told when it made the answer that is being read.
    asked: Option<Position>,
    failures: u32,
    /// Not to be told of before.
    not_before: Option<Moment>,
}

/// A request and the positions in it, to be given back with its answer.
pub(super) struct Asked {
    pub(super) request: FetchRequest,
    pub(super) positions: Vec<(PartitionId, Position)>,
}

/// The session is over and has to be opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionLost(pub(super) ErrorCode);

impl Session {
    pub(super) fn new(leader: NodeId, rng: Rng) -> Self {
        Self {
            leader,
            rng,
            id: 0,
            epoch: 0,
            slots: BTreeMap::new(),
            news: BTreeSet::new(),
            forgotten: BTreeSet::new(),
        }
    }

    /// Begins anew, on another connection: the leader knows nothing.
    pub(super) fn reset(&mut self) {
        self.close();
        for slot in self.slots.values_mut() {
            slot.not_before = None;
        }
    }

    /// The session is over; the next request opens another.
    fn close(&mut self) {
        (self.id, self.epoch) = (0, 0);
        self.forgotten.clear();
        self.news = self.slots.keys().copied().collect();
        for slot in self.slots.values_mut() {
            (slot.told, slot.asked) = (None, None);
        }
    }

    /// Takes in that a replica has news: it begins to follow, stops, or has come further.
    pub(super) fn note(&mut self, replica: Arc<Replica>) {
        let partition = replica.partition;
        self.news.insert(partition);
        match self.slots.get_mut(&partition) {
            // A replica that was removed and came back is another one.
            Some(slot) if Arc::ptr_eq(&slot.replica, &replica) => {}
            Some(slot) => slot.replica = replica,
            None => {
                let slot = Slot { replica, told: None, asked: None, failures: 0, not_before: None };
                self.slots.insert(partition, slot);
            }
        }
        self.drop_lost(partition);
    }

    /// Lets a partition go that is followed elsewhere, or not at all.
    fn drop_lost(&mut self, partition: PartitionId) {
        let Some(slot) = self.slots.get(&partition) else { return };
        if slot.position(self.leader).is_some() {
            return;
        }
        if slot.told.is_some() {
            self.forgotten.insert(partition);
        }
        self.slots.remove(&partition);
        self.news.remove(&partition);
    }

    /// Whether nothing is followed.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the leader has opened the session, so that a second request may be under way.
    pub(super) fn is_open(&self) -> bool {
        self.id != 0
    }

    /// Whether there is something to tell the leader now.
    pub(super) fn has_news(&self, now: Moment) -> bool {
        let is_new = |partition: &PartitionId| {
            self.slots.get(partition).is_some_and(|slot| slot.is_new(self.leader, now))
        };
        !self.forgotten.is_empty() || self.news.iter().any(is_new)
    }

    /// When the first partition that was put off is to be told of.
    pub(super) fn next_retry(&self) -> Option<Moment> {
        self.news.iter().filter_map(|partition| self.slots.get(partition)?.not_before).min()
    }

    /// The next request: what is new, or everything to begin with.
    pub(super) fn request(&mut self, own: (NodeId, BrokerEpoch), limits: &Limits, now: Moment) -> Asked {
        let mut asked = Asked { request: FetchRequest::default(), positions: Vec::new() };
        for partition in std::mem::take(&mut self.news) {
            let Some(slot) = self.slots.get_mut(&partition) else { continue };
            if slot.not_before.is_some_and(|moment| moment > now) {
                self.news.insert(partition);
                continue;
            }
            slot.not_before = None;
            let Some(position) = slot.position(self.leader).filter(|position| !slot.is_told(position)) else {
                continue;
            };
            slot.told = Some(position);
            self.forgotten.remove(&partition);
            asked.positions.push((partition, position));
            asked.request.partitions.push(wish(partition, &position, limits));
        }
        let request = &mut asked.request;
        (request.replica, request.replica_epoch) = own;
        (request.max_wait_ms, request.min_bytes) = (limits.wait_ms, limits.bytes_min);
        request.max_bytes = limits.bytes_max;
        (request.session_id, request.session_epoch) = (self.id, self.epoch);
        let forgotten = std::mem::take(&mut self.forgotten);
        request.forgotten = forgotten.into_iter().map(|id| (TopicRef::Id(id.topic), id.index)).collect();
        // 0 opens a session; the numbers of those that follow go round without it.
        self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
        asked
    }

    /// Takes an answer in.
    ///
    /// # Errors
    /// The leader does not know the session any more.
    pub(super) fn answered(
        &mut self,
        positions: Vec<(PartitionId, Position)>,
        answer: FetchResponse,
        now: Moment,
    ) -> Result<(), SessionLost> {
        if !answer.error.is_none() {
            return Err(SessionLost(answer.error));
        }
        if self.id == 0 && answer.session_id == 0 {
            // Every request would have to name every partition; our brokers always open a session for a replica.
            return Err(SessionLost(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));
        }
        self.id = answer.session_id;
        for (partition, position) in positions {
            if let Some(slot) = self.slots.get_mut(&partition) {
                slot.asked = Some(position);
            }
        }
        for fetched in answer.partitions {
            let TopicRef::Id(topic) = fetched.topic else { continue };
            self.take_in(PartitionId { topic, index: fetched.index }, &fetched, now);
        }
        if self.id == 0 {
            // A leader ends a session that has lost its last partition.
            self.close();
        }
        Ok(())
    }

    fn take_in(&mut self, partition: PartitionId, fetched: &FetchedPartition, now: Moment) {
        let Some(slot) = self.slots.get_mut(&partition) else { return };
        let Some(asked) = slot.asked else { return };
        self.news.insert(partition);
        match slot.take_in(&asked, fetched) {
            Ok(()) => slot.failures = 0,
            Err(reason) => {
                let replica = &slot.replica;
                let (topic, index) = (&replica.topic, partition.index);
                tracing::info!("{topic}-{index}: fetching from node {} is put off: {reason}", self.leader);
                slot.put_off(&self.rng, now);
                if slot.told.take().is_some() {
                    self.forgotten.insert(partition);
                }
            }
        }
        self.drop_lost(partition);
    }
}

impl Slot {
    /// Where the replica stands, if this leader is the one that it follows.
    fn position(&self, leader: NodeId) -> Option<Position> {
        self.replica.position().filter(|position| position.leader == leader)
    }

    fn is_new(&self, leader: NodeId, now: Moment) -> bool {
        self.not_before.is_none_or(|moment| moment <= now)
            && self.position(leader).is_some_and(|position| !self.is_told(&position))
    }

    /// Whether the leader knows as much. The high watermark comes from the leader, so that it need not be told.
    fn is_told(&self, position: &Position) -> bool {
        let same = |told: Position| Position { high_watermark: position.high_watermark, ..told } == *position;
        self.told.is_some_and(same)
    }

    fn put_off(&mut self, rng: &Rng, now: Moment) {
        let pause = PAUSE_MS << self.failures.min(DOUBLINGS_MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = pause / 2 + rng.below(pause);
        self.not_before = Some(now.plus(Duration::from_millis(pause)));
    }

    /// Does what an answer asks for.
    fn take_in(&self, asked: &Position, fetched: &FetchedPartition) -> Result<(), String> {
        let done = match fetched.error {
            ErrorCode::NONE => self.follow(asked, fetched),
            ErrorCode::OFFSET_OUT_OF_RANGE if fetched.log_start >= Offset(0) => {
                self.replica.start_over(asked, fetched.log_start)
            }
            code => return Err(code.to_string()),
        };
        match done {
            // Something newer is on its way to the leader, or will be.
            Ok(()) | Err(FollowError::Overtaken) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn follow(&self, asked: &Position, fetched: &FetchedPartition) -> Result<(), FollowError> {
        if let Some(diverging) = fetched.diverging {
            let leader = log::EpochEnd { epoch: diverging.epoch, end: diverging.end };
            return self.replica.truncate(asked, leader).map(|_| ());
        }
        // From a connection, records are in memory.
        let records = fetched.records.to_bytes().unwrap_or_default();
        let (high_watermark, log_start) = (fetched.high_watermark, fetched.log_start);
        self.replica.append_as_follower(asked, &FromLeader { records: &records, high_watermark, log_start })
    }
}

fn wish(partition: PartitionId, position: &Position, limits: &Limits) -> FetchPartition {
    let topic = TopicRef::Id(TopicId(partition.topic.0));
    FetchPartition {
        leader_epoch: position.leader_epoch,
        last_epoch: position.last_epoch,
        log_start: position.log_start,
        high_watermark: Some(position.high_watermark),
        synced_end: Some(position.synced_end),
        ..FetchPartition::from(topic, partition.index, position.offset, limits.partition_bytes_max)
    }
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
