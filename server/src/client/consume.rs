//! `quorate consume`.

use std::{
    collections::BTreeMap,
    io::{self, Write as _, stdout},
};

use bytes::Bytes;
use quorate_core::{
    ids::Offset,
    protocol::{
        batch::{Batch, BatchError},
        bodies::{ListOffsetsRequest, list_offsets_request, topic_name},
        compression::{Codec, Decompressor, decompressed_bytes_max},
        errors::ErrorCode,
        fetch::{FetchPartition, FetchRequest},
        fetch_response::FetchedPartition,
        records::{Record, Records},
        topics::TopicRef,
    },
    runtime::Runtime,
};

use super::session::{ANSWER_MAX, Session, TopicView, Trouble};
use crate::cli::ConsumeArgs;

/// How long a leader waits for records before it answers that there are none.
const WAIT_MS: i32 = 500;
/// Bytes of one answer, and of one partition in it; a larger first batch comes whole.
const BYTES_MAX: i32 = 4 << 20;

/// ListOffsets' numbers for the ends of a log.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Prints the records.
///
/// # Errors
/// A sentence.
pub(crate) async fn run(args: &ConsumeArgs, runtime: Runtime) -> Result<(), String> {
    let mut session = Session::new(&args.cluster, runtime);
    let topic = session.retry(async |session| session.topic(&args.topic, false).await).await?;
    let all = topic.partitions.iter().map(|partition| partition.index);
    let wanted: Vec<i32> = all.filter(|index| args.partition.is_none_or(|only| only == *index)).collect();
    if let (Some(partition), true) = (args.partition, wanted.is_empty()) {
        let count = topic.partitions.len();
        return Err(format!("topic '{}' has no partition {partition}; it has {count}, from 0", args.topic));
    }
    let start = match args.offset.as_str() {
        "beginning" => EARLIEST,
        "end" => LATEST,
        number => number.parse().ok().filter(|offset| *offset >= 0).ok_or_else(|| {
            format!("--offset {number}: an offset is a number from 0, or 'beginning', or 'end'")
        })?,
    };
    let mut reader = Reader {
        topic,
        positions: BTreeMap::new(),
        ends: BTreeMap::new(),
        left: args.max.unwrap_or(u64::MAX),
        details: args.details,
        turn: 0,
    };
    for partition in wanted {
        reader.position(&mut session, partition, start, args.follow).await?;
    }
    match reader.read(&mut session).await {
        // Whoever reads our output has had enough.
        Err(problem) if problem.is_empty() => Ok(()),
        outcome => outcome,
    }
}

struct Reader {
    topic: TopicView,
    /// The next offset of each partition that is still read.
    positions: BTreeMap<i32, i64>,
    /// Where reading ends; nowhere, with `--follow`.
    ends: BTreeMap<i32, i64>,
    left: u64,
    details: bool,
    turn: usize,
}

impl Reader {
    async fn position(
        &mut self,
        session: &mut Session,
        partition: i32,
        start: i64,
        follow: bool,
    ) -> Result<(), String> {
        let name = self.topic.name.clone();
        let at = if start >= 0 {
            start
        } else {
            session.retry(async |session| offset_of(session, &name, partition, start).await).await?
        };
        if !follow {
            let end =
                session.retry(async |session| offset_of(session, &name, partition, LATEST).await).await?;
            self.ends.insert(partition, end);
            if at > end {
                return Err(format!(
                    "partition {partition} of topic '{name}' ends at offset {end}, before {at}"
                ));
            }
        }
        self.positions.insert(partition, at);
        Ok(())
    }

    async fn read(&mut self, session: &mut Session) -> Result<(), String> {
        loop {
            let ends = &self.ends;
            self.positions.retain(|partition, at| ends.get(partition).is_none_or(|end| *at < *end));
            if self.positions.is_empty() || self.left == 0 {
                return stdout().flush().map_err(|_| String::new());
            }
            let this: &mut Self = self;
            session.retry(async |session| this.read_from_one_leader(session).await).await?;
        }
    }

