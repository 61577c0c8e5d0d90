//! The topics of a run. Each seed has `orders` and some of the others, so that what goes wrong in one kind of topic is
//! not always hidden behind what goes wrong in another.

use quorate_core::{ids::TopicId, runtime::Rng};

/// A topic as it is made, and made again after it was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) name: &'static str,
    pub(super) partitions: i32,
    pub(super) configs: &'static [(&'static str, &'static str)],
}

/// Acknowledged from the disks of the in-sync replicas; `min.insync.replicas` changes.
pub(super) const ORDERS: Topic = Topic { name: "orders", partitions: 2, configs: &[] };
/// Acknowledged from the page cache of the in-sync replicas.
const FAST: Topic =
    Topic { name: "fast", partitions: 1, configs: &[("flush.messages", "9223372036854775807")] };
/// May lose records by unclean elections; whether it may, changes.
pub(super) const LOOSE: Topic = Topic {
    name: "loose",
    partitions: 1,
    configs: &[("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1")],
};
/// Segments of less than a second that are kept for less than three; how long and how much of them, changes.
pub(super) const BRIEF: Topic =
    Topic { name: "brief", partitions: 1, configs: &[("segment.ms", "600"), ("retention.ms", "2500")] };
/// Deleted and made again.
pub(super) const AGAIN: Topic = Topic { name: "again", partitions: 1, configs: &[] };

/// The topics of a seed.
pub(super) fn of(seed: u64) -> Vec<Topic> {
    let rng = Rng::seeded(seed ^ 0x70_91C5);
    let others = [FAST, LOOSE, BRIEF, AGAIN];
    let mut topics = vec![ORDERS];
    topics.extend(others.into_iter().filter(|_| rng.below(5) < 2));
    topics
}

/// What the values of a topic's records end with, so that a record of another topic is seen by its looks.
pub(super) fn mark(topic: TopicId) -> String {
    let text = topic.0.simple().to_string();
    format!("@{}", text.get(..8).unwrap_or_default())
}
