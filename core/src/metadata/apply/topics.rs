//! The life of a topic.

use std::sync::Arc;

use super::{Accepted, Rejection};
use crate::{
    ids::{NodeId, TopicId},
    metadata::{
        command::{Assignment, CreateTopic, DeleteTopic, uuid},
        image::{Image, Nodes, Partition, Topic},
    },
};

/// Creates a topic with all its partitions. What of a partition's replicas is live now is its first ISR.
pub(super) fn create(draft: &mut Image, command: CreateTopic) -> Result<Accepted, Rejection> {
    let id = TopicId(uuid(command.topic));
    if command.name.is_empty() || id.0.is_nil() || command.partitions.is_empty() {
        return Err(Rejection::Malformed("a topic has a name, an id and partitions"));
    }
    if draft.names.contains_key(command.name.as_str()) {
        return Err(Rejection::TopicExists(command.name));
    }
    if draft.topics.contains_key(&id) {
        return Err(Rejection::Malformed("a topic's id is new"));
    }
    let mut partitions = imbl::Vector::new();
    for (index, assignment) in (0..).zip(&command.partitions) {
        partitions.push_back(partition(draft, index, assignment)?);
    }
    let name: Arc<str> = command.name.into();
    let configs = command.configs.into_iter().map(|config| (config.name, config.value)).collect();
    draft.names.insert(name.clone(), id);
    draft.topics.insert(id, Arc::new(Topic { id, name, partitions, configs: Arc::new(configs) }));
    Ok(Accepted::Done)
}

/// Ends a topic.
pub(super) fn delete(draft: &mut Image, command: DeleteTopic) -> Result<Accepted, Rejection> {
    let topic = draft.topics.remove(&TopicId(uuid(command.topic))).ok_or(Rejection::UnknownTopic)?;
    draft.names.remove(&topic.name);
    Ok(Accepted::Done)
}

fn partition(draft: &Image, index: i32, assignment: &Assignment) -> Result<Partition, Rejection> {
    let replicas: Nodes = assignment.replicas.iter().map(|node| NodeId(*node)).collect();
    let mut distinct = replicas.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let registered = replicas.iter().all(|node| draft.brokers.contains_key(node));
    if replicas.is_empty() || distinct.len() != replicas.len() || !registered {
        return Err(Rejection::InvalidAssignment(index));
    }
    let isr: Nodes = replicas.iter().copied().filter(|node| draft.is_active(*node)).collect();
    let leader = *isr.first().ok_or(Rejection::NoActiveReplica(index))?;
    Ok(Partition { leader, replicas, isr, ..Partition::default() })
}
