//! Metadata: which brokers there are, and who leads what (KIP-516 for topic ids, KIP-951 for leader epochs).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Handlers, operations,
    request::{Begun, Caller, Closed, Reply, Request},
};
use crate::{
    ids::{NodeId, TopicId, base64_id},
    metadata::{
        Image,
        image::{Endpoint, Partition, Topic},
    },
    protocol::{
        bodies::{
            BrokerId, MetadataRequest, MetadataResponse, metadata_request::*, metadata_response::*, text,
            topic_name,
        },
        errors::ErrorCode,
    },
};

/// How long a client that asks for all topics is held while this broker does not know any yet. An empty answer would
/// tell a consumer with a pattern that its topics are gone.
const HELD_MAX: Duration = Duration::from_secs(5);

/// The first version in which the client says whether topics may be made; before, they may.
const SAYS_AUTO_CREATION: i16 = 4;

/// Topics that belong to the brokers.
const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

pub(super) fn begin(
    handlers: &Arc<Handlers>,
    caller: &Arc<Caller>,
    request: Request,
) -> Result<Begun, Closed> {
    let asked: MetadataRequest = request.decode()?;
    if handlers.broker.is_image_loaded() {
        return Ok(Begun::Ready(answer(handlers, caller, &request, asked)));
    }
    if !wants_all(&asked, request.version) {
        return Ok(Begun::Ready(not_loaded(handlers, caller, &request, asked)));
    }
    let (handlers, caller) = (handlers.clone(), caller.clone());
    Ok(Begun::later(async move {
        let mut applied = handlers.broker.applied();
        let loaded = applied.wait_for(|_| handlers.broker.is_image_loaded());
        match handlers.broker.runtime.clock.timeout(HELD_MAX, loaded).await {
            Ok(Ok(_)) => answer(&handlers, &caller, &request, asked),
            _ => Reply::Close(Closed("no metadata is known yet".to_owned())),
        }
    }))
}

/// Null asks for every topic, and in version 0 so does an empty list.
fn wants_all(asked: &MetadataRequest, version: i16) -> bool {
    asked.topics.as_ref().is_none_or(|topics| version == 0 && topics.is_empty())
}

/// Before anything is known: this broker, and topics that will have a leader.
fn not_loaded(handlers: &Handlers, caller: &Caller, request: &Request, asked: MetadataRequest) -> Reply {
    let image = handlers.broker.image_arc();
    let topics = asked.topics.unwrap_or_default().into_iter().map(|topic| {
        let mut told = unknown(&topic, ErrorCode::LEADER_NOT_AVAILABLE);
        told.topic_id = if request.version >= 10 { topic.topic_id } else { told.topic_id };
        told
    });
    let response = frame(handlers, caller, &image).with_topics(topics.collect());
    request.reply(&response)
}

fn answer(handlers: &Arc<Handlers>, caller: &Caller, request: &Request, asked: MetadataRequest) -> Reply {
    let image = handlers.broker.image_arc();
    let version = request.version;
    let teller = Teller {
        image: &image,
        listener: &caller.listener,
        version,
        operations: asked.include_topic_authorized_operations,
    };
    let mut response = frame(handlers, caller, &image);
    if (8..=10).contains(&version) {
        response.cluster_authorized_operations =
            operations::cluster(asked.include_cluster_authorized_operations);
    }
    if wants_all(&asked, version) {
        response.topics = image
            .names
            .values()
            .filter_map(|id| image.topics.get(id))
            .map(|topic| teller.topic(topic))
            .collect();
        return request.reply(&response);
    }
    let mut missing = BTreeSet::new();
    for topic in asked.topics.unwrap_or_default() {
        response.topics.push(match teller.find(&topic) {
            Ok(topic) => teller.topic(topic),
            Err(error) => {
                if let (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, Some(name)) = (error, &topic.name) {
                    missing.insert(name.to_string());
                }
                unknown(&topic, error)
            }
        });
    }
    let may_create = asked.allow_auto_topic_creation || version < SAYS_AUTO_CREATION;
    if may_create && !missing.is_empty() && handlers.is_set("auto.create.topics.enable") {
        handlers.create_missing(caller, &missing);
    }
    request.reply(&response)
}

/// Everything but the topics.
fn frame(handlers: &Handlers, caller: &Caller, image: &Image) -> MetadataResponse {
    let brokers = reachable(handlers, image, &caller.listener, false);
    let controller = admin_target(handlers, &brokers);
    let brokers = brokers.into_iter().map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(broker.node.0.into())
            .with_host(text(broker.host))
            .with_port(i32::from(broker.port))
            .with_rack(broker.rack.map(text))
    });
    MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(image.founding.map(|founding| text(base64_id(founding.cluster))))
        .with_controller_id(controller.0.into())
}

/// A broker and where a client reaches it.
pub(super) struct Reachable {
    pub(super) node: NodeId,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) rack: Option<String>,
    pub(super) fenced: bool,
}

