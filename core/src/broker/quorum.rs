//! Who may lead the metadata log, on any backend, in the words of Kafka's tool (DescribeQuorum: KIP-595, KIP-836,
//! KIP-853). The controller knows best: it hears from the others.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Broker, ControllerAt};
use crate::{
    consensus::Status,
    ids::{Epoch, LogIndex, NodeId},
    metadata::Image,
    protocol::{
        bodies::{DescribeQuorumRequest, DescribeQuorumResponse, describe_quorum_response::*, text},
        errors::ErrorCode,
    },
};

/// What Kafka calls the metadata log.
const TOPIC: &str = "__cluster_metadata";

/// Kafka's name of the controllers' listener, for the tool's eyes only.
const LISTENER: &str = "CONTROLLER";

/// What this node knows of the quorum, with every field of the newest version.
#[must_use]
pub fn describe_quorum(broker: &Broker, request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
    let image = broker.image_arc();
    let status = broker.consensus().map(|consensus| consensus.status()).unwrap_or_default();
    let quorum = Quorum {
        leader: leader(broker),
        node: broker.node(),
        now_ms: broker.runtime.clock.wall_ms(),
        image: &image,
        status: &status,
    };
    let topics = request.topics.iter().map(|topic| {
        let known = topic.topic_name.as_str() == TOPIC;
        let partitions = topic.partitions.iter().map(|partition| match (known, partition.partition_index) {
            (true, 0) => quorum.partition(),
            (_, index) => failed(index, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        });
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(partitions.collect())
    });
    DescribeQuorumResponse::default().with_topics(topics.collect()).with_nodes(quorum.nodes())
}

fn leader(broker: &Broker) -> Option<(NodeId, Epoch)> {
    match &*broker.controller_at.borrow() {
        ControllerAt::Unknown => None,
        ControllerAt::Here { epoch } => Some((broker.node(), *epoch)),
        ControllerAt::There { epoch, node, .. } => Some((*node, *epoch)),
    }
}

fn failed(index: i32, error: ErrorCode) -> PartitionData {
    PartitionData::default()
        .with_partition_index(index)
        .with_error_code(error.0)
        .with_error_message(Some(text(error.to_string())))
        .with_leader_id(NodeId::NONE.0.into())
        .with_leader_epoch(-1)
        .with_high_watermark(-1)
}

struct Quorum<'a> {
    leader: Option<(NodeId, Epoch)>,
    node: NodeId,
    now_ms: i64,
    image: &'a Image,
    status: &'a Status,
}

impl Quorum<'_> {
    fn partition(&self) -> PartitionData {
        let Some((leader, epoch)) = self.leader else {
            return failed(0, ErrorCode::NOT_LEADER_OR_FOLLOWER);
        };
        // The tool fails without a leader among the voters.
        let mut voters: BTreeSet<NodeId> = self.status.voters.keys().copied().collect();
        voters.insert(leader);
        let observers = self.image.brokers.keys().filter(|node| !voters.contains(node));
        PartitionData::default()
            .with_leader_id(leader.0.into())
            .with_leader_epoch(i32::try_from(epoch.0).unwrap_or(i32::MAX))
            .with_high_watermark(offset(self.status.committed))
            .with_current_voters(voters.iter().map(|node| self.replica(*node, leader)).collect())
            .with_observers(observers.map(|node| self.replica(*node, leader)).collect())
    }

    fn replica(&self, node: NodeId, leader: NodeId) -> ReplicaState {
        let mut told = ReplicaState::default().with_replica_id(node.0.into());
        let peer = self.status.peers.iter().find(|peer| peer.node == Some(node));
        let age = peer.and_then(|peer| peer.contact_age);
        let here = node == self.node || node == leader;
        let end = if here { Some(self.status.committed) } else { peer.and_then(|peer| peer.matched) };
        told.log_end_offset = end.map_or(-1, offset);
        let since = age.and_then(|age| i64::try_from(age.as_millis()).ok()).map(|age| self.now_ms - age);
        let at = if here { self.now_ms } else { since.unwrap_or(-1) };
        let directory = self.image.brokers.get(&node).and_then(|broker| broker.directories.first());
        told.with_last_fetch_timestamp(at)
            .with_last_caught_up_timestamp(if end == Some(self.status.committed) { self.now_ms } else { at })
            .with_replica_directory_id(directory.map_or(Uuid::nil(), |directory| directory.0))
    }

    fn nodes(&self) -> Vec<Node> {
        let node = |(node, endpoint): (&NodeId, &String)| {
            let (host, port) = endpoint.rsplit_once(':')?;
            let listener = Listener::default()
                .with_name(text(LISTENER))
                .with_host(text(host))
                .with_port(port.parse().ok()?);
            Some(Node::default().with_node_id(node.0.into()).with_listeners(vec![listener]))
        };
        self.status.voters.iter().filter_map(node).collect()
    }
}

/// The end of a log that holds `last`, as Kafka counts: entries from 0.
fn offset(last: LogIndex) -> i64 {
    i64::try_from(last.0).unwrap_or(i64::MAX)
}
