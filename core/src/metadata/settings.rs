//! The few configs that `apply` itself obeys, read from the image alone: a topic's own value, else the cluster's, else
//! a constant. A broker's own file has no say, because every node must come to the same result.

use super::image::{Configs, DurabilityLevel, Image, Topic};

const MIN_ISR: &str = "min.insync.replicas";
const UNCLEAN_ELECTION: &str = "unclean.leader.election.enable";
const FLUSH_MESSAGES: &str = "flush.messages";
const DURABILITY: &str = "quorate.durability";

/// The least ISR that acknowledges records; at least 1. It may be more than the topic has replicas, and is then as
/// many as there are.
#[must_use]
pub fn min_isr(image: &Image, topic: &Topic) -> usize {
    let value = value(image, topic, MIN_ISR).and_then(|text| text.parse::<usize>().ok());
    value.unwrap_or(1).max(1)
}

/// Whether a replica that may lack acknowledged records may lead where no other can.
#[must_use]
pub fn unclean_election(image: &Image, topic: &Topic) -> bool {
    value(image, topic, UNCLEAN_ELECTION).is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// The durability of a topic: `flush.messages` of its own, where the largest number means [`Replicated`] and any
/// other [`Synced`]; else the cluster's level.
///
/// [`Replicated`]: DurabilityLevel::Replicated
/// [`Synced`]: DurabilityLevel::Synced
#[must_use]
pub fn durability(image: &Image, topic: &Topic) -> DurabilityLevel {
    if let Some(text) = topic.configs.get(FLUSH_MESSAGES) {
        let unlimited = text.parse::<i64>().is_ok_and(|messages| messages == i64::MAX);
        return if unlimited { DurabilityLevel::Replicated } else { DurabilityLevel::Synced };
    }
    cluster_durability(image)
}

/// The durability of topics that do not choose one: as set since, else as founded.
#[must_use]
pub fn cluster_durability(image: &Image) -> DurabilityLevel {
    match image.cluster_configs.get(DURABILITY).map(String::as_str) {
        Some("replicated") => DurabilityLevel::Replicated,
        Some("synced") => DurabilityLevel::Synced,
        _ => image.founding.map_or(DurabilityLevel::Synced, |founding| founding.durability),
    }
}

/// Whether a change of this config of the cluster can change a leader or the eligible replicas.
pub(super) fn concerns_elections(name: &str) -> bool {
    name == MIN_ISR || name == UNCLEAN_ELECTION
}

fn value<'a>(image: &'a Image, topic: &'a Topic, name: &str) -> Option<&'a String> {
    let find = |configs: &'a Configs| configs.get(name);
    find(&topic.configs).or_else(|| find(&image.cluster_configs))
}
