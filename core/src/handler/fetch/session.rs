//! What a fetch reads from: partitions and where the reader stands in them. Kept between the requests of a fetch
//! session (KIP-227), made for one request otherwise.
//!
//! Only what has changed is read: partitions that the request names, and those whose progress has moved since. An idle
//! partition costs nothing but its place.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use crate::runtime::watch;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use slab::Slab;

use super::Fetcher;
use crate::{
    handler::Handlers,
    ids::Offset,
    metadata::Image,
    partition::replica::{FetchAnswer, FetchError, FetchQuery, Progress, Reader, Replica},
    protocol::{
        bodies::StrBytes,
        errors::ErrorCode,
        fetch::FetchPartition,
        fetch_response::{EpochEnd, FetchedPartition},
        outgoing::{FileRegion, Piece, Records},
        topics::TopicRef,
    },
};

/// How much one answer may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of records, but for the first batch.
    pub(super) bytes: usize,
}

/// What has been read so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pass {
    /// Bytes of records.
    pub(super) bytes: usize,
    /// The reader must hear of something at once.
    pub(super) is_urgent: bool,
    /// Nothing is fetched from.
    pub(super) is_empty: bool,
}

/// Partitions and where the reader stands in them.
pub(super) struct Session {
    slots: Slab<Slot>,
    places: BTreeMap<(TopicRef, i32), usize>,
    /// Slots to be read, by place.
    dirty: BTreeSet<usize>,
    /// Where the next answer begins, so that each partition has its turn.
    cursor: usize,
    waits: FuturesUnordered<BoxFuture<'static, Moved>>,
    generation: u64,
    is_replica: bool,
    /// Slots that have an answer, by place.
    answered: BTreeSet<usize>,
    /// Whether the answer tells of every partition, or only of those with news.
    tells_all: bool,
}

/// One partition and where the reader stands in it.
struct Slot {
    wanted: FetchPartition,
    /// The replica whose progress is waited for, and which wait is meant for this slot.
    watched: Option<(Arc<Replica>, u64)>,
    answer: Option<FetchedPartition>,
    told: Option<Told>,
    /// A replica has been sent the records from this offset on. Until it stands elsewhere they are on their way: two of
    /// its requests may be under way at once, and the same records must not come twice.
    sent_from: Option<Offset>,
}

/// What the reader has been told last.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    high_watermark: Offset,
    log_start: Offset,
}

/// A partition's progress has moved.
struct Moved {
    place: usize,
    generation: u64,
    watch: watch::Receiver<Progress>,
    is_alive: bool,
}

impl Session {
    /// Without partitions. The first answer tells of all that there will be.
    pub(super) fn new(is_replica: bool) -> Self {
        Self {
            slots: Slab::new(),
            places: BTreeMap::new(),
            dirty: BTreeSet::new(),
            cursor: 0,
            waits: FuturesUnordered::new(),
            generation: 0,
            is_replica,
            answered: BTreeSet::new(),
            tells_all: true,
        }
    }

