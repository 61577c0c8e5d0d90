//! What the metadata log carries. The encoding is protobuf: field numbers are explicit, persisted for ever and never
//! reused; a field that is added later defaults to what its absence meant before.

use bytes::Bytes;
use prost::{Message, Oneof};
use thiserror::Error;
use uuid::Uuid;

/// The format that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// One entry of the metadata log.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Command {
    /// Changes nothing: a probe.
    #[prost(message, tag = "16")]
    NoOp(NoOp),
    /// The first command of each epoch.
    #[prost(message, tag = "17")]
    ControllerUp(ControllerUp),
    /// The first command of a cluster after that.
    #[prost(message, tag = "18")]
    FoundCluster(FoundCluster),
    /// A broker process announces itself (KIP-631).
    #[prost(message, tag = "19")]
    RegisterBroker(RegisterBroker),
    /// A broker leaves every ISR and leads nothing.
    #[prost(message, tag = "20")]
    FenceBroker(FenceBroker),
    /// A broker may lead and join ISRs.
    #[prost(message, tag = "21")]
    UnfenceBroker(UnfenceBroker),
    /// A broker stops in order: its leaderships move while it still serves.
    #[prost(message, tag = "22")]
    BrokerShuttingDown(BrokerShuttingDown),
    /// A topic with all its partitions and configs, at once.
    #[prost(message, tag = "23")]
    CreateTopic(CreateTopic),
    /// A topic ends, with its configs.
    #[prost(message, tag = "24")]
    DeleteTopic(DeleteTopic),
    /// Leaders change the ISRs of their partitions (KIP-497).
    #[prost(message, tag = "25")]
    AlterPartitions(AlterPartitions),
    /// Elections that were asked for (KIP-460).
    #[prost(message, tag = "26")]
    ElectLeaders(ElectLeaders),
    /// Configs of one resource (KIP-339).
    #[prost(message, tag = "27")]
    SetConfigs(SetConfigs),
    /// A block of producer ids for one broker (KIP-730).
    #[prost(message, tag = "28")]
    AllocateProducerIds(AllocateProducerIds),
    /// The controller hears too few brokers to believe that it is they who are cut off, and resigns.
    #[prost(message, tag = "29")]
    ControllerDeaf(ControllerDeaf),
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Entry {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(oneof = "Command", tags = "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29")]
    command: Option<Command>,
}

/// The bytes are no command that this build knows. Never a matter of the cluster's state, so the node must stop
/// rather than skip it and diverge.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    /// Damaged, or not ours.
    #[error("an entry of the metadata log is no command: {0}")]
    Malformed(String),
    /// Written by a later version of this software.
    #[error(
        "an entry of the metadata log has format {found}, this build reads up to {FORMAT}: upgrade this node"
    )]
    Newer {
        /// What the entry says.
        found: u32,
    },
    /// A command that this build has no name for.
    #[error("an entry of the metadata log is a command that this build does not know: upgrade this node")]
    Unknown,
}

impl Command {
    /// The entry's bytes; never empty.
    #[must_use]
    pub fn to_entry(&self) -> Bytes {
        Entry { format: FORMAT, command: Some(self.clone()) }.encode_to_vec().into()
    }

    /// Reads [`Command::to_entry`]'s bytes.
    ///
    /// # Errors
    /// [`CommandError`]; the node cannot go on.
    pub fn from_entry(bytes: &[u8]) -> Result<Self, CommandError> {
        let entry = Entry::decode(bytes).map_err(|error| CommandError::Malformed(error.to_string()))?;
        if entry.format > FORMAT {
            return Err(CommandError::Newer { found: entry.format });
        }
        entry.command.ok_or(CommandError::Unknown)
    }

    /// The command's name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoOp(_) => "NoOp",
            Self::ControllerUp(_) => "ControllerUp",
            Self::FoundCluster(_) => "FoundCluster",
            Self::RegisterBroker(_) => "RegisterBroker",
            Self::FenceBroker(_) => "FenceBroker",
            Self::UnfenceBroker(_) => "UnfenceBroker",
            Self::BrokerShuttingDown(_) => "BrokerShuttingDown",
            Self::CreateTopic(_) => "CreateTopic",
            Self::DeleteTopic(_) => "DeleteTopic",
            Self::AlterPartitions(_) => "AlterPartitions",
            Self::ElectLeaders(_) => "ElectLeaders",
            Self::SetConfigs(_) => "SetConfigs",
            Self::AllocateProducerIds(_) => "AllocateProducerIds",
            Self::ControllerDeaf(_) => "ControllerDeaf",
        }
    }
}

/// A UUID; absent where one is expected means the nil UUID.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Id {
    /// The first 8 bytes, big-endian.
    #[prost(fixed64, tag = "1")]
    pub high: u64,
    /// The last 8 bytes, big-endian.
    #[prost(fixed64, tag = "2")]
    pub low: u64,
}

