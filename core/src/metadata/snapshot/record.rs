//! The records of an image. Numbers are persisted: explicit, never reused.

use prost::{Message, Oneof};

use crate::{
    ids::{BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, PartitionEpoch},
    metadata::{
        command::{ConfigEntry, FeatureRange, Id, ListenerEndpoint, uuid},
        image::{Broker, Endpoint, Nodes, Partition, Roles},
    },
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6")]
    pub(super) body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Body {
    /// The first record.
    #[prost(message, tag = "1")]
    Header(Header),
    /// A broker; in order of their ids.
    #[prost(message, tag = "2")]
    Broker(BrokerRecord),
    /// Configs of whatever they name.
    #[prost(message, tag = "3")]
    Configs(ConfigsRecord),
    /// A topic begins; in order of their ids.
    #[prost(message, tag = "4")]
    Topic(TopicRecord),
    /// The next partitions of the last topic.
    #[prost(message, tag = "5")]
    Partitions(PartitionsRecord),
    /// The last record.
    #[prost(message, tag = "6")]
    Trailer(Trailer),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) log_id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) index: u64,
    #[prost(uint64, tag = "3")]
    pub(super) epoch: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) chain: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub(super) founding: Option<FoundingRecord>,
    #[prost(message, optional, tag = "6")]
    pub(super) controller: Option<ControllerRecord>,
    #[prost(btree_map = "string, uint32", tag = "7")]
    pub(super) features: std::collections::BTreeMap<String, u32>,
    #[prost(int64, tag = "8")]
    pub(super) next_producer_id: i64,
    #[prost(uint64, tag = "9")]
    pub(super) unclean_elections: u64,
    #[prost(message, optional, tag = "10")]
    pub(super) deaf: Option<DeafRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeafRecord {
    #[prost(uint64, tag = "1")]
    pub(super) epoch: u64,
    #[prost(int32, repeated, tag = "2")]
    pub(super) heard: Vec<i32>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct FoundingRecord {
    #[prost(message, optional, tag = "1")]
    pub(super) cluster: Option<Id>,
    #[prost(uint64, tag = "2")]
    pub(super) generation: u64,
    #[prost(int32, tag = "3")]
    pub(super) durability: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ControllerRecord {
    #[prost(uint64, tag = "1")]
    pub(super) epoch: u64,
    #[prost(int32, tag = "2")]
    pub(super) node: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) incarnation: Option<Id>,
    #[prost(string, tag = "4")]
    pub(super) host: String,
    #[prost(uint32, tag = "5")]
    pub(super) port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BrokerRecord {
    #[prost(int32, tag = "1")]
    pub(super) node: i32,
    #[prost(int64, tag = "2")]
    pub(super) epoch: i64,
    #[prost(message, optional, tag = "3")]
    pub(super) incarnation: Option<Id>,
    #[prost(message, repeated, tag = "4")]
    pub(super) directories: Vec<Id>,
    #[prost(message, repeated, tag = "5")]
    pub(super) endpoints: Vec<ListenerEndpoint>,
    #[prost(string, optional, tag = "6")]
    pub(super) rack: Option<String>,
    #[prost(uint32, tag = "7")]
    pub(super) roles: u32,
    #[prost(message, repeated, tag = "8")]
    pub(super) features: Vec<FeatureRange>,
    #[prost(bool, tag = "9")]
    pub(super) fenced: bool,
    #[prost(bool, tag = "10")]
    pub(super) shutting_down: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ConfigsRecord {
    #[prost(oneof = "ConfigsOf", tags = "1, 2, 3")]
    pub(super) of: Option<ConfigsOf>,
    #[prost(message, repeated, tag = "4")]
    pub(super) entries: Vec<ConfigEntry>,
}

#[derive(Clone, Copy, PartialEq, Oneof)]
pub(super) enum ConfigsOf {
    /// Of all brokers.
    #[prost(bool, tag = "1")]
    Cluster(bool),
    /// Of one broker.
    #[prost(int32, tag = "2")]
    Broker(i32),
    /// Of the last topic.
    #[prost(bool, tag = "3")]
    Topic(bool),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TopicRecord {
    #[prost(message, optional, tag = "1")]
    pub(super) id: Option<Id>,
    #[prost(string, tag = "2")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PartitionsRecord {
    #[prost(message, repeated, tag = "1")]
    pub(super) partitions: Vec<PartitionRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PartitionRecord {
    #[prost(sint32, tag = "1")]
    pub(super) leader: i32,
    #[prost(int32, tag = "2")]
    pub(super) leader_epoch: i32,
    #[prost(int32, tag = "3")]
    pub(super) partition_epoch: i32,
    #[prost(bool, tag = "4")]
    pub(super) recovering: bool,
    #[prost(int32, repeated, tag = "5")]
    pub(super) replicas: Vec<i32>,
    #[prost(int32, repeated, tag = "6")]
    pub(super) isr: Vec<i32>,
    #[prost(int32, repeated, tag = "7")]
    pub(super) elr: Vec<i32>,
    #[prost(int32, repeated, tag = "8")]
    pub(super) last_known_elr: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Trailer {
    #[prost(uint64, tag = "1")]
    pub(super) records: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) sha256: Vec<u8>,
}

impl From<&Partition> for PartitionRecord {
    fn from(partition: &Partition) -> Self {
        let numbers = |nodes: &Nodes| nodes.iter().map(|node| node.0).collect();
        Self {
            leader: partition.leader.0,
            leader_epoch: partition.leader_epoch.0,
            partition_epoch: partition.partition_epoch.0,
            recovering: partition.recovering,
            replicas: numbers(&partition.replicas),
            isr: numbers(&partition.isr),
            elr: numbers(&partition.elr),
            last_known_elr: numbers(&partition.last_known_elr),
        }
    }
}

impl From<PartitionRecord> for Partition {
    fn from(record: PartitionRecord) -> Self {
        let nodes = |numbers: Vec<i32>| numbers.into_iter().map(NodeId).collect();
        Self {
            leader: NodeId(record.leader),
            leader_epoch: LeaderEpoch(record.leader_epoch),
            partition_epoch: PartitionEpoch(record.partition_epoch),
            recovering: record.recovering,
            replicas: nodes(record.replicas),
            isr: nodes(record.isr),
            elr: nodes(record.elr),
            last_known_elr: nodes(record.last_known_elr),
        }
    }
}

impl From<&Broker> for BrokerRecord {
    fn from(broker: &Broker) -> Self {
        let endpoint = |endpoint: &Endpoint| ListenerEndpoint {
            name: endpoint.listener.clone(),
            host: endpoint.host.clone(),
            port: u32::from(endpoint.port),
            protocol: endpoint.protocol.into(),
        };
        let feature = |(name, (min, max)): (&String, &(u32, u32))| FeatureRange {
            name: name.clone(),
            min: *min,
            max: *max,
        };
        Self {
            node: broker.node.0,
            epoch: broker.epoch.0,
            incarnation: Some(broker.incarnation.into()),
            directories: broker.directories.iter().map(|directory| directory.0.into()).collect(),
            endpoints: broker.endpoints.iter().map(endpoint).collect(),
            rack: broker.rack.clone(),
            roles: broker.roles.bits(),
            features: broker.features.iter().map(feature).collect(),
            fenced: broker.fenced,
            shutting_down: broker.shutting_down,
        }
    }
}

impl BrokerRecord {
    /// `None` if a port or a protocol is none.
    pub(super) fn broker(self) -> Option<Broker> {
        let endpoint = |endpoint: ListenerEndpoint| {
            Some(Endpoint {
                listener: endpoint.name,
                host: endpoint.host,
                port: u16::try_from(endpoint.port).ok()?,
                protocol: endpoint.protocol.try_into().ok()?,
            })
        };
        Some(Broker {
            node: NodeId(self.node),
            epoch: BrokerEpoch(self.epoch),
            incarnation: uuid(self.incarnation),
            directories: self.directories.into_iter().map(|id| DirectoryId(id.into())).collect(),
            endpoints: self.endpoints.into_iter().map(endpoint).collect::<Option<_>>()?,
            rack: self.rack,
            roles: Roles::from_bits(self.roles),
            features: self.features.into_iter().map(|f| (f.name, (f.min, f.max))).collect(),
            fenced: self.fenced,
            shutting_down: self.shutting_down,
        })
    }
}
