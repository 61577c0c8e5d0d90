//! Newtypes for the numbers that name things, so that an offset is never passed where an epoch is meant.

use std::fmt;

use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// A process of the cluster, Kafka's `node.id`: broker, controller or both. 0 or more.
    NodeId(i32)
}
number! {
    /// Position of a record in a partition. 0 or more.
    Offset(i64)
}
number! {
    /// One leadership of a partition (KIP-101); grows with every change of leader.
    LeaderEpoch(i32)
}
number! {
    /// Version of a partition's state in the metadata (KIP-497); grows with every change of leader or ISR.
    PartitionEpoch(i32)
}
number! {
    /// One registration of a broker: the log index of the entry that registered it (KIP-631).
    BrokerEpoch(i64)
}
number! {
    /// Position in the metadata log. Dense from 1; 0 means "before the first entry".
    LogIndex(u64)
}
number! {
    /// One leadership of the metadata log, Raft's term. Strictly grows within one generation of the log.
    Epoch(u64)
}
number! {
    /// A producer's identity (KIP-98).
    ProducerId(i64)
}

impl Offset {
    /// The offset `count` records later.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}

impl LogIndex {
    /// The index of the entry that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LeaderEpoch {
    /// Kafka's -1: no epoch is known.
    pub const NONE: Self = Self(-1);
}

impl BrokerEpoch {
    /// Kafka's -1: not registered.
    pub const NONE: Self = Self(-1);
}

impl NodeId {
    /// Kafka's -1: no node.
    pub const NONE: Self = Self(-1);
}

/// A topic's identity for its whole life (KIP-516); a name that is deleted and created again gets another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    /// Kafka's form: URL-safe base64 without padding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64_id(self.0))
    }
}

/// One partition of one topic, by identity and not by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The partition's number in the topic, from 0.
    pub index: i32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

/// A log directory's identity, kept in its `meta.properties` (KIP-858).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub Uuid);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64_id(self.0))
    }
}

/// Kafka's text form of a UUID: URL-safe base64, 22 characters, no padding.
#[must_use]
pub fn base64_id(id: Uuid) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(id.as_bytes())
}

/// Reads [`base64_id`]'s form. `None` unless it is 16 bytes in URL-safe base64.
#[must_use]
pub fn parse_base64_id(text: &str) -> Option<Uuid> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(Uuid::from_bytes(bytes.try_into().ok()?))
}
