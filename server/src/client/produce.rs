//! `quorate produce`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, stdin},
};

use bytes::Bytes;
use quorate_core::{
    ids::ProducerId,
    protocol::{
        batch::sequence_plus,
        bodies::InitProducerIdRequest,
        builder::{BatchBuilder, NewRecord},
        compression::{Codec, Compression},
        errors::ErrorCode,
        produce::{ProducePartition, ProduceRequest},
        topics::TopicRef,
    },
    runtime::Runtime,
};
use tokio::sync::mpsc;

use super::{
    partitioner::partition_of,
    session::{ANSWER_MAX, Session, Trouble},
};
use crate::cli::ProduceArgs;

/// Lines that were read and not sent yet.
const LINES_MAX: usize = 1024;
/// Records of one batch: well below the default `max.message.bytes` for lines of usual length.
const BATCH_RECORDS_MAX: usize = 512;
/// Bytes of one batch, half of the default `max.message.bytes`; a longer line has a batch of its own.
const BATCH_BYTES_MAX: usize = 512 << 10;

/// Writes the records and says where they are.
///
/// # Errors
/// A sentence; records before it were written.
pub(crate) async fn run(args: &ProduceArgs, runtime: Runtime) -> Result<(), String> {
    let headers: Result<Vec<_>, String> = args.headers.iter().map(|header| parse_header(header)).collect();
    let codec = Codec::from_name(&args.compression).unwrap_or(Codec::None);
    let mut producer = Producer {
        session: Session::new(&args.cluster, runtime),
        topic: args.topic.clone(),
        partition: args.partition,
        acks: if args.acks == "all" { -1 } else { 1 },
        compression: Compression::from(codec),
        identity: None,
        sequences: BTreeMap::new(),
        turn: 0,
        written: BTreeMap::new(),
    };
    let headers = headers?;
    let record = |value: Vec<u8>, timestamp| NewRecord {
        timestamp,
        key: args.key.as_ref().map(|key| key.clone().into_bytes()),
        value: Some(value),
        headers: headers.clone(),
    };
    if let Some(value) = &args.value {
        let now = producer.session.runtime.clock.wall_ms();
        producer.write(vec![record(value.clone().into_bytes(), now)]).await?;
    } else {
        let mut lines = read_lines().map_err(|error| format!("cannot read the standard input: {error}"))?;
        while let Some(first) = lines.recv().await {
            let now = producer.session.runtime.clock.wall_ms();
            let mut bytes = 0;
            let mut records = Vec::new();
            let mut next = Some(first);
            while let Some(line) = next {
                let line = line.map_err(|error| format!("cannot read the standard input: {error}"))?;
                bytes += line.len();
                records.push(record(line, now));
                let full = records.len() >= BATCH_RECORDS_MAX || bytes >= BATCH_BYTES_MAX;
                next = if full { None } else { lines.try_recv().ok() };
            }
            producer.write(records).await?;
        }
    }
    producer.report();
    Ok(())
}

fn parse_header(text: &str) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("--header '{text}' is not name=value"))?;
    Ok((name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())))
}

