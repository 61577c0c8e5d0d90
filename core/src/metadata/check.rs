//! What holds in every image, whatever was applied: run after each entry in debug builds, and by tests.

use super::image::{Image, Partition, Topic};
use super::settings;
use crate::ids::NodeId;

/// The first rule that an image breaks, as a sentence; `None` if all is well.
#[must_use]
pub fn problem(image: &Image) -> Option<String> {
    if image.names.len() != image.topics.len() {
        return Some("a topic has no name, or two".to_owned());
    }
    for topic in image.topics.values() {
        if image.names.get(&topic.name) != Some(&topic.id) {
            return Some(format!("topic '{}' is not found by its name", topic.name));
        }
        for (index, partition) in topic.partitions.iter().enumerate() {
            if let Some(problem) = partition_problem(image, topic, partition) {
                return Some(format!("{}-{index}: {problem}: {partition:?}", topic.name));
            }
        }
    }
    None
}

fn partition_problem(image: &Image, topic: &Topic, partition: &Partition) -> Option<&'static str> {
    let Partition { leader, replicas, isr, elr, .. } = partition;
    let rules = [
        (*leader == NodeId::NONE || isr.contains(leader), "the leader is in the ISR"),
        (*leader != NodeId::NONE || isr.is_empty(), "a member of the ISR leads"),
        (isr.iter().all(|node| replicas.contains(node)), "the ISR is of replicas"),
        (elr.iter().all(|node| replicas.contains(node)), "eligible replicas are replicas"),
        (!isr.iter().any(|node| elr.contains(node)), "ISR and ELR have nothing in common"),
        (
            elr.is_empty() || isr.len() < settings::min_isr(image, topic).min(replicas.len()),
            "with the minimum in sync nobody else is eligible",
        ),
        (isr.iter().all(|node| image.is_active(*node)), "the ISR is of live brokers"),
        (!partition.recovering || isr.len() <= 1, "the ISR of a leader in recovery is the leader"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, rule)| rule)
}
