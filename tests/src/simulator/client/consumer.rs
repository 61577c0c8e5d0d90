//! A consumer of one partition by assignment, from its beginning. One that reads again begins anew whenever it has
//! come to the end: what was read once must be read the same ever after.

use quorate_core::{
    ids::{LeaderEpoch, Offset, PartitionId, TopicId},
    protocol::{
        batch::Batches,
        bodies::{
            BrokerId, ListOffsetsRequest,
            list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
            topic_name,
        },
        client::Client,
        errors::ErrorCode,
        fetch::{FetchPartition, FetchRequest},
        fetch_response::FetchedPartition,
        records::Records,
        topics::TopicRef,
    },
};

use super::{Layout, Told, Wire};
use crate::simulator::topics::Topic;

/// The timestamp by which ListOffsets is asked for the first offset.
const EARLIEST: i64 = -2;

pub(super) struct Consumer {
    topic: Topic,
    index: i32,
    wire: Wire,
    told: Told,
    /// The topic that is read; another of the same name begins anew.
    reading: Option<TopicId>,
    next: Offset,
    again: bool,
}

impl Consumer {
    pub(super) fn new(topic: Topic, index: i32, again: bool, wire: Wire, told: Told) -> Self {
        Self { topic, index, wire, told, reading: None, next: Offset(0), again }
    }

    pub(super) async fn run(mut self) {
        loop {
            if self.poll().await.is_none() {
                self.wire.outdated(&self.topic);
                self.wire.pause().await;
            }
        }
    }

    /// One fetch. `None` if the cluster must be looked at anew.
    async fn poll(&mut self) -> Option<()> {
        let layout = self.wire.layout(&self.topic).await?;
        if self.reading != Some(layout.topic) {
            let before = self.reading.replace(layout.topic);
            self.next = Offset(0);
            if let Some(before) = before {
                self.ask_for_stale(before, &layout).await;
            }
        }
        let id = PartitionId { topic: layout.topic, index: self.index };
        let (endpoint, epoch) = layout.leaders.get(&self.index)?.clone();
        let client = self.wire.connection(&endpoint).await?;
        let mut partition = FetchPartition::from(TopicRef::Id(id.topic), id.index, self.next, 1 << 20);
        partition.leader_epoch = epoch;
        let Some(fetched) = fetch(&client, partition).await else {
            self.wire.forget(&endpoint);
            return None;
        };
        match fetched.error {
            ErrorCode::NONE => self.take(id, &fetched),
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                self.out_of_range((id, epoch), &client).await;
                None
            }
            _ => None,
        }
    }

    /// What was to be read is deleted, or the log is shorter than it was.
    async fn out_of_range(&mut self, (id, epoch): (PartitionId, LeaderEpoch), client: &Client) {
        let wanted = ListOffsetsPartition::default().with_partition_index(id.index).with_timestamp(EARLIEST);
        let topic =
            ListOffsetsTopic::default().with_name(topic_name(self.topic.name)).with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let Ok(answer) = client.call(&request, super::PATIENCE).await else { return };
        let found = answer.topics.first().and_then(|topic| topic.partitions.first());
        let Some(start) = found.filter(|found| found.error_code == 0).map(|found| found.offset) else {
            return;
        };
        let mut told = self.told.lock();
        if start > self.next.0 {
            told.saw_start(id, start);
        } else {
            let what = format!(
                "a leader says that offset {} of {id}, up to which a consumer has read, is out of range",
                self.next
            );
            told.doubted((id, epoch), 1, what);
        }
        self.next = Offset(start);
    }

    /// Whoever has told that the name belongs to another topic now, must not serve the one before any more.
    async fn ask_for_stale(&mut self, before: TopicId, layout: &Layout) {
        let Some(client) = self.wire.connection(&layout.told_by).await else { return };
        let partition = FetchPartition::from(TopicRef::Id(before), self.index, Offset(0), 1 << 20);
        let Some(fetched) = fetch(&client, partition).await else { return };
        let right = [
            ErrorCode::UNKNOWN_TOPIC_ID,
            ErrorCode::INCONSISTENT_TOPIC_ID,
            // It has been started anew since, and knows nothing yet.
            ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ];
        if !right.contains(&fetched.error) {
            let what = format!("a topic id that is not in use any more is answered with {}", fetched.error);
            self.told.lock().violated(25, what);
        }
    }

    fn take(&mut self, id: PartitionId, fetched: &FetchedPartition) -> Option<()> {
        let bytes = fetched.records.to_bytes().ok()?;
        let mut told = self.told.lock();
        for batch in Batches::of(&bytes).map_while(Result::ok) {
            let header = batch.header();
            if batch.check_crc().is_err() {
                told.violated(
                    38,
                    format!("the batch at {} is served with a wrong checksum", header.base_offset),
                );
                return None;
            }
            if header.last_offset() >= fetched.high_watermark {
                let (last, end) = (header.last_offset(), fetched.high_watermark);
                told.violated(
                    16,
                    format!("offset {last} is served to a consumer, the high watermark is {end}"),
                );
            }
            for record in Records::of(batch.payload(), header.count).map_while(Result::ok) {
                let offset = header.base_offset.0 + i64::from(record.offset_delta);
                if offset >= self.next.0 {
                    let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                    told.saw(id, offset, value);
                }
            }
            self.next = self.next.max(header.next_offset());
        }
        told.saw_visible(id, self.next.0);
        if self.again && bytes.is_empty() {
            self.next = fetched.log_start;
        } else if !self.again {
            told.consumed.insert(id, self.next.0);
        }
        Some(())
    }
}

async fn fetch(client: &Client, partition: FetchPartition) -> Option<FetchedPartition> {
    let request = FetchRequest {
        max_wait_ms: 300,
        min_bytes: 1,
        partitions: vec![partition],
        ..FetchRequest::default()
    };
    let answer = client.fetch(&request, super::PATIENCE).await.ok()?;
    answer.partitions.into_iter().next()
}