/// Reads lines on a thread of their own: the standard input blocks.
fn read_lines() -> std::io::Result<mpsc::Receiver<std::io::Result<Vec<u8>>>> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    let body = move || {
        for line in stdin().lock().split(b'\n') {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(body)?;
    Ok(lines)
}

struct Producer {
    session: Session,
    topic: String,
    partition: Option<i32>,
    acks: i16,
    compression: Compression,
    /// So that a record is there once, however often it had to be sent.
    identity: Option<(ProducerId, i16)>,
    sequences: BTreeMap<i32, i32>,
    /// Whose turn it is among partitions, for records without a key.
    turn: usize,
    written: BTreeMap<i32, (i64, i64, u64)>,
}

impl Producer {
    async fn write(&mut self, records: Vec<NewRecord>) -> Result<(), String> {
        if self.identity.is_none() {
            self.identity = Some(self.introduce().await?);
        }
        let name = self.topic.clone();
        let topic = self.session.retry(async |session| session.topic(&name, true).await).await?;
        let count = topic.partitions.len();
        if let Some(partition) =
            self.partition.filter(|partition| usize::try_from(*partition).is_ok_and(|p| p >= count))
        {
            return Err(format!("topic '{name}' has no partition {partition}; it has {count}, from 0"));
        }
        let mut batches: BTreeMap<i32, Vec<NewRecord>> = BTreeMap::new();
        for record in records {
            let chosen = match (&record.key, self.partition) {
                (_, Some(partition)) => partition,
                (Some(key), None) => i32::try_from(partition_of(key, count)).unwrap_or(0),
                (None, None) => i32::try_from(self.turn.checked_rem(count).unwrap_or(0)).unwrap_or(0),
            };
            batches.entry(chosen).or_default().push(record);
        }
        self.turn = self.turn.wrapping_add(1);
        for (partition, records) in batches {
            self.write_batch(partition, &records).await?;
        }
        Ok(())
    }

    async fn introduce(&mut self) -> Result<(ProducerId, i16), String> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(i32::MAX);
        let request = request.with_producer_id((-1).into()).with_producer_epoch(-1);
        let asked = self.session.retry(async |session| {
            let answer = session.ask(&request).await?;
            let error = ErrorCode(answer.error_code);
            if error.is_none() {
                Ok((ProducerId(answer.producer_id.0), answer.producer_epoch))
            } else {
                Err(Trouble::of(error, "a producer id", None))
            }
        });
        asked.await
    }

    async fn write_batch(&mut self, partition: i32, records: &[NewRecord]) -> Result<(), String> {
        let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
        let (id, epoch) = self.identity.unwrap_or((ProducerId(-1), -1));
        let builder = BatchBuilder::new(self.compression).producer(id, epoch, sequence);
        let batch = records.iter().fold(builder, |batch, record| batch.record(record));
        let batch = Bytes::from(batch.build().map_err(|error| error.to_string())?);
        let (name, acks) = (self.topic.clone(), self.acks);
        let base =
            self.session.retry(async |session| append(session, &name, partition, acks, &batch).await).await?;
        let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
        self.sequences.insert(partition, sequence_plus(sequence, count));
        let last = base.saturating_add(i64::from(count) - 1);
        let written = self.written.entry(partition).or_insert((base, last, 0));
        written.1 = last;
        written.2 += u64::from(count.unsigned_abs());
        Ok(())
    }

    fn report(&self) {
        if self.written.is_empty() {
            println!("nothing to write");
        }
        for (partition, (first, last, count)) in &self.written {
            let records = if *count == 1 { "1 record" } else { "records" };
            if *count == 1 {
                println!("written to {}, partition {partition}: {records} at offset {first}", self.topic);
            } else {
                println!(
                    "written to {}, partition {partition}: {count} {records}, offsets {first} to {last}",
                    self.topic
                );
            }
        }
    }
}

/// Sends one batch to the partition's leader; the offset of its first record.
async fn append(
    session: &mut Session,
    name: &str,
    partition: i32,
    acks: i16,
    batch: &Bytes,
) -> Result<i64, Trouble> {
    let topic = session.topic(name, false).await?;
    let subject = format!("partition {partition} of topic '{name}'");
    let view = topic.partitions.iter().find(|view| view.index == partition);
    let view = view.ok_or_else(|| Trouble::Never(format!("{subject} is gone")))?;
    if view.leader < 0 {
        return Err(Trouble::of(ErrorCode::LEADER_NOT_AVAILABLE, &subject, None));
    }
    let leader = session.broker(view.leader).await?;
    let timeout_ms = i32::try_from(ANSWER_MAX.as_millis()).unwrap_or(i32::MAX);
    let records = Some(batch.clone());
    let partitions = [ProducePartition { topic: TopicRef::Id(topic.id), index: partition, records }];
    let request = ProduceRequest {
        transactional_id: None,
        acks,
        timeout_ms,
        partitions: partitions.into_iter().collect(),
    };
    let answer = leader.produce(&request, ANSWER_MAX).await;
    let answer = session.judge(&leader, answer)?;
    let produced =
        answer.partitions.first().ok_or_else(|| Trouble::Never(format!("{subject}: no answer")))?;
    if produced.error.is_none() {
        return Ok(produced.base_offset.0);
    }
    let blamed = produced.record_errors.first().and_then(|record| record.message.as_deref());
    Err(Trouble::of(produced.error, &subject, blamed.or(produced.message.as_deref())))
}