    /// Asks one leader for all that is wanted of it, one leader after the other.
    async fn read_from_one_leader(&mut self, session: &mut Session) -> Result<(), Trouble> {
        let view = session.topic(&self.topic.name, false).await?;
        if view.id != self.topic.id {
            return Err(Trouble::Never(format!("topic '{}' was deleted and created again", view.name)));
        }
        let mut led: BTreeMap<i32, Vec<FetchPartition>> = BTreeMap::new();
        for partition in view.partitions.iter().filter(|partition| partition.leader >= 0) {
            if let Some(at) = self.positions.get(&partition.index) {
                let wish =
                    FetchPartition::from(TopicRef::Id(view.id), partition.index, Offset(*at), BYTES_MAX);
                led.entry(partition.leader).or_default().push(wish);
            }
        }
        self.turn = self.turn.wrapping_add(1);
        let leaders = i32::try_from(led.len()).unwrap_or(i32::MAX);
        let turn = self.turn.checked_rem(led.len()).unwrap_or(0);
        let Some((leader, partitions)) = led.into_iter().nth(turn) else {
            let subject = format!("what is left of topic '{}'", self.topic.name);
            return Err(Trouble::of(ErrorCode::LEADER_NOT_AVAILABLE, &subject, None));
        };
        let client = session.broker(leader).await?;
        // Only a reader that follows has reason to wait, and the other leaders should not wait long for it.
        let max_wait_ms =
            if self.ends.is_empty() { WAIT_MS.checked_div(leaders).unwrap_or(WAIT_MS) } else { 0 };
        let request = FetchRequest {
            max_wait_ms,
            min_bytes: 1,
            max_bytes: BYTES_MAX,
            partitions,
            ..FetchRequest::default()
        };
        let answer = client.fetch(&request, ANSWER_MAX).await;
        let answer = session.judge(&client, answer)?;
        if !answer.error.is_none() {
            return Err(Trouble::of(answer.error, &format!("topic '{}'", self.topic.name), None));
        }
        for partition in answer.partitions {
            self.take(partition)?;
        }
        Ok(())
    }

    fn take(&mut self, partition: FetchedPartition) -> Result<(), Trouble> {
        let subject = format!("partition {} of topic '{}'", partition.index, self.topic.name);
        if partition.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            let at = self.positions.get(&partition.index).copied().unwrap_or_default();
            return Err(Trouble::Never(format!(
                "{subject} has no offset {at}; --offset beginning reads what there is"
            )));
        }
        if !partition.error.is_none() {
            return Err(Trouble::of(partition.error, &subject, None));
        }
        let bytes = partition.records.to_bytes().map_err(|error| Trouble::Again(error.to_string()))?;
        let damaged = |error: String| Trouble::Never(format!("{subject} holds what cannot be read: {error}"));
        self.print(partition.index, &bytes).map_err(|error| match error {
            PrintError::Output => Trouble::Never(String::new()),
            PrintError::Records(problem) => damaged(problem),
        })
    }

    fn print(&mut self, partition: i32, bytes: &Bytes) -> Result<(), PrintError> {
        let mut rest: &[u8] = bytes;
        while !rest.is_empty() && self.left > 0 {
            let (batch, after) = match Batch::split_first(rest) {
                Ok(split) => split,
                // The last batch may have been cut off; it comes whole next time.
                Err(BatchError::Incomplete { .. }) => return Ok(()),
                Err(error) => return Err(PrintError::Records(error.to_string())),
            };
            rest = after;
            batch.check_crc().map_err(PrintError::records)?;
            if !batch.header().attributes.is_control() {
                self.print_batch(partition, &batch)?;
            }
            if self.left > 0 {
                let next = batch.header().next_offset().0;
                self.positions.entry(partition).and_modify(|at| *at = next.max(*at));
            }
        }
        Ok(())
    }

    fn print_batch(&mut self, partition: i32, batch: &Batch<'_>) -> Result<(), PrintError> {
        let header = batch.header();
        let codec = header.codec().ok_or_else(|| PrintError::Records("an unknown codec".to_owned()))?;
        let mut plain = Vec::new();
        let payload = if codec == Codec::None {
            batch.payload()
        } else {
            let cap = decompressed_bytes_max(batch.payload().len());
            let mut stream = Decompressor::new(codec, batch.payload(), cap).map_err(PrintError::records)?;
            stream.read_to_end(&mut plain).map_err(PrintError::records)?;
            &plain
        };
        let at = self.positions.get(&partition).copied().unwrap_or_default();
        let end = self.ends.get(&partition).copied().unwrap_or(i64::MAX);
        for record in Records::of(payload, header.count) {
            let record = record.map_err(PrintError::records)?;
            let offset = header.base_offset.0.saturating_add(i64::from(record.offset_delta));
            if offset < at || offset >= end || self.left == 0 {
                continue;
            }
            self.left -= 1;
            let timestamp = if header.attributes.is_log_append_time() {
                header.max_timestamp
            } else {
                header.base_timestamp.saturating_add(record.timestamp_delta)
            };
            let line =
                if self.details { line(partition, offset, timestamp, &record) } else { plain_line(&record) };
            stdout().write_all(&line).map_err(|_: io::Error| PrintError::Output)?;
        }
        Ok(())
    }
}