impl From<Uuid> for Id {
    fn from(id: Uuid) -> Self {
        let (high, low) = id.as_u64_pair();
        Self { high, low }
    }
}

impl From<Id> for Uuid {
    fn from(id: Id) -> Self {
        Self::from_u64_pair(id.high, id.low)
    }
}

/// The UUID of an optional [`Id`] field; nil where it is absent.
#[must_use]
pub fn uuid(id: Option<Id>) -> Uuid {
    id.unwrap_or_default().into()
}

/// See [`Command::NoOp`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct NoOp {}

/// See [`Command::ControllerUp`]. Refused unless `epoch` is the epoch of the entry itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ControllerUp {
    /// The leadership that begins.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// The leader.
    #[prost(int32, tag = "2")]
    pub node: i32,
    /// The leader's process.
    #[prost(message, optional, tag = "3")]
    pub incarnation: Option<Id>,
    /// Where its controller listener is reached.
    #[prost(string, tag = "4")]
    pub host: String,
    /// The port there.
    #[prost(uint32, tag = "5")]
    pub port: u32,
}

/// See [`Command::FoundCluster`]. Accepted once.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FoundCluster {
    /// The cluster id.
    #[prost(message, optional, tag = "1")]
    pub cluster: Option<Id>,
    /// The log's generation, from 1.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// The durability of topics that do not choose one.
    #[prost(enumeration = "DurabilityLevel", tag = "3")]
    pub durability: i32,
    /// Feature levels that the cluster starts with, such as `metadata.version`.
    #[prost(message, repeated, tag = "4")]
    pub features: Vec<FeatureLevel>,
    /// Cluster-wide configs that the cluster starts with, such as `default.replication.factor`.
    #[prost(message, repeated, tag = "5")]
    pub defaults: Vec<ConfigEntry>,
}

/// What an acknowledged record has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum DurabilityLevel {
    /// `fdatasync` on every member of the maximal ISR.
    Synced = 0,
    /// The page cache of every member of the maximal ISR, as in Kafka.
    Replicated = 1,
}

/// A finalized feature (KIP-584).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FeatureLevel {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its level; 0 is off.
    #[prost(uint32, tag = "2")]
    pub level: u32,
}

/// A feature that a broker supports (KIP-584).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FeatureRange {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The lowest level.
    #[prost(uint32, tag = "2")]
    pub min: u32,
    /// The highest level.
    #[prost(uint32, tag = "3")]
    pub max: u32,
}

/// A config key and its value, as text.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfigEntry {
    /// The key.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// See [`Command::RegisterBroker`]. The broker epoch is the index of the entry. The broker begins fenced. The same
/// incarnation again keeps its epoch and its state.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RegisterBroker {
    /// The node.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// The process.
    #[prost(message, optional, tag = "2")]
    pub incarnation: Option<Id>,
    /// Its log directories (KIP-858).
    #[prost(message, repeated, tag = "3")]
    pub directories: Vec<Id>,
    /// Its listeners, but for the controller's.
    #[prost(message, repeated, tag = "4")]
    pub endpoints: Vec<ListenerEndpoint>,
    /// Its rack.
    #[prost(string, optional, tag = "5")]
    pub rack: Option<String>,
    /// 1 for a broker, 2 for a controller, 3 for both.
    #[prost(uint32, tag = "6")]
    pub roles: u32,
    /// What it supports.
    #[prost(message, repeated, tag = "7")]
    pub features: Vec<FeatureRange>,
    /// The machine was started anew since the last registration without a clean stop of the broker: what was only in
    /// the page cache is lost.
    #[prost(bool, tag = "8")]
    pub page_cache_lost: bool,
    /// An fsync failed in the broker's last life: what any log holds is not known.
    #[prost(bool, tag = "9")]
    pub sync_failed: bool,
}

/// Where a listener of a broker is reached.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListenerEndpoint {
    /// The listener's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The advertised host.
    #[prost(string, tag = "2")]
    pub host: String,
    /// The advertised port.
    #[prost(uint32, tag = "3")]
    pub port: u32,
    /// Kafka's number of the security protocol.
    #[prost(enumeration = "SecurityProtocol", tag = "4")]
    pub protocol: i32,
}

/// Kafka's security protocols, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SecurityProtocol {
    /// Neither encrypted nor authenticated.
    Plaintext = 0,
    /// TLS.
    Ssl = 1,
    /// SASL over plain TCP.
    SaslPlaintext = 2,
    /// SASL over TLS.
    SaslSsl = 3,
}

/// See [`Command::FenceBroker`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FenceBroker {
    /// The broker.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// The registration that is meant.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
}

/// See [`Command::UnfenceBroker`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UnfenceBroker {
    /// The broker.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// The registration that is meant.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
}

