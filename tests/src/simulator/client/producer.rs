//! An idempotent producer with acks=all, as Java's default is. Each batch is sent until it is known what became of it.
//! After one that was given up, and now and then without a reason, the producer goes on under a larger epoch; its
//! former self then tries once more, and must be refused.

use std::{collections::BTreeMap, time::Duration};

use quorate_core::{
    ids::{LeaderEpoch, PartitionId, ProducerId},
    protocol::{
        bodies::InitProducerIdRequest,
        builder::BatchBuilder,
        compression::{Codec, Compression},
        errors::ErrorCode,
        produce::{ProducePartition, ProduceRequest, ProducedPartition},
        topics::TopicRef,
    },
    runtime::Moment,
};

use super::{Told, Wire};
use crate::{
    history::Outcome,
    simulator::topics::{self, ORDERS, Topic},
};

/// For how long a batch is sent again and again.
const DELIVERY: Duration = Duration::from_secs(20);

/// For how long a leader may not know that it leads no more.
const STALE: Duration = Duration::from_secs(5);

/// A producer's id and epoch.
type Identity = (ProducerId, i16);

pub(super) struct Producer {
    number: u32,
    topics: Vec<Topic>,
    wire: Wire,
    told: Told,
    identity: Option<Identity>,
    sequences: BTreeMap<PartitionId, i32>,
    sent: u64,
    /// What this producer was before, and its next sequence number in a partition.
    former: Option<(PartitionId, Identity, i32)>,
}

/// A batch and its values.
struct Sending {
    topic: Topic,
    id: PartitionId,
    identity: Identity,
    sequence: i32,
    values: Vec<String>,
    bytes: Vec<u8>,
    numbers: Vec<u64>,
    invoked: Moment,
}

/// What the answer to a batch says.
enum Answer {
    Acked(i64),
    Again,
    Lost(String),
}

impl Producer {
    pub(super) fn new(number: u32, topics: Vec<Topic>, wire: Wire, told: Told) -> Self {
        let (identity, sequences) = (None, BTreeMap::new());
        Self { number, topics, wire, told, identity, sequences, sent: 0, former: None }
    }

    pub(super) async fn run(mut self) {
        // At least something is to be acknowledged, however bad the times.
        while !self.told.lock().is_done() {
            let pause = 5 + self.wire.rng.below(120);
            self.wire.clock.sleep(Duration::from_millis(pause)).await;
            let Some(identity) = self.identity().await else { continue };
            let topic = self.any_topic();
            let Some(layout) = self.wire.layout(&topic).await else { continue };
            let index = self.wire.rng.below(topic.partitions.unsigned_abs().into());
            let id = PartitionId { topic: layout.topic, index: i32::try_from(index).unwrap_or(0) };
            let sending = self.next_batch(topic, id, identity);
            self.told.lock().under_way += 1;
            let answer = self.deliver(&sending).await;
            self.write_down(&sending, &answer);
            self.told.lock().under_way -= 1;
            if matches!(answer, Answer::Acked(_)) {
                self.haunt(&sending).await;
            }
        }
    }

    /// Half of everything goes to the first.
    fn any_topic(&self) -> Topic {
        let chosen = self.wire.rng.below(2 * self.topics.len() as u64);
        let chosen = usize::try_from(chosen).unwrap_or(0);
        self.topics.get(chosen).copied().unwrap_or(ORDERS)
    }

    async fn identity(&mut self) -> Option<Identity> {
        if self.identity.is_none() {
            let client = self.wire.anybody().await?;
            let request = InitProducerIdRequest::default().with_transactional_id(None);
            let answer = client.call(&request, super::PATIENCE).await.ok()?;
            let answer = Some(answer).filter(|answer| answer.error_code == 0)?;
            self.identity = Some((ProducerId(answer.producer_id.0), answer.producer_epoch));
            self.sequences.clear();
        }
        self.identity
    }

    fn next_batch(&mut self, topic: Topic, id: PartitionId, identity: Identity) -> Sending {
        let count = 1 + self.wire.rng.below(3);
        let sequence = *self.sequences.entry(id).or_default();
        let mark = topics::mark(id.topic);
        let numbers: Vec<u64> = (self.sent..self.sent + count).collect();
        let values = numbers.iter().map(|number| format!("p{}-{number}{mark}", self.number)).collect();
        self.sent += count;
        self.sequences.insert(id, sequence + i32::try_from(count).unwrap_or(0));
        let invoked = self.wire.clock.now();
        let sending = Sending { topic, id, identity, sequence, values, bytes: Vec::new(), numbers, invoked };
        Sending { bytes: self.batch(&sending.values, identity, sequence), ..sending }
    }

    fn batch(&self, values: &[String], (id, epoch): Identity, sequence: i32) -> Vec<u8> {
        let mut batch = BatchBuilder::new(Compression::from(Codec::None)).producer(id, epoch, sequence);
        for value in values {
            batch = batch.simple(self.wire.clock.wall_ms(), None, Some(value.as_bytes()));
        }
        batch.build().unwrap_or_default()
    }

