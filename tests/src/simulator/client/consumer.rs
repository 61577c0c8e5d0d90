//! A consumer of one partition by assignment, from its beginning. One that reads again begins anew whenever it has
//! come to the end: what was read once must be read the same ever after.

use quorate_core::{
    ids::Offset,
    protocol::{
        batch::Batches,
        errors::ErrorCode,
        fetch::{FetchPartition, FetchRequest},
        fetch_response::FetchedPartition,
        records::Records,
        topics::TopicRef,
    },
};

use super::{Told, Wire};

pub(super) struct Consumer {
    partition: i32,
    wire: Wire,
    told: Told,
    next: Offset,
    again: bool,
}

impl Consumer {
    pub(super) fn new(partition: i32, again: bool, wire: Wire, told: Told) -> Self {
        Self { partition, wire, told, next: Offset(0), again }
    }

    pub(super) async fn run(mut self) {
        loop {
            if self.poll().await.is_none() {
                self.wire.outdated();
                self.wire.pause().await;
            }
        }
    }

    /// One fetch. `None` if the cluster must be looked at anew.
    async fn poll(&mut self) -> Option<()> {
        let layout = self.wire.layout().await?;
        let (endpoint, epoch) = layout.leaders.get(&self.partition)?.clone();
        let client = self.wire.connection(&endpoint).await?;
        let mut partition =
            FetchPartition::from(TopicRef::Id(layout.topic), self.partition, self.next, 1 << 20);
        partition.leader_epoch = epoch;
        let request = FetchRequest {
            max_wait_ms: 300,
            min_bytes: 1,
            partitions: vec![partition],
            ..FetchRequest::default()
        };
        let Ok(answer) = client.fetch(&request, super::PATIENCE).await else {
            self.wire.forget(&endpoint);
            return None;
        };
        let fetched = answer.partitions.into_iter().next()?;
        match fetched.error {
            ErrorCode::NONE => self.take(&fetched),
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                let what = format!(
                    "the leader of epoch {epoch} says that offset {} of partition {}, up to which a consumer has \
                     read, is out of range",
                    self.next, self.partition
                );
                self.told.lock().violated(1, what);
                None
            }
            _ => None,
        }
    }

    fn take(&mut self, fetched: &FetchedPartition) -> Option<()> {
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
                    told.saw(self.partition, offset, value);
                }
            }
            self.next = self.next.max(header.next_offset());
        }
        told.saw_visible(self.partition, self.next.0);
        if self.again && bytes.is_empty() {
            self.next = Offset(0);
        } else if !self.again {
            told.consumed.insert(self.partition, self.next.0);
        }
        Some(())
    }
}
