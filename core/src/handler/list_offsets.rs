//! ListOffsets (KIP-79, KIP-207, KIP-734): the ends of partitions, and offsets by time.

use std::collections::BTreeSet;

use super::{
    Handlers,
    request::{Closed, Reply, Request},
};
use crate::{
    ids::LeaderEpoch,
    metadata::Image,
    partition::replica::{FoundOffset, Wanted},
    protocol::{
        bodies::{
            ListOffsetsRequest, ListOffsetsResponse,
            list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
            list_offsets_response::*,
        },
        errors::ErrorCode,
        topics::TopicRef,
    },
};

/// Kafka's numbers for what is no time: the end, the start, the largest timestamp, the first offset on this broker's
/// disks, the last one on remote storage.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// Whoever is not a replica is a consumer, but for -2, which debugs and sees the end of the log.
const DEBUGGER: i32 = -2;

pub(super) fn answer(handlers: &Handlers, request: &Request) -> Result<Reply, Closed> {
    let asked: ListOffsetsRequest = request.decode()?;
    let image = handlers.broker.image_arc();
    let lister = Lister {
        handlers,
        image: &image,
        is_consumer: asked.replica_id.0 != DEBUGGER,
        version: request.version,
    };
    let mut seen = BTreeSet::new();
    let topics = asked.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let twice = !seen.insert((topic.name.as_str(), partition.partition_index));
            let found = if twice { Err(ErrorCode::INVALID_REQUEST) } else { lister.find(topic, partition) };
            lister.told(partition.partition_index, found)
        });
        let partitions = partitions.collect();
        ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    let response = ListOffsetsResponse::default().with_topics(topics.collect());
    Ok(request.reply(&response))
}

struct Lister<'a> {
    handlers: &'a Handlers,
    image: &'a Image,
    is_consumer: bool,
    version: i16,
}

impl Lister<'_> {
    fn find(
        &self,
        topic: &ListOffsetsTopic,
        partition: &ListOffsetsPartition,
    ) -> Result<Option<FoundOffset>, ErrorCode> {
        let wanted = match partition.timestamp {
            LATEST => Wanted::Latest,
            EARLIEST => Wanted::Earliest,
            MAX_TIMESTAMP if self.version >= 7 => Wanted::MaxTimestamp,
            EARLIEST_LOCAL if self.version >= 8 => Wanted::Earliest,
            // Nothing is on remote storage.
            LATEST_TIERED if self.version >= 9 => return Ok(None),
            time if time >= 0 => Wanted::Since(time),
            _ => return Err(ErrorCode::UNSUPPORTED_VERSION),
        };
        let topic = TopicRef::Name(topic.name.0.clone());
        let replica = self.handlers.find(self.image, &topic, partition.partition_index)?;
        // Versions before 4 have no epoch, and the codec's default for it is -1.
        let epoch = LeaderEpoch(partition.current_leader_epoch);
        replica.list_offset(wanted, epoch, self.is_consumer).map_err(|error| {
            tracing::debug!("no offset is listed: {error}");
            error.error_code()
        })
    }

    fn told(
        &self,
        index: i32,
        found: Result<Option<FoundOffset>, ErrorCode>,
    ) -> ListOffsetsPartitionResponse {
        let told = ListOffsetsPartitionResponse::default().with_partition_index(index);
        match found {
            Ok(Some(found)) => {
                let told = told.with_offset(found.offset.0).with_timestamp(found.timestamp);
                if self.version >= 4 { told.with_leader_epoch(found.leader_epoch.0) } else { told }
            }
            Ok(None) => told,
            // Told apart since version 5 (KIP-207).
            Err(ErrorCode::OFFSET_NOT_AVAILABLE) if self.version < 5 => {
                told.with_error_code(ErrorCode::LEADER_NOT_AVAILABLE.0)
            }
            Err(error) => told.with_error_code(error.0),
        }
    }
}
