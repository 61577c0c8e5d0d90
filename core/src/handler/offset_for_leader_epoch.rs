//! OffsetForLeaderEpoch (KIP-101, KIP-279, KIP-320): where an epoch ends in the leader's log.

use super::{
    Handlers,
    request::{Closed, Reply, Request},
};
use crate::{
    ids::LeaderEpoch,
    log,
    metadata::Image,
    protocol::{
        bodies::{
            OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, TopicName,
            offset_for_leader_epoch_request::OffsetForLeaderPartition, offset_for_leader_epoch_response::*,
        },
        errors::ErrorCode,
        topics::TopicRef,
    },
};

pub(super) fn answer(handlers: &Handlers, request: &Request) -> Result<Reply, Closed> {
    let asked: OffsetForLeaderEpochRequest = request.decode()?;
    let image = handlers.broker.image_arc();
    let topics = asked.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let told = EpochEndOffset::default()
                .with_partition(partition.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            match find(handlers, &image, &topic.topic, partition) {
                Ok(Some(end)) => told.with_leader_epoch(end.epoch.0).with_end_offset(end.end.0),
                Ok(None) => told,
                Err(error) => told.with_error_code(error.0),
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone()).with_partitions(partitions)
    });
    let response = OffsetForLeaderEpochResponse::default().with_topics(topics.collect());
    Ok(request.reply(&response))
}

fn find(
    handlers: &Handlers,
    image: &Image,
    topic: &TopicName,
    partition: &OffsetForLeaderPartition,
) -> Result<Option<log::EpochEnd>, ErrorCode> {
    let replica = handlers.find(image, &TopicRef::Name(topic.0.clone()), partition.partition)?;
    let current = LeaderEpoch(partition.current_leader_epoch);
    let found = replica.epoch_end(current, LeaderEpoch(partition.leader_epoch));
    found.map_err(|reason| reason.error_code())
}