/// See [`Command::BrokerShuttingDown`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BrokerShuttingDown {
    /// The broker.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// The registration that is meant.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
}

/// See [`Command::CreateTopic`]. The ISR of each partition is what of its replicas is live when the entry is applied.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CreateTopic {
    /// The topic's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The topic's identity, new.
    #[prost(message, optional, tag = "2")]
    pub topic: Option<Id>,
    /// Its partitions, from 0.
    #[prost(message, repeated, tag = "3")]
    pub partitions: Vec<Assignment>,
    /// Its configs.
    #[prost(message, repeated, tag = "4")]
    pub configs: Vec<ConfigEntry>,
}

/// The replicas of one partition.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Assignment {
    /// Brokers, the preferred leader first.
    #[prost(int32, repeated, tag = "1")]
    pub replicas: Vec<i32>,
}

/// See [`Command::DeleteTopic`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DeleteTopic {
    /// The topic.
    #[prost(message, optional, tag = "1")]
    pub topic: Option<Id>,
}

/// See [`Command::AlterPartitions`]. Each change has its own verdict.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AlterPartitions {
    /// The broker that asks.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// Its registration.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
    /// The changes.
    #[prost(message, repeated, tag = "3")]
    pub changes: Vec<IsrChange>,
}

/// One partition's new ISR.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct IsrChange {
    /// The topic.
    #[prost(message, optional, tag = "1")]
    pub topic: Option<Id>,
    /// The partition.
    #[prost(int32, tag = "2")]
    pub partition: i32,
    /// The leadership that asks.
    #[prost(int32, tag = "3")]
    pub leader_epoch: i32,
    /// The state that the change was decided on.
    #[prost(int32, tag = "4")]
    pub partition_epoch: i32,
    /// The new ISR.
    #[prost(message, repeated, tag = "5")]
    pub isr: Vec<IsrMember>,
    /// The leader has not recovered from an unclean election (KIP-704).
    #[prost(bool, tag = "6")]
    pub recovering: bool,
}

/// A replica in a new ISR.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct IsrMember {
    /// The broker.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// The registration under which it caught up (KIP-903); -1 where the leader does not know it.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
}

/// See [`Command::ElectLeaders`]. Each partition has its own verdict.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ElectLeaders {
    /// Which election.
    #[prost(enumeration = "Election", tag = "1")]
    pub election: i32,
    /// Where.
    #[prost(message, repeated, tag = "2")]
    pub partitions: Vec<PartitionKey>,
}

/// Kafka's kinds of election, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Election {
    /// The first replica, if it is in the ISR.
    Preferred = 0,
    /// A live replica, though it may lack acknowledged records, where no other can lead.
    Unclean = 1,
}

/// One partition.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PartitionKey {
    /// The topic.
    #[prost(message, optional, tag = "1")]
    pub topic: Option<Id>,
    /// The partition.
    #[prost(int32, tag = "2")]
    pub partition: i32,
}

/// See [`Command::SetConfigs`]. All changes or none.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetConfigs {
    /// Whose.
    #[prost(oneof = "ConfigTarget", tags = "1, 2, 3")]
    pub target: Option<ConfigTarget>,
    /// The changes, in order.
    #[prost(message, repeated, tag = "4")]
    pub changes: Vec<ConfigChange>,
}

/// What has configs.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum ConfigTarget {
    /// A topic.
    #[prost(message, tag = "1")]
    Topic(Id),
    /// One broker.
    #[prost(int32, tag = "2")]
    Broker(i32),
    /// Every broker: Kafka's broker resource without a name.
    #[prost(message, tag = "3")]
    Cluster(NoOp),
}

/// One change of a config.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfigChange {
    /// The key.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value, or the items to append or subtract, separated by commas.
    #[prost(string, tag = "2")]
    pub value: String,
    /// What to do with it.
    #[prost(enumeration = "ConfigOperation", tag = "3")]
    pub operation: i32,
}

/// Kafka's operations of IncrementalAlterConfigs, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ConfigOperation {
    /// The value replaces what is there.
    Set = 0,
    /// Back to the default.
    Delete = 1,
    /// Items join a list.
    Append = 2,
    /// Items leave a list.
    Subtract = 3,
}

/// See [`Command::AllocateProducerIds`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AllocateProducerIds {
    /// The broker that asks.
    #[prost(int32, tag = "1")]
    pub node: i32,
    /// Its registration.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
    /// How many.
    #[prost(int32, tag = "3")]
    pub count: i32,
}

/// See [`Command::ControllerDeaf`]. The next controller, if it hears the same brokers, believes that the others are
/// gone.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ControllerDeaf {
    /// The unfenced brokers that are heard, in order of their ids.
    #[prost(int32, repeated, tag = "1")]
    pub heard: Vec<i32>,
}