    /// How many partitions there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Takes in where the reader stands now. `keep` makes names independent of the request's frame.
    pub(super) fn update(&mut self, mut wanted: FetchPartition, keep: bool) {
        let key = (wanted.topic.clone(), wanted.index);
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => {
                if keep {
                    wanted.topic = detached(&wanted.topic);
                }
                let key = (wanted.topic.clone(), wanted.index);
                let slot =
                    Slot { wanted: wanted.clone(), watched: None, answer: None, told: None, sent_from: None };
                let place = self.slots.insert(slot);
                self.places.insert(key, place);
                place
            }
        };
        self.dirty.insert(place);
        if let Some(slot) = self.slots.get_mut(place) {
            wanted.topic = slot.wanted.topic.clone();
            slot.sent_from = slot.sent_from.filter(|sent| *sent == wanted.offset);
            // What it says that it knows counts, not what it was sent: it drops an answer that its own log has overtaken,
            // and on an idle partition no other would come.
            if let (Some(told), Some(known)) = (&mut slot.told, wanted.high_watermark) {
                told.high_watermark = told.high_watermark.min(known);
            }
            slot.wanted = wanted;
        }
    }

    /// Takes a partition out.
    pub(super) fn forget(&mut self, topic: &TopicRef, index: i32) {
        if let Some(place) = self.places.remove(&(topic.clone(), index)) {
            self.slots.try_remove(place);
            self.dirty.remove(&place);
            self.answered.remove(&place);
        }
    }

    /// Reads what has changed, within `limits`.
    pub(super) fn pass(&mut self, handlers: &Handlers, fetcher: Fetcher, limits: Limits) -> Pass {
        self.notice();
        let image = handlers.broker.image_arc();
        let due: Vec<usize> =
            self.dirty.range(self.cursor..).chain(self.dirty.range(..self.cursor)).copied().collect();
        let mut bytes = self.answers().map(|answer| answer.records.len()).sum::<usize>();
        for place in due {
            let held = self.slots.get(place).and_then(|slot| slot.answer.as_ref());
            bytes = bytes.saturating_sub(held.map_or(0, |answer| answer.records.len()));
            let left = limits.bytes.saturating_sub(bytes);
            bytes += self.read(handlers, &image, fetcher, (place, left, bytes == 0));
        }
        let mut answered = self.answered.iter().filter_map(|place| self.slots.get(*place));
        let is_urgent = answered.any(|slot| slot.is_urgent(self.is_replica));
        Pass { bytes, is_urgent, is_empty: self.slots.is_empty() }
    }

    /// Waits until a partition has moved.
    pub(super) async fn changed(&mut self) {
        match self.waits.next().await {
            Some(moved) => self.take(moved),
            None => std::future::pending().await,
        }
    }

    /// The answers; what was read counts as told.
    pub(super) fn take_answers(&mut self) -> Vec<FetchedPartition> {
        let tells_all = std::mem::replace(&mut self.tells_all, false);
        let mut answers = Vec::new();
        let mut last = None;
        for place in std::mem::take(&mut self.answered) {
            let Some(slot) = self.slots.get_mut(place) else { continue };
            let Some(answer) = slot.answer.take() else { continue };
            let now = Told { high_watermark: answer.high_watermark, log_start: answer.log_start };
            if !tells_all && !is_news(&answer, slot.told) {
                continue;
            }
            // What failed may be mended without the replica's progress telling of it.
            slot.told = answer.error.is_none().then_some(now);
            if !answer.error.is_none() {
                self.dirty.insert(place);
            }
            if !answer.records.is_empty() {
                last = Some(place);
                slot.sent_from = self.is_replica.then_some(slot.wanted.offset);
            }
            answers.push(answer);
        }
        if let Some(last) = last {
            self.cursor = last + 1;
        }
        answers
    }

    fn answers(&self) -> impl Iterator<Item = &FetchedPartition> {
        self.answered.iter().filter_map(|place| self.slots.get(*place)?.answer.as_ref())
    }

    /// Reads one slot and returns how many bytes were found.
    fn read(
        &mut self,
        handlers: &Handlers,
        image: &Image,
        fetcher: Fetcher,
        (place, left, is_first): (usize, usize, bool),
    ) -> usize {
        self.dirty.remove(&place);
        let Some(slot) = self.slots.get_mut(place) else { return 0 };
        self.answered.insert(place);
        let (topic, index) = (slot.wanted.topic.clone(), slot.wanted.index);
        let replica = match handlers.find(image, &topic, index) {
            Ok(replica) => replica,
            Err(error) => {
                slot.watched = None;
                slot.answer = Some(FetchedPartition::failed(topic, index, error));
                return 0;
            }
        };
        // Before the reading, so that nothing that comes after it is missed.
        if !slot.watched.as_ref().is_some_and(|(watched, _)| Arc::ptr_eq(watched, &replica)) {
            self.generation += 1;
            slot.watched = Some((replica.clone(), self.generation));
            let generation = self.generation;
            self.waits.push(wait(place, generation, replica.watch(), self.is_replica));
        }
        let is_sent = slot.sent_from.is_some();
        let wanted = if is_sent { 0 } else { usize::try_from(slot.wanted.max_bytes).unwrap_or(0) };
        let query = slot.query(fetcher, wanted.min(left), is_first && !is_sent);
        let answer = match replica.read(&query) {
            Ok(answer) => answered(topic, index, answer),
            Err(error) => failed(topic, index, &error, self.is_replica),
        };
        if left < wanted && answer.records.is_empty() {
            // There may be more than the answer had room for: the next one looks again.
            self.dirty.insert(place);
        }
        let bytes = answer.records.len();
        slot.answer = Some(answer);
        bytes
    }

    /// Takes in which partitions have moved, without waiting.
    fn notice(&mut self) {
        while let Some(Some(moved)) = self.waits.next().now_or_never() {
            self.take(moved);
        }
    }

    fn take(&mut self, moved: Moved) {
        let Moved { place, generation, watch, is_alive } = moved;
        let slot = self.slots.get(place);
        let is_meant =
            slot.and_then(|slot| slot.watched.as_ref()).is_some_and(|(_, meant)| *meant == generation);
        if !is_meant {
            return;
        }
        self.dirty.insert(place);
        if is_alive {
            self.waits.push(wait(place, generation, watch, self.is_replica));
        }
    }
}

