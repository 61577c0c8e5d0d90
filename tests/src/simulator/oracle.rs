//! What the metadata log says, applied by the test itself: every node's image must be one of these.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use quorate_core::{
    consensus::{LogIndex, NodeId, memory::MemoryCluster},
    ids::{LeaderEpoch, PartitionId},
    metadata::{
        Image, apply,
        image::{Partition, Topic},
        settings,
    },
};

use super::Violation;

/// Every state of the metadata so far.
#[derive(Default)]
pub(super) struct Oracle {
    images: BTreeMap<LogIndex, Arc<Image>>,
    /// Who led each partition in each epoch.
    pub(super) leaders: BTreeMap<(PartitionId, LeaderEpoch), NodeId>,
    /// Partitions that a replica was elected to lead that may lack records, as their topics permit: nothing is said of
    /// what clients were told of them before.
    unclean: BTreeSet<PartitionId>,
}

/// An image and the one that came of it.
pub(in crate::simulator) type Step = (Arc<Image>, Arc<Image>);

impl Oracle {
    /// The newest state.
    pub(super) fn newest(&self) -> Arc<Image> {
        self.images.last_key_value().map(|(_, image)| image.clone()).unwrap_or_default()
    }

    /// The state after an entry.
    pub(super) fn at(&self, index: LogIndex) -> Option<&Arc<Image>> {
        self.images.get(&index)
    }

    /// Whether the partition may have lost records by an unclean election that its topic permits.
    pub(super) fn is_unclean(&self, id: PartitionId) -> bool {
        self.unclean.contains(&id)
    }

    /// Takes in what has been committed since, and returns the new states with the ones before them.
    pub(super) fn follow(&mut self, cluster: &MemoryCluster) -> Result<Vec<Step>, Violation> {
        if self.images.is_empty() {
            self.images.insert(LogIndex(0), Arc::new(Image::new(cluster.log_id())));
        }
        let mut steps = Vec::new();
        let mut image = self.newest();
        for (index, epoch, data) in cluster.entries(image.index) {
            let applied = apply(&image, index, epoch, &data);
            let (next, _) = applied.map_err(|error| Violation::new(35, format!("entry {index}: {error}")))?;
            let next = Arc::new(next);
            for (id, partition) in partitions(&next).filter(|(_, partition)| partition.has_leader()) {
                self.leaders.entry((id, partition.leader_epoch)).or_insert(partition.leader);
                let before = image.partition(id);
                if before.is_some_and(|before| is_elected_uncleanly(before, partition))
                    && topic_of(&next, id).is_some_and(|topic| settings::unclean_election(&next, topic))
                {
                    self.unclean.insert(id);
                }
            }
            steps.push((image, next.clone()));
            image = next;
            self.images.insert(index, image.clone());
        }
        Ok(steps)
    }
}

/// Whether the leader is a new one that was neither in sync nor eligible.
pub(super) fn is_elected_uncleanly(before: &Partition, after: &Partition) -> bool {
    let was_complete = before.isr.contains(&after.leader) || before.elr.contains(&after.leader);
    after.has_leader() && after.leader_epoch > before.leader_epoch && !was_complete
}

pub(super) fn partitions(image: &Image) -> impl Iterator<Item = (PartitionId, &Partition)> {
    image.topics.values().flat_map(|topic| {
        let numbered = topic.partitions.iter().zip(0..);
        numbered.map(|(partition, index)| (PartitionId { topic: topic.id, index }, partition))
    })
}

/// The topic of a partition.
pub(super) fn topic_of(image: &Image, id: PartitionId) -> Option<&Arc<Topic>> {
    image.topics.get(&id.topic)
}