enum PrintError {
    /// The standard output is closed.
    Output,
    /// The records cannot be read.
    Records(String),
}

impl PrintError {
    fn records(error: impl std::fmt::Display) -> Self {
        Self::Records(error.to_string())
    }
}

fn plain_line(record: &Record<'_>) -> Vec<u8> {
    let mut line = record.value.unwrap_or_default().to_vec();
    line.push(b'\n');
    line
}

/// Partition, offset, timestamp, headers, key and value, separated by tabs; `-` for a header, key or value that is not
/// there.
fn line(partition: i32, offset: i64, timestamp: i64, record: &Record<'_>) -> Vec<u8> {
    let mut line = format!("partition {partition}\toffset {offset}\ttimestamp {timestamp}\t").into_bytes();
    let mut headers = record.headers.peekable();
    if headers.peek().is_none() {
        line.push(b'-');
    }
    while let Some(header) = headers.next() {
        line.extend_from_slice(header.name);
        line.push(b'=');
        line.extend_from_slice(header.value.unwrap_or(b"-"));
        if headers.peek().is_some() {
            line.push(b',');
        }
    }
    line.push(b'\t');
    line.extend_from_slice(record.key.unwrap_or(b"-"));
    line.push(b'\t');
    line.extend_from_slice(record.value.unwrap_or(b"-"));
    line.push(b'\n');
    line
}

/// The offset that ListOffsets tells for `timestamp`, of the partition's leader.
async fn offset_of(
    session: &mut Session,
    name: &str,
    partition: i32,
    timestamp: i64,
) -> Result<i64, Trouble> {
    let view = session.topic(name, false).await?;
    let subject = format!("partition {partition} of topic '{name}'");
    let leader = view.partitions.iter().find(|view| view.index == partition).map(|view| view.leader);
    let leader = leader.filter(|leader| *leader >= 0);
    let leader = leader.ok_or_else(|| Trouble::of(ErrorCode::LEADER_NOT_AVAILABLE, &subject, None))?;
    let client = session.broker(leader).await?;
    let wish = list_offsets_request::ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(timestamp);
    let topic = list_offsets_request::ListOffsetsTopic::default();
    let topic = topic.with_name(topic_name(name)).with_partitions(vec![wish]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let answer = client.call(&request, ANSWER_MAX).await;
    let answer = session.judge(&client, answer)?;
    let told = answer.topics.first().and_then(|topic| topic.partitions.first());
    let told = told.ok_or_else(|| Trouble::Never(format!("{subject}: no answer")))?;
    match ErrorCode(told.error_code) {
        ErrorCode::NONE => Ok(told.offset),
        error => Err(Trouble::of(error, &subject, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::protocol::builder::{BatchBuilder, NewRecord};

    #[test]
    fn a_record_is_printed_with_all_that_it_has() {
        let record = NewRecord {
            timestamp: 7,
            key: None,
            value: Some(b"v".to_vec()),
            headers: vec![(b"h".to_vec(), Some(b"1".to_vec())), (b"h".to_vec(), None)],
        };
        let batch = BatchBuilder::new(Codec::None.into()).record(&record).build().unwrap();
        let (batch, _) = Batch::split_first(&batch).unwrap();
        let record = Records::of(batch.payload(), 1).next().unwrap().unwrap();
        assert_eq!(plain_line(&record), b"v\n");
        let text = String::from_utf8(line(2, 40, 7, &record)).unwrap();
        assert_eq!(text, "partition 2\toffset 40\ttimestamp 7\th=1,h=-\t-\tv\n");
    }
}