impl Slot {
    fn query(&self, fetcher: Fetcher, max_bytes: usize, at_least_one: bool) -> FetchQuery {
        let wanted = &self.wanted;
        FetchQuery {
            reader: match fetcher {
                Fetcher::Consumer => Reader::Consumer,
                Fetcher::Replica { node, broker_epoch } => {
                    Reader::Replica { node, broker_epoch, synced_end: wanted.synced_end }
                }
            },
            from: wanted.offset,
            leader_epoch: wanted.leader_epoch,
            last_epoch: wanted.last_epoch,
            max_bytes: u32::try_from(max_bytes).unwrap_or(u32::MAX),
            at_least_one,
        }
    }

    /// Whether the reader must hear of it before there are enough bytes: an error, another history, or to a replica a
    /// newer high watermark, which its own consumers wait for once it leads.
    fn is_urgent(&self, is_replica: bool) -> bool {
        let Some(answer) = &self.answer else { return false };
        let known = self.told.map(|told| told.high_watermark).max(self.wanted.high_watermark);
        let is_ahead = is_replica && known.is_some_and(|known| answer.high_watermark > known);
        !answer.error.is_none() || answer.diverging.is_some() || is_ahead
    }
}

/// Whether the reader of a session is told of a partition that it has been told of before.
fn is_news(answer: &FetchedPartition, told: Option<Told>) -> bool {
    let now = Told { high_watermark: answer.high_watermark, log_start: answer.log_start };
    !answer.error.is_none() || !answer.records.is_empty() || answer.diverging.is_some() || told != Some(now)
}

/// Waits until a replica's progress means something to the reader. What is seen now is old news.
fn wait(
    place: usize,
    generation: u64,
    mut watch: watch::Receiver<Progress>,
    is_replica: bool,
) -> BoxFuture<'static, Moved> {
    let seen = *watch.borrow_and_update();
    Box::pin(async move {
        let is_move = |now: &Progress| {
            now.leads != seen.leads
                || now.leader_epoch != seen.leader_epoch
                || now.high_watermark != seen.high_watermark
                || now.log_start != seen.log_start
                || (is_replica && now.log_end != seen.log_end)
        };
        let is_alive = watch.wait_for(is_move).await.is_ok();
        Moved { place, generation, watch, is_alive }
    })
}

fn answered(topic: TopicRef, index: i32, answer: FetchAnswer) -> FetchedPartition {
    let mut told = FetchedPartition::failed(topic, index, ErrorCode::NONE);
    told.high_watermark = answer.high_watermark;
    // Without transactions every visible record is stable.
    told.last_stable = answer.high_watermark;
    told.log_start = answer.log_start;
    told.diverging = answer.diverging.map(|end| EpochEnd { epoch: end.epoch, end: end.end });
    if let Some(region) = answer.region {
        let region = FileRegion { file: region.file, position: region.position, length: region.len };
        told.records = Records([Piece::File(region)].into_iter().collect());
    }
    told
}

fn failed(topic: TopicRef, index: i32, error: &FetchError, is_replica: bool) -> FetchedPartition {
    let mut told = FetchedPartition::failed(topic, index, error.error_code());
    match error {
        FetchError::Storage(storage) => {
            tracing::warn!("partition {index} of a topic cannot be read: {storage}");
        }
        // A replica that is behind everything goes on where this log begins.
        FetchError::OutOfRange { start, .. } if is_replica => told.log_start = *start,
        _ => {}
    }
    told
}

/// A topic that is no slice of a frame.
fn detached(topic: &TopicRef) -> TopicRef {
    match topic {
        TopicRef::Name(name) => TopicRef::Name(StrBytes::from_string(name.to_string())),
        TopicRef::Id(id) => TopicRef::Id(*id),
    }
}
