//! The table of served APIs. What it lists is what is dispatched, and what it advertises is what it lists: ApiVersions
//! is derived from it and cannot lie.

use std::fmt;

/// The number that names a kind of request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKey(pub i16);

macro_rules! keys {
    ($($name:ident = $key:literal,)*) => {
        #[expect(missing_docs, reason = "Kafka's own names; ours are documented in the table")]
        impl ApiKey {
            $(pub const $name: Self = Self($key);)*

            /// The name in the code's own spelling; `None` for a key that is not served anywhere.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($key => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

keys! {
    PRODUCE = 0,
    FETCH = 1,
    LIST_OFFSETS = 2,
    METADATA = 3,
    API_VERSIONS = 18,
    CREATE_TOPICS = 19,
    DELETE_TOPICS = 20,
    INIT_PRODUCER_ID = 22,
    OFFSET_FOR_LEADER_EPOCH = 23,
    DESCRIBE_CONFIGS = 32,
    INCREMENTAL_ALTER_CONFIGS = 44,
    DESCRIBE_QUORUM = 55,
    ALTER_PARTITION = 56,
    ENVELOPE = 58,
    DESCRIBE_CLUSTER = 60,
    BROKER_REGISTRATION = 62,
    BROKER_HEARTBEAT = 63,
    ALLOCATE_PRODUCER_IDS = 67,
    DESCRIBE_TOPIC_PARTITIONS = 75,
    HELLO = 32000,
    OBSERVE = 32001,
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "API {}", self.0),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a listener is for; one listener may be for several things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purposes(u8);

impl Purposes {
    /// Kafka clients.
    pub const CLIENTS: Self = Self(1);
    /// Other brokers: replica fetches.
    pub const INTER_BROKER: Self = Self(2);
    /// Brokers that talk to the controller, and observers.
    pub const CONTROLLER: Self = Self(4);

    /// Both purposes.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is a purpose that both have.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// One served API.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// Its key.
    pub key: ApiKey,
    /// The oldest version that is answered.
    pub min: i16,
    /// The newest version that is answered.
    pub max: i16,
    /// The first version with compact lengths and tagged fields (KIP-482).
    pub flexible: i16,
    /// Where it is served.
    pub listeners: Purposes,
    /// Whether ApiVersions tells of it.
    pub advertised: bool,
}

const CLIENTS: Purposes = Purposes::CLIENTS.and(Purposes::INTER_BROKER);
const EVERYWHERE: Purposes = CLIENTS.and(Purposes::CONTROLLER);
const INTERNAL: Purposes = Purposes::INTER_BROKER.and(Purposes::CONTROLLER);

const fn api(key: ApiKey, versions: (i16, i16), flexible: i16, listeners: Purposes) -> Api {
    let (min, max) = versions;
    Api { key, min, max, flexible, listeners, advertised: listeners.meets(Purposes::CLIENTS) }
}

/// Every served API, by key.
///
/// Caps against Kafka 4.4: ListOffsets ends at 10, because 11 speaks of tiered storage, which is not built.
pub const APIS: &[Api] = &[
    api(ApiKey::PRODUCE, (3, 13), 9, CLIENTS),
    api(ApiKey::FETCH, (4, 18), 12, CLIENTS),
    api(ApiKey::LIST_OFFSETS, (1, 10), 6, CLIENTS),
    api(ApiKey::METADATA, (0, 13), 9, CLIENTS),
    api(ApiKey::API_VERSIONS, (0, 5), 3, EVERYWHERE),
    api(ApiKey::CREATE_TOPICS, (2, 7), 5, CLIENTS),
    api(ApiKey::DELETE_TOPICS, (1, 6), 4, CLIENTS),
    api(ApiKey::INIT_PRODUCER_ID, (0, 5), 2, CLIENTS),
    api(ApiKey::OFFSET_FOR_LEADER_EPOCH, (2, 4), 4, CLIENTS),
    api(ApiKey::DESCRIBE_CONFIGS, (1, 4), 4, CLIENTS),
    api(ApiKey::INCREMENTAL_ALTER_CONFIGS, (0, 1), 1, CLIENTS),
    api(ApiKey::DESCRIBE_QUORUM, (0, 2), 0, CLIENTS),
    api(ApiKey::ALTER_PARTITION, (2, 3), 0, Purposes::CONTROLLER),
    api(ApiKey::ENVELOPE, (0, 0), 0, Purposes::CONTROLLER),
    api(ApiKey::DESCRIBE_CLUSTER, (0, 2), 0, CLIENTS),
    api(ApiKey::BROKER_REGISTRATION, (0, 4), 0, Purposes::CONTROLLER),
    api(ApiKey::BROKER_HEARTBEAT, (0, 1), 0, Purposes::CONTROLLER),
    api(ApiKey::ALLOCATE_PRODUCER_IDS, (0, 0), 0, Purposes::CONTROLLER),
    api(ApiKey::DESCRIBE_TOPIC_PARTITIONS, (0, 0), 0, CLIENTS),
    api(ApiKey::HELLO, (0, 0), 0, INTERNAL),
    api(ApiKey::OBSERVE, (0, 0), 0, Purposes::CONTROLLER),
];

/// The minimum that is advertised for Produce. librdkafka before 2.11 takes a larger one for a broker that knows no
/// compression (KAFKA-18659); a request below the served minimum closes the connection.
pub const PRODUCE_ADVERTISED_MIN: i16 = 0;

/// The entry of `key`.
#[must_use]
pub fn find(key: ApiKey) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key == key)
}

impl Api {
    /// Whether `version` is answered.
    #[must_use]
    pub const fn serves(&self, version: i16) -> bool {
        version >= self.min && version <= self.max
    }

    /// Whether `version` has compact lengths and tagged fields, and with them request header 2.
    #[must_use]
    pub const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }

    /// Whether the response of `version` begins with tagged fields. ApiVersions never does, so that a client can read
    /// the answer to a version that the broker does not know (KIP-511).
    #[must_use]
    pub const fn has_flexible_response_header(&self, version: i16) -> bool {
        self.is_flexible(version) && self.key.0 != ApiKey::API_VERSIONS.0
    }

    /// The range that ApiVersions tells.
    #[must_use]
    pub const fn advertised_range(&self) -> (i16, i16) {
        if self.key.0 == ApiKey::PRODUCE.0 {
            (PRODUCE_ADVERTISED_MIN, self.max)
        } else {
            (self.min, self.max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_range_holds_a_version() {
        assert!(APIS.windows(2).all(|pair| pair[0].key < pair[1].key));
        assert!(APIS.iter().all(|api| api.min <= api.max && api.key.name().is_some()));
    }

    #[test]
    fn nothing_internal_is_advertised() {
        for key in [56, 58, 62, 63, 67, 32000, 32001] {
            assert!(!find(ApiKey(key)).unwrap().advertised);
        }
    }
}
