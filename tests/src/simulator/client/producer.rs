//! An idempotent producer with acks=all, as Java's default is. Each batch is sent until it is known what became of it.

use std::{collections::BTreeMap, time::Duration};

use quorate_core::{
    ids::ProducerId,
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

use super::{PARTITIONS, Told, Wire};
use crate::history::Outcome;

/// For how long a batch is sent again and again.
const DELIVERY: Duration = Duration::from_secs(20);

pub(super) struct Producer {
    number: u32,
    wire: Wire,
    told: Told,
    identity: Option<(ProducerId, i16)>,
    sequences: BTreeMap<i32, i32>,
    sent: u64,
}

/// A batch and its values.
struct Sending {
    partition: i32,
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
    pub(super) fn new(number: u32, wire: Wire, told: Told) -> Self {
        Self { number, wire, told, identity: None, sequences: BTreeMap::new(), sent: 0 }
    }

    pub(super) async fn run(mut self) {
        while !self.told.lock().finishing {
            let pause = 5 + self.wire.rng.below(120);
            self.wire.clock.sleep(Duration::from_millis(pause)).await;
            let Some(identity) = self.identity().await else { continue };
            let sending = self.next_batch(identity);
            self.told.lock().under_way += 1;
            let answer = self.deliver(&sending).await;
            self.write_down(&sending, &answer);
            self.told.lock().under_way -= 1;
        }
    }

    async fn identity(&mut self) -> Option<(ProducerId, i16)> {
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

    fn next_batch(&mut self, (id, epoch): (ProducerId, i16)) -> Sending {
        let rng = &self.wire.rng;
        let partition = i32::try_from(rng.below(PARTITIONS.unsigned_abs().into())).unwrap_or(0);
        let count = 1 + rng.below(3);
        let sequence = self.sequences.entry(partition).or_default();
        let mut batch = BatchBuilder::new(Compression::from(Codec::None)).producer(id, epoch, *sequence);
        let (mut values, mut numbers) = (Vec::new(), Vec::new());
        for number in self.sent..self.sent + count {
            let value = format!("p{}-{number}", self.number);
            batch = batch.simple(self.wire.clock.wall_ms(), None, Some(value.as_bytes()));
            values.push(value);
            numbers.push(number);
        }
        self.sent += count;
        *sequence += i32::try_from(count).unwrap_or(0);
        let bytes = batch.build().unwrap_or_default();
        Sending { partition, values, bytes, numbers, invoked: self.wire.clock.now() }
    }

    /// Sends a batch until something is known of it.
    async fn deliver(&mut self, sending: &Sending) -> Answer {
        let deadline = sending.invoked.plus(DELIVERY);
        loop {
            let last = match self.send_once(sending).await {
                Ok(answered) => match self.judge(sending, &answered) {
                    Answer::Again => answered.error.to_string(),
                    settled => return settled,
                },
                Err(reason) => reason,
            };
            if self.wire.clock.now() >= deadline {
                return Answer::Lost(last);
            }
            self.wire.outdated();
            self.wire.pause().await;
        }
    }

    async fn send_once(&mut self, sending: &Sending) -> Result<ProducedPartition, String> {
        let layout = self.wire.layout().await.ok_or("no metadata")?;
        let (endpoint, _) = layout.leaders.get(&sending.partition).ok_or("no leader")?.clone();
        let client = self.wire.connection(&endpoint).await.ok_or("no connection")?;
        let partition = ProducePartition {
            topic: TopicRef::Id(layout.topic),
            index: sending.partition,
            records: Some(sending.bytes.clone().into()),
        };
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 1000,
            partitions: [partition].into_iter().collect(),
        };
        match client.produce(&request, super::PATIENCE).await {
            Ok(answer) => answer.partitions.into_iter().next().ok_or_else(|| "an empty answer".to_owned()),
            Err(error) => {
                self.wire.forget(&endpoint);
                Err(error.to_string())
            }
        }
    }

    fn judge(&self, sending: &Sending, answered: &ProducedPartition) -> Answer {
        match answered.error {
            ErrorCode::NONE => Answer::Acked(answered.base_offset.0),
            // The batch is there, but nobody knows any more where.
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Answer::Lost("a duplicate".to_owned()),
            error @ (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::UNKNOWN_PRODUCER_ID
            | ErrorCode::INVALID_PRODUCER_EPOCH) => {
                let what = format!(
                    "the producer's next batch to partition {} is refused with {error}: {:?}",
                    sending.partition, sending.values
                );
                self.told.lock().violated(27, what);
                Answer::Lost(error.to_string())
            }
            _ => Answer::Again,
        }
    }

    fn write_down(&mut self, sending: &Sending, answer: &Answer) {
        let nanos = |moment: Moment| i64::try_from(moment.0).unwrap_or(i64::MAX);
        let (offset, error) = match answer {
            Answer::Acked(offset) => (*offset, None),
            Answer::Again => (-1, Some("not answered".to_owned())),
            Answer::Lost(reason) => {
                // What comes next would be out of order if this one never arrives.
                self.identity = None;
                (-1, Some(reason.clone()))
            }
        };
        let mut told = self.told.lock();
        for (at, (value, number)) in (0..).zip(sending.values.iter().zip(&sending.numbers)) {
            told.outcomes.push(Outcome {
                producer: self.number,
                number: *number,
                partition: sending.partition,
                value: value.clone(),
                invoked: nanos(sending.invoked),
                answered: nanos(self.wire.clock.now()),
                offset: if offset < 0 { -1 } else { offset + at },
                error: error.clone(),
            });
        }
        if offset >= 0 {
            let end = offset + i64::try_from(sending.values.len()).unwrap_or(0);
            told.saw_visible(sending.partition, end);
        }
    }
}
