//! The replicas that run on this node: handlers look them up, the reconciler puts them in and takes them out.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;

use crate::{
    ids::PartitionId,
    partition::{backlog::Backlog, replica::Replica},
};

/// The replicas that run on this node. A look-up takes a lock that is held for a look-up.
#[derive(Default)]
pub struct Partitions {
    running: RwLock<BTreeMap<PartitionId, Arc<Replica>>>,
    /// Changes of ISRs that are to be asked of the controller.
    pub(super) proposals: Arc<Backlog<Arc<Replica>>>,
    /// Followers whose leader is to be told something, or that have another leader.
    pub(super) news: Arc<Backlog<Arc<Replica>>>,
}

impl Partitions {
    /// The replica of a partition, if it runs here.
    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<Arc<Replica>> {
        self.running.read().get(&partition).cloned()
    }

    /// Every replica, in the order of partitions.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.running.read().values().cloned().collect()
    }

    /// Puts a replica in and returns the one that was there.
    pub fn insert(&self, replica: Arc<Replica>) -> Option<Arc<Replica>> {
        self.running.write().insert(replica.partition, replica)
    }

    /// Takes a replica out.
    pub fn remove(&self, partition: PartitionId) -> Option<Arc<Replica>> {
        self.running.write().remove(&partition)
    }
}
