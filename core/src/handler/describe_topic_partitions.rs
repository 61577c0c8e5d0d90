//! DescribeTopicPartitions (KIP-966): who leads what, with eligible leader replicas, a page at a time.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Handlers, metadata, operations,
    request::{Closed, Reply, Request},
};
use crate::{
    ids::NodeId,
    metadata::{
        Image,
        image::{Partition, Topic},
    },
    protocol::{
        bodies::{
            BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
            describe_topic_partitions_response::*, topic_name,
        },
        errors::ErrorCode,
    },
};

/// The most partitions that one answer holds, Kafka's `max.request.partition.size.limit`.
const PARTITIONS_MAX: i32 = 2000;

pub(super) fn answer(handlers: &Handlers, request: &Request) -> Result<Reply, Closed> {
    let asked: DescribeTopicPartitionsRequest = request.decode()?;
    let image = handlers.broker.image_arc();
    let every = asked.topics.is_empty();
    let names: BTreeSet<&str> = if every {
        image.names.keys().map(AsRef::as_ref).collect()
    } else {
        asked.topics.iter().map(|topic| topic.name.as_str()).collect()
    };
    let (first_name, first_partition) =
        asked.cursor.as_ref().map_or(("", 0), |cursor| (cursor.topic_name.as_str(), cursor.partition_index));
    let Ok(first_partition) = usize::try_from(first_partition) else {
        return Err(Closed("a cursor with a negative partition".to_owned()));
    };
    let limit = usize::try_from(asked.response_partition_limit.clamp(1, PARTITIONS_MAX)).unwrap_or(1);
    let mut page = Page { left: limit, topics: Vec::new(), next: None };
    for name in names.into_iter().filter(|name| *name >= first_name) {
        let skip = if name == first_name { first_partition } else { 0 };
        match image.topic(name) {
            Some(topic) => page.add(&image, topic, skip),
            // A topic that went away between two pages is not missed.
            None if name == first_name && every => {}
            None => page.add_unknown(name, handlers.broker.is_image_loaded()),
        }
        if page.next.is_some() {
            break;
        }
    }
    let response =
        DescribeTopicPartitionsResponse::default().with_topics(page.topics).with_next_cursor(page.next);
    Ok(request.reply(&response))
}

struct Page {
    left: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next: Option<Cursor>,
}

impl Page {
    fn add(&mut self, image: &Image, topic: &Arc<Topic>, skip: usize) {
        let cursor = |index: usize| {
            Cursor::default()
                .with_topic_name(topic_name(topic.name.to_string()))
                .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
        };
        if self.left == 0 {
            self.next = Some(cursor(skip));
            return;
        }
        let told: Vec<_> = topic
            .partitions
            .iter()
            .zip(0..)
            .skip(skip)
            .take(self.left)
            .map(|(partition, index)| described(image, partition, index))
            .collect();
        let reached = skip + told.len();
        self.left -= told.len();
        if reached < topic.partitions.len() {
            self.next = Some(cursor(reached));
        }
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(topic_name(topic.name.to_string())))
                .with_topic_id(topic.id.0)
                .with_is_internal(metadata::is_internal(&topic.name))
                .with_topic_authorized_operations(operations::topic(true))
                .with_partitions(told),
        );
    }

    fn add_unknown(&mut self, name: &str, loaded: bool) {
        let error = match (metadata::is_topic_name(name), loaded) {
            (false, _) => ErrorCode::INVALID_TOPIC_EXCEPTION,
            (true, true) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            (true, false) => ErrorCode::LEADER_NOT_AVAILABLE,
        };
        self.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(topic_name(name)))
                .with_error_code(error.0)
                .with_is_internal(metadata::is_internal(name)),
        );
    }
}

fn described(image: &Image, partition: &Partition, index: i32) -> DescribeTopicPartitionsResponsePartition {
    let alive = |node: &NodeId| image.brokers.get(node).is_some_and(|broker| !broker.fenced);
    let ids = |nodes: &[NodeId]| -> Vec<BrokerId> { nodes.iter().map(|node| node.0.into()).collect() };
    let led = alive(&partition.leader);
    let error = if led { ErrorCode::NONE } else { ErrorCode::LEADER_NOT_AVAILABLE };
    let leader = if led { partition.leader } else { NodeId::NONE };
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(error.0)
        .with_partition_index(index)
        .with_leader_id(leader.0.into())
        .with_leader_epoch(partition.leader_epoch.0)
        .with_replica_nodes(ids(&partition.replicas))
        .with_isr_nodes(ids(&partition.isr))
        .with_eligible_leader_replicas(Some(ids(&partition.elr)))
        .with_last_known_elr(Some(ids(&partition.last_known_elr)))
        .with_offline_replicas(
            partition.replicas.iter().filter(|node| !alive(node)).map(|node| node.0.into()).collect(),
        )
}
