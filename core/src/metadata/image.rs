//! What the metadata log adds up to, as a persistent structure: a new version shares with the old one all that did
//! not change, and whoever holds an `Arc<Image>` holds a consistent state.

use std::{collections::BTreeMap, sync::Arc};

use imbl::{OrdMap, Vector};
use smallvec::SmallVec;
use uuid::Uuid;

use crate::{
    consensus::{Chain, LogId, activation},
    ids::{
        BrokerEpoch, DirectoryId, Epoch, LeaderEpoch, LogIndex, NodeId, PartitionEpoch, PartitionId, TopicId,
    },
};

pub use super::command::{DurabilityLevel, SecurityProtocol};

/// The state of the cluster after the entry at [`Image::index`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// The log that this is the state of.
    pub log_id: LogId,
    /// The last entry that is contained.
    pub index: LogIndex,
    /// That entry's epoch.
    pub epoch: Epoch,
    /// The history up to that entry.
    pub chain: Chain,
    /// What the cluster was founded with; `None` before.
    pub founding: Option<Founding>,
    /// The newest controller.
    pub controller: Option<Controller>,
    /// That a controller heard too few brokers, and resigned; kept during the epoch that follows its own.
    pub deaf: Option<Deaf>,
    /// Every registered broker, fenced or not.
    pub brokers: OrdMap<NodeId, Arc<Broker>>,
    /// Every topic.
    pub topics: OrdMap<TopicId, Arc<Topic>>,
    /// Every topic's id by its name.
    pub names: OrdMap<Arc<str>, TopicId>,
    /// Dynamic configs of all brokers.
    pub cluster_configs: Arc<Configs>,
    /// Dynamic configs of one broker each; no entry where there are none.
    pub broker_configs: OrdMap<NodeId, Arc<Configs>>,
    /// Finalized features; none at level 0.
    pub features: OrdMap<Arc<str>, u32>,
    /// The first producer id that no block has.
    pub next_producer_id: i64,
    /// Elections so far of a replica that may lack acknowledged records.
    pub unclean_elections: u64,
}

/// Config keys that have been set, and their values as text.
pub type Configs = BTreeMap<String, String>;

/// Brokers of a partition, in an order that matters.
pub type Nodes = SmallVec<[NodeId; 4]>;

/// The facts that the first leader wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster id.
    pub cluster: Uuid,
    /// The log's generation, from 1.
    pub generation: u64,
    /// The durability of topics that do not choose one.
    pub durability: DurabilityLevel,
}

/// The newest leader that has announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its leadership.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeId,
    /// The process.
    pub incarnation: Uuid,
    /// Its controller listener's host.
    pub host: String,
    /// Its controller listener's port.
    pub port: u16,
}

/// A controller that resigned because it heard too few brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deaf {
    /// Its leadership.
    pub epoch: Epoch,
    /// Whom it heard, in order of their ids.
    pub heard: Vec<NodeId>,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// The node.
    pub node: NodeId,
    /// The registration.
    pub epoch: BrokerEpoch,
    /// The process.
    pub incarnation: Uuid,
    /// Its log directories, sorted.
    pub directories: Vec<DirectoryId>,
    /// Its listeners, but for the controller's.
    pub endpoints: Vec<Endpoint>,
    /// Its rack.
    pub rack: Option<String>,
    /// What the node is.
    pub roles: Roles,
    /// What it supports: feature, lowest and highest level.
    pub features: BTreeMap<String, (u32, u32)>,
    /// It leads nothing and is in no ISR.
    pub fenced: bool,
    /// It is on its way out: it leads nothing and is in no ISR, but still serves what it has.
    pub shutting_down: bool,
}

/// What a node is, Kafka's `process.roles`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// It holds partitions and serves clients.
    pub broker: bool,
    /// It may lead the metadata log.
    pub controller: bool,
}

/// Where a listener is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name.
    pub listener: String,
    /// The advertised host.
    pub host: String,
    /// The advertised port.
    pub port: u16,
    /// How to speak to it.
    pub protocol: SecurityProtocol,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions, by number.
    pub partitions: Vector<Partition>,
    /// Configs that were set for it.
    pub configs: Arc<Configs>,
}

/// The state of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Who leads it; [`NodeId::NONE`] if nobody can.
    pub leader: NodeId,
    /// Grows with every change of the leader.
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change of anything here.
    pub partition_epoch: PartitionEpoch,
    /// The leader was elected uncleanly and has not finished its recovery (KIP-704).
    pub recovering: bool,
    /// The replicas, the preferred leader first.
    pub replicas: Nodes,
    /// In-sync replicas; the leader is one of them.
    pub isr: Nodes,
    /// Eligible leader replicas (KIP-966): out of the ISR since it fell below the minimum, and still complete.
    pub elr: Nodes,
    /// Replicas that have left ISR and ELR since the ISR fell below the minimum (KIP-966): whom an unclean election
    /// prefers.
    pub last_known_elr: Nodes,
}

impl Roles {
    /// The bits of the registration command: 1 for a broker, 2 for a controller.
    #[must_use]
    pub fn bits(self) -> u32 {
        u32::from(self.broker) | u32::from(self.controller) << 1
    }

    /// Reads [`Roles::bits`].
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self { broker: bits & 1 != 0, controller: bits & 2 != 0 }
    }
}

impl Broker {
    /// Whether the broker may lead and be in an ISR.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.shutting_down
    }

    /// Where the listener of this name is reached.
    #[must_use]
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener)
    }
}

impl Partition {
    /// Whether the broker holds a replica.
    #[must_use]
    pub fn has_replica(&self, node: NodeId) -> bool {
        self.replicas.contains(&node)
    }

    /// Whether somebody leads.
    #[must_use]
    pub fn has_leader(&self) -> bool {
        self.leader != NodeId::NONE
    }
}

impl Image {
    /// The state before the first entry of a log.
    #[must_use]
    pub fn new(log_id: LogId) -> Self {
        Self { log_id, chain: Chain::start(log_id), ..Self::default() }
    }

    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(name)?)
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&Partition> {
        self.topics.get(&partition.topic)?.partitions.get(usize::try_from(partition.index).ok()?)
    }

    /// Whether the broker is registered and may lead and be in an ISR.
    #[must_use]
    pub fn is_active(&self, node: NodeId) -> bool {
        self.brokers.get(&node).is_some_and(|broker| broker.is_active())
    }

    /// Brokers that are not fenced, in order of their ids: what Metadata answers.
    pub fn live_brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    /// The broker's present registration; [`BrokerEpoch::NONE`] if it has none.
    #[must_use]
    pub fn broker_epoch(&self, node: NodeId) -> BrokerEpoch {
        self.brokers.get(&node).map_or(BrokerEpoch::NONE, |broker| broker.epoch)
    }

    /// How far this image has come, as leader events need it.
    #[must_use]
    pub fn applied(&self) -> activation::Applied {
        let controller = self.controller.as_ref().map(|controller| (controller.epoch, controller.node));
        activation::Applied { index: self.index, controller }
    }
}