/// The brokers that have a listener of this name. Never none while this one answers: a client without brokers has
/// nobody left to ask.
pub(super) fn reachable(handlers: &Handlers, image: &Image, listener: &str, fenced: bool) -> Vec<Reachable> {
    let told = |node, endpoint: &Endpoint, rack: Option<&String>, fenced| Reachable {
        node,
        host: endpoint.host.clone(),
        port: endpoint.port,
        rack: rack.cloned(),
        fenced,
    };
    let registered = image.brokers.values().filter(|broker| fenced || !broker.fenced);
    let mut brokers: Vec<Reachable> = registered
        .filter_map(|broker| {
            Some(told(broker.node, broker.endpoint(listener)?, broker.rack.as_ref(), broker.fenced))
        })
        .collect();
    if brokers.is_empty() {
        let bound = handlers.broker.bound();
        let own = bound.and_then(|bound| bound.endpoints.iter().find(|own| own.listener == listener));
        let rack = handlers.broker.config.rack.as_ref();
        brokers.extend(own.map(|own| told(handlers.broker.node(), own, rack, false)));
    }
    brokers
}

/// Whom a client is to send what changes metadata: any broker, since each forwards it. This one if it is among them.
pub(super) fn admin_target(handlers: &Handlers, brokers: &[Reachable]) -> NodeId {
    let own = handlers.broker.node();
    let mut live = brokers.iter().filter(|broker| !broker.fenced).map(|broker| broker.node);
    if live.clone().any(|node| node == own) { own } else { live.next().unwrap_or(NodeId::NONE) }
}

/// A topic that cannot be told of.
fn unknown(asked: &MetadataRequestTopic, error: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(error.0)
        .with_name(asked.name.clone())
        .with_topic_id(asked.topic_id)
        .with_is_internal(asked.name.as_ref().is_some_and(|name| is_internal(name)))
}

/// Whether the topic belongs to the brokers.
pub(super) fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// Whether the name is one that a topic may have.
pub(super) fn is_topic_name(name: &str) -> bool {
    const LENGTH_MAX: usize = 249;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= LENGTH_MAX && name != "." && name != ".." && name.chars().all(legal)
}

/// Tells of topics as a version and a listener want it.
struct Teller<'a> {
    image: &'a Image,
    listener: &'a str,
    version: i16,
    operations: bool,
}

impl<'a> Teller<'a> {
    fn find(&self, asked: &MetadataRequestTopic) -> Result<&'a Arc<Topic>, ErrorCode> {
        if !asked.topic_id.is_nil() {
            return self.image.topics.get(&TopicId(asked.topic_id)).ok_or(ErrorCode::UNKNOWN_TOPIC_ID);
        }
        let Some(name) = &asked.name else { return Err(ErrorCode::UNKNOWN_TOPIC_ID) };
        let missing = if is_topic_name(name) {
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        } else {
            ErrorCode::INVALID_TOPIC_EXCEPTION
        };
        self.image.topic(name).ok_or(missing)
    }

    fn topic(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions =
            topic.partitions.iter().zip(0..).map(|(partition, index)| self.partition(partition, index));
        let mut told = MetadataResponseTopic::default()
            .with_name(Some(topic_name(topic.name.to_string())))
            .with_is_internal(is_internal(&topic.name))
            .with_partitions(partitions.collect());
        if self.version >= 10 {
            told.topic_id = topic.id.0;
        }
        if self.version >= 8 {
            told.topic_authorized_operations = operations::topic(self.operations);
        }
        told
    }

    fn partition(&self, partition: &Partition, index: i32) -> MetadataResponsePartition {
        let told = MetadataResponsePartition::default().with_partition_index(index);
        let told = match self.leader(partition) {
            Ok(leader) => told.with_leader_id(leader.0.into()),
            Err(error) => told.with_leader_id(NodeId::NONE.0.into()).with_error_code(error.0),
        };
        let alive = |node: &NodeId| self.image.brokers.get(node).is_some_and(|broker| !broker.fenced);
        // Version 0 has no field for those that are gone.
        let listed = |nodes: &[NodeId]| -> Vec<BrokerId> {
            nodes.iter().filter(|node| self.version > 0 || alive(node)).map(|node| node.0.into()).collect()
        };
        let mut told =
            told.with_replica_nodes(listed(&partition.replicas)).with_isr_nodes(listed(&partition.isr));
        if self.version >= 5 {
            let gone = partition.replicas.iter().filter(|node| !alive(node));
            told.offline_replicas = gone.map(|node| node.0.into()).collect();
        }
        if self.version >= 7 {
            told.leader_epoch = partition.leader_epoch.0;
        }
        told
    }

    fn leader(&self, partition: &Partition) -> Result<NodeId, ErrorCode> {
        let broker = self.image.brokers.get(&partition.leader).filter(|broker| !broker.fenced);
        let broker = broker.ok_or(ErrorCode::LEADER_NOT_AVAILABLE)?;
        match broker.endpoint(self.listener) {
            Some(_) => Ok(partition.leader),
            // Told apart since version 6 (KIP-302).
            None if self.version >= 6 => Err(ErrorCode::LISTENER_NOT_FOUND),
            None => Err(ErrorCode::LEADER_NOT_AVAILABLE),
        }
    }
}
