//! Which partition a request means, who leads it, and what a client that came to the wrong broker is told.

use std::{collections::BTreeMap, sync::Arc};

use super::Handlers;
use crate::{
    ids::{NodeId, PartitionId, TopicId},
    metadata::{Image, image::Partition},
    partition::replica::Replica,
    protocol::{
        errors::ErrorCode,
        hints::{LeaderHint, NodeEndpoint},
        topics::TopicRef,
    },
};

impl Handlers {
    /// The partition that a request means.
    pub(super) fn locate<'i>(
        &self,
        image: &'i Image,
        topic: &TopicRef,
        index: i32,
    ) -> Result<(PartitionId, &'i Partition), ErrorCode> {
        if image.founding.is_none() {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        let (id, missing) = match topic {
            TopicRef::Name(name) => {
                (image.names.get(name.as_str()).copied(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
            }
            TopicRef::Id(id) => (Some(*id), ErrorCode::UNKNOWN_TOPIC_ID),
        };
        let topic = id.and_then(|id: TopicId| image.topics.get(&id)).ok_or(missing)?;
        let partition = usize::try_from(index).ok().and_then(|index| topic.partitions.get(index));
        let partition = partition.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        Ok((PartitionId { topic: topic.id, index }, partition))
    }

    /// The replica of a partition that this node should lead.
    pub(super) fn leading(&self, id: PartitionId) -> Result<Arc<Replica>, ErrorCode> {
        // A replica that is not there yet, though the image names it, will be: the client asks again.
        self.broker.partitions.get(id).ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)
    }

    /// The replica that a request of a consumer or producer means.
    pub(super) fn find(
        &self,
        image: &Image,
        topic: &TopicRef,
        index: i32,
    ) -> Result<Arc<Replica>, ErrorCode> {
        let (id, _) = self.locate(image, topic, index)?;
        self.leading(id)
    }
}

/// Hints at leaders for one answer (KIP-951), and where those leaders are.
pub(super) struct Hints<'a> {
    image: &'a Image,
    listener: &'a str,
    leaders: BTreeMap<NodeId, NodeEndpoint>,
}

impl<'a> Hints<'a> {
    pub(super) fn new(image: &'a Image, listener: &'a str) -> Self {
        Self { image, listener, leaders: BTreeMap::new() }
    }

    /// Whom to ask instead, where `error` says that it is not this broker.
    pub(super) fn about(&mut self, topic: &TopicRef, index: i32, error: ErrorCode) -> Option<LeaderHint> {
        if error != ErrorCode::NOT_LEADER_OR_FOLLOWER && error != ErrorCode::FENCED_LEADER_EPOCH {
            return None;
        }
        let id = match topic {
            TopicRef::Name(name) => *self.image.names.get(name.as_str())?,
            TopicRef::Id(id) => *id,
        };
        let partition = self.image.partition(PartitionId { topic: id, index })?;
        let broker = self.image.brokers.get(&partition.leader).filter(|broker| !broker.fenced)?;
        if let Some(endpoint) = broker.endpoint(self.listener) {
            self.leaders.entry(broker.node).or_insert_with(|| NodeEndpoint {
                node: broker.node,
                host: endpoint.host.clone(),
                port: endpoint.port,
                rack: broker.rack.clone(),
            });
        }
        Some(LeaderHint { leader: partition.leader, epoch: partition.leader_epoch })
    }

    /// Where the leaders are that were hinted at.
    pub(super) fn into_endpoints(self) -> Vec<NodeEndpoint> {
        self.leaders.into_values().collect()
    }
}
