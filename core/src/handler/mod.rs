//! Kafka's requests: the table of APIs decides which are answered where, one file answers each.
//!
//! A connection's requests are answered in the order in which they came. See `connection`.

mod api_versions;
mod auto_creation;
mod connection;
mod controller;
mod create_topics;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_quorum;
#[cfg(test)]
mod describe_test;
mod describe_topic_partitions;
mod fetch;
mod forwarding;
mod hello;
mod incremental_alter_configs;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod observe;
mod offset_for_leader_epoch;
mod operations;
mod partitions;
mod produce;
mod request;
#[cfg(test)]
mod testing;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;

pub use connection::serve;
pub use request::Caller;

use self::request::{Begun, Closed, Reply, Request};
use crate::{
    broker::Broker,
    metadata::configs::broker_key,
    protocol::{
        apis::{self, ApiKey},
        frame::{Frame, FrameMemory},
        header,
        primitives::Reader,
    },
};

/// The memory that received requests may hold together where `queued.max.request.bytes` does not say: enough for two
/// of the largest requests, and for some ten thousand usual ones.
const QUEUED_BYTES: usize = 256 << 20;

/// What answers the requests of all connections of a node.
pub struct Handlers {
    broker: Arc<Broker>,
    memory: FrameMemory,
    limits: Limits,
    /// Names of topics that are being made because somebody asked for them.
    creations: Mutex<BTreeSet<String>>,
    sessions: fetch::Sessions,
}

/// Limits on connections, fixed when the node starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `socket.request.max.bytes`.
    pub request_bytes: usize,
    /// `queued.max.request.bytes`: of all connections together.
    pub queued_bytes: usize,
    /// `fetch.max.bytes`.
    pub fetch_bytes: usize,
    /// `connections.max.idle.ms`.
    pub idle: Duration,
}

impl Handlers {
    /// Handlers of a broker, which need not have started.
    #[must_use]
    pub fn new(broker: Arc<Broker>) -> Arc<Self> {
        let number = |name: &str, default: u64| {
            let key = broker_key(name).ok();
            let text = broker.config.file.get(name).map(String::as_str);
            let text = text.or_else(|| key.and_then(|key| key.default));
            text.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(default)
        };
        let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let limits = Limits {
            request_bytes: bytes(number("socket.request.max.bytes", 100 << 20)),
            queued_bytes: bytes(number("queued.max.request.bytes", QUEUED_BYTES as u64)),
            fetch_bytes: bytes(number("fetch.max.bytes", 57_671_680)),
            idle: Duration::from_millis(number("connections.max.idle.ms", 600_000)),
        };
        Self::with_limits(broker, limits)
    }

    /// As [`Handlers::new`], with limits that are given.
    #[must_use]
    pub fn with_limits(broker: Arc<Broker>, limits: Limits) -> Arc<Self> {
        let memory = FrameMemory::new(limits.queued_bytes);
        let sessions = fetch::Sessions::new(broker.runtime.clock.clone());
        Arc::new(Self { broker, memory, limits, creations: Mutex::default(), sessions })
    }

    /// Whether a broker config is `true` here now.
    fn is_set(&self, name: &str) -> bool {
        self.broker.setting(name).is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    /// Begins a request. Whatever must happen in the order of the requests has happened when this returns.
    fn begin(self: &Arc<Self>, caller: &Arc<Caller>, frame: Frame) -> Begun {
        match self.dispatch(caller, frame) {
            Ok(begun) => begun,
            Err(closed) => Begun::Ready(Reply::Close(closed)),
        }
    }

    fn dispatch(self: &Arc<Self>, caller: &Arc<Caller>, frame: Frame) -> Result<Begun, Closed> {
        let Frame { bytes, memory } = frame;
        let peek = header::peek(&bytes)?;
        let unserved = || Closed(format!("{} version {} is not served here", peek.key, peek.version));
        let api = apis::find(peek.key).ok_or_else(unserved)?;
        if !api.listeners.meets(caller.purposes) {
            return Err(unserved());
        }
        if !api.serves(peek.version) {
            if peek.key == ApiKey::API_VERSIONS {
                return Ok(Begun::Ready(api_versions::unsupported(peek.correlation_id)));
            }
            return Err(unserved());
        }
        let bytes = bytes.freeze();
        let mut reader = Reader::new(&bytes);
        let (header, _) = header::read_request(&mut reader).map_err(|error| Closed(error.to_string()))?;
        let request = Request {
            api,
            version: header.version,
            correlation_id: header.correlation_id,
            extras: header.extras,
            body: bytes.slice(reader.position()..),
            memory,
        };
        self.handle(caller, request)
    }

    /// The one place that knows which file answers which API.
    fn handle(self: &Arc<Self>, caller: &Arc<Caller>, request: Request) -> Result<Begun, Closed> {
        let ready = |reply| Ok(Begun::Ready(reply));
        match request.api.key {
            ApiKey::API_VERSIONS => ready(api_versions::answer(self, caller, &request)?),
            ApiKey::PRODUCE => produce::begin(self, caller, request),
            ApiKey::FETCH => fetch::begin(self, caller, request),
            ApiKey::LIST_OFFSETS => ready(list_offsets::answer(self, &request)?),
            ApiKey::OFFSET_FOR_LEADER_EPOCH => ready(offset_for_leader_epoch::answer(self, &request)?),
            ApiKey::METADATA => metadata::begin(self, caller, request),
            ApiKey::DESCRIBE_CLUSTER => ready(describe_cluster::answer(self, caller, &request)?),
            ApiKey::DESCRIBE_CONFIGS => ready(describe_configs::answer(self, &request)?),
            ApiKey::DESCRIBE_TOPIC_PARTITIONS => ready(describe_topic_partitions::answer(self, &request)?),
            ApiKey::DESCRIBE_QUORUM => describe_quorum::begin(self, caller, request),
            ApiKey::CREATE_TOPICS => create_topics::begin(self, caller, request),
            ApiKey::DELETE_TOPICS => delete_topics::begin(self, caller, request),
            ApiKey::INCREMENTAL_ALTER_CONFIGS => incremental_alter_configs::begin(self, caller, request),
            ApiKey::INIT_PRODUCER_ID => init_producer_id::begin(self, request),
            ApiKey::OBSERVE => observe::begin(self, caller, request),
            ApiKey::HELLO => ready(hello::answer(self, caller, &request)?),
            key if request::is_for_controller(key) => controller::begin(self, caller, request),
            key => Err(Closed(format!("{key} is not answered"))),
        }
    }
}