    /// Sends a batch until something is known of it.
    async fn deliver(&mut self, sending: &Sending) -> Answer {
        let deadline = sending.invoked.plus(DELIVERY);
        loop {
            let last = match self.send_once(sending).await {
                Ok(Some((epoch, answered))) => match self.judge(sending, epoch, &answered) {
                    Answer::Again => answered.error.to_string(),
                    settled => return settled,
                },
                Ok(None) => return Answer::Lost("the topic is another one".to_owned()),
                Err(reason) => reason,
            };
            if self.wire.clock.now() >= deadline {
                return Answer::Lost(last);
            }
            self.wire.outdated(&sending.topic);
            self.wire.pause().await;
        }
    }

    /// One attempt. `Ok(None)` if the topic's name belongs to another one.
    async fn send_once(
        &mut self,
        sending: &Sending,
    ) -> Result<Option<(LeaderEpoch, ProducedPartition)>, String> {
        let layout = self.wire.layout(&sending.topic).await.ok_or("no metadata")?;
        if layout.topic != sending.id.topic {
            return Ok(None);
        }
        let (endpoint, epoch) = layout.leaders.get(&sending.id.index).ok_or("no leader")?.clone();
        let client = self.wire.connection(&endpoint).await.ok_or("no connection")?;
        let partition = ProducePartition {
            topic: TopicRef::Id(layout.topic),
            index: sending.id.index,
            records: Some(sending.bytes.clone().into()),
        };
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 1000,
            partitions: [partition].into_iter().collect(),
        };
        match client.produce(&request, super::PATIENCE).await {
            Ok(answer) => {
                let answered = answer.partitions.into_iter().next();
                answered.map(|answered| Some((epoch, answered))).ok_or_else(|| "an empty answer".to_owned())
            }
            Err(error) => {
                self.wire.forget(&endpoint);
                Err(error.to_string())
            }
        }
    }

    fn judge(&self, sending: &Sending, epoch: LeaderEpoch, answered: &ProducedPartition) -> Answer {
        match answered.error {
            ErrorCode::NONE => Answer::Acked(answered.base_offset.0),
            // The batch is there, but nobody knows any more where.
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Answer::Lost("a duplicate".to_owned()),
            error @ (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::UNKNOWN_PRODUCER_ID
            | ErrorCode::INVALID_PRODUCER_EPOCH) => {
                let what = format!(
                    "the next batch of producer {:?} to {}, with sequence {}, is refused with {error}: {:?}",
                    sending.identity, sending.id, sending.sequence, sending.values
                );
                self.told.lock().doubted((sending.id, epoch), 27, what);
                // A leader that does not know that it leads no more knows less than the present one.
                let patient = self.wire.clock.now().since(sending.invoked) < STALE;
                if patient { Answer::Again } else { Answer::Lost(error.to_string()) }
            }
            _ => Answer::Again,
        }
    }

    /// Goes on under the next epoch, now and then.
    fn grow(&mut self, sending: &Sending) {
        let (id, epoch) = sending.identity;
        let sequence = self.sequences.get(&sending.id).copied().unwrap_or(0);
        self.former = Some((sending.id, sending.identity, sequence));
        self.identity = Some((id, epoch.saturating_add(1)));
        self.sequences.clear();
    }

    /// Once a batch of the present epoch is in a partition, one of the former epoch must be refused there. Where records
    /// are deleted or lost, nobody may know any more who wrote.
    async fn haunt(&mut self, acked: &Sending) {
        let Some((id, identity, sequence)) = self.former.filter(|(id, ..)| *id == acked.id) else {
            if self.wire.rng.below(8) == 0 {
                self.grow(acked);
            }
            return;
        };
        self.former = None;
        if acked.topic != ORDERS || acked.identity.0 != identity.0 {
            return;
        }
        let values = vec![format!("late{}", topics::mark(id.topic))];
        let bytes = self.batch(&values, identity, sequence);
        let invoked = self.wire.clock.now();
        let late = Sending {
            topic: acked.topic,
            id,
            identity,
            sequence,
            values,
            bytes,
            numbers: Vec::new(),
            invoked,
        };
        if let Ok(Some((epoch, answered))) = self.send_once(&late).await
            && answered.error.is_none()
        {
            let what = format!(
                "a batch of epoch {} of producer {} is taken after a later one",
                identity.1, identity.0
            );
            self.told.lock().doubted((id, epoch), 28, what);
        }
    }

    fn write_down(&mut self, sending: &Sending, answer: &Answer) {
        let nanos = |moment: Moment| i64::try_from(moment.0).unwrap_or(i64::MAX);
        let (offset, error) = match answer {
            Answer::Acked(offset) => (*offset, None),
            Answer::Again => (-1, Some("not answered".to_owned())),
            Answer::Lost(reason) => {
                // What comes next would be out of order if this one never arrives.
                if self.wire.rng.below(2) == 0 {
                    self.identity = None;
                } else {
                    self.grow(sending);
                }
                (-1, Some(reason.clone()))
            }
        };
        let mut told = self.told.lock();
        let outcomes = told.outcomes.entry(sending.id.topic).or_default();
        for (at, (value, number)) in (0..).zip(sending.values.iter().zip(&sending.numbers)) {
            outcomes.push(Outcome {
                producer: self.number,
                number: *number,
                partition: sending.id.index,
                value: value.clone(),
                invoked: nanos(sending.invoked),
                answered: nanos(self.wire.clock.now()),
                offset: if offset < 0 { -1 } else { offset + at },
                error: error.clone(),
            });
        }
        if offset >= 0 {
            let end = offset + i64::try_from(sending.values.len()).unwrap_or(0);
            told.saw_visible(sending.id, end);
        }
    }
}
