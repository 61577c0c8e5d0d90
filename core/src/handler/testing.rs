//! What the tests of handlers share: a broker that has not started, and connections to its handlers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use uuid::Uuid;

use super::{Handlers, Limits, serve};
use crate::{
    broker::{
        Broker, BrokerConfig,
        config::{FoundingConfig, ListenerConfig, ListenerPurpose, Timings},
    },
    ids::{BrokerEpoch, LeaderEpoch, LogIndex, NodeId, PartitionEpoch, PartitionId, TopicId},
    log::{Handles, Log, LogParts, Opening, SyncDepth},
    metadata::{
        Image,
        command::SecurityProtocol,
        image::{self, Configs, DurabilityLevel, Endpoint, Founding, Nodes, Partition, Roles, Topic},
    },
    partition::{
        replica::{Duties, Replica},
        settings::Settings,
    },
    protocol::{
        apis::{self, ApiKey},
        bodies::{self, RequestBody, StrBytes},
        builder::BatchBuilder,
        compression::Codec,
        header::{self, Extras, RequestHeader},
        topics::TopicRef,
    },
    runtime::{Clock, Connection, RealDisk, RealNetwork, Rng, Runtime, TaskScope},
};

pub(super) const LIMITS: Limits = Limits {
    request_bytes: 1 << 20,
    queued_bytes: 4 << 20,
    fetch_bytes: 1 << 20,
    idle: Duration::from_secs(600),
};

/// A broker that is node 1 of nothing yet.
pub(super) fn broker() -> Arc<Broker> {
    let listener = |name: &str, purpose| ListenerConfig {
        name: name.to_owned(),
        protocol: SecurityProtocol::Plaintext,
        purpose,
    };
    let config = BrokerConfig {
        node: NodeId(1),
        roles: Roles { broker: true, controller: true },
        listeners: vec![
            listener("PLAINTEXT", ListenerPurpose::Client),
            listener("INTERNAL", ListenerPurpose::InterBroker),
            listener("CONTROLLER", ListenerPurpose::Controller),
        ],
        inter_broker_listener: "INTERNAL".to_owned(),
        voters: BTreeMap::new(),
        rack: None,
        log_dirs: Vec::new(),
        metadata_dir: std::path::PathBuf::new(),
        backend: "memory".to_owned(),
        founding: FoundingConfig { durability: DurabilityLevel::Synced, defaults: Configs::new() },
        file: Configs::new(),
        timings: Timings::default(),
    };
    let runtime = Runtime {
        clock: Clock::system(),
        rng: Rng::seeded(1),
        disk: Arc::new(RealDisk),
        network: Arc::new(RealNetwork),
        tasks: TaskScope::single_threaded(),
    };
    Broker::new(config, runtime)
}

/// A client's end of a connection to handlers.
pub(super) struct Peer(pub(super) DuplexStream);

impl Peer {
    pub(super) fn connect(handlers: &Arc<Handlers>, listener: &str) -> Self {
        let (near, far) = tokio::io::duplex(64 << 10);
        let broker = &handlers.broker;
        let listener = broker.config.listener(listener).expect("a listener").clone();
        let (handlers, tasks) = (handlers.clone(), broker.runtime.tasks.clone());
        let peer = "127.0.0.1:9".parse().expect("an address");
        broker.runtime.tasks.spawn(async move {
            serve(handlers, tasks, Connection::Memory(near), peer, &listener).await;
        });
        Self(far)
    }

    pub(super) async fn send_raw(&mut self, frame: &[u8]) {
        // The other end may have closed, which is what some tests want.
        let _ = self.0.write_i32(i32::try_from(frame.len()).unwrap()).await;
        let _ = self.0.write_all(frame).await;
    }

    pub(super) async fn send(&mut self, key: ApiKey, version: i16, correlation_id: i32, body: &[u8]) {
        self.send_raw(&framed(key, version, correlation_id, body)).await;
    }

    /// The next answer; `None` if the connection was closed.
    pub(super) async fn receive(&mut self) -> Option<Bytes> {
        let length = self.0.read_i32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut frame).await.ok()?;
        Some(frame.into())
    }

    /// Sends a request and reads its answer.
    pub(super) async fn call<R: RequestBody>(&mut self, request: &R, version: i16) -> R::Response {
        let key = ApiKey(R::KEY);
        let mut body = BytesMut::new();
        bodies::encode(&mut body, request, key, version).unwrap();
        self.send(key, version, 77, &body).await;
        let frame = self.receive().await.expect("an answer");
        let flexible = apis::find(key).unwrap().has_flexible_response_header(version);
        let (correlation_id, _, body) = header::read_response(frame, flexible).unwrap();
        assert_eq!(correlation_id, 77);
        bodies::decode_response::<R>(body, version).unwrap()
    }
}

/// A request without its length.
pub(super) fn framed(key: ApiKey, version: i16, correlation_id: i32, body: &[u8]) -> BytesMut {
    let header =
        RequestHeader { key, version, correlation_id, client_id: Some(b"test"), extras: Extras::default() };
    let mut frame = BytesMut::new();
    let flexible = apis::find(key).is_some_and(|api| api.is_flexible(version));
    header::write_request(&mut frame, &header, flexible);
    frame.extend_from_slice(body);
    frame
}

/// A topic "t" of one partition on a node that leads it, alone or with node 2 as a follower.
pub(super) struct Bench {
    pub(super) handlers: Arc<Handlers>,
    pub(super) replica: Arc<Replica>,
    pub(super) topic: TopicId,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new(durability: DurabilityLevel, replicas: &[i32]) -> Self {
        let broker = broker();
        let folder = tempfile::tempdir().unwrap();
        let topic = TopicId(Uuid::from_bytes([7; 16]));
        let nodes: Nodes = replicas.iter().map(|node| NodeId(*node)).collect();
        let state = Partition {
            leader: NodeId(1),
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(5),
            replicas: nodes.clone(),
            isr: nodes,
            ..Partition::default()
        };
        broker.publish(Arc::new(image(topic, &state)));
        let parts = LogParts {
            disk: broker.runtime.disk.clone(),
            handles: Handles::new(16),
            clock: broker.runtime.clock.clone(),
            health: Arc::default(),
        };
        let settings = Settings { durability, ..Settings::default() };
        let dir = folder.path().join("t-0");
        broker.runtime.disk.create_dir_all(&dir).unwrap();
        let (log, _) = Log::open(&dir, settings.log, &parts, Opening::unknown()).unwrap();
        let id = PartitionId { topic, index: 0 };
        let place = (NodeId(1), broker.runtime.clock.clone());
        let replica = Replica::new(id, "t".into(), log, settings, place, Duties::default()).unwrap();
        replica.observe(&state, |node| Some(BrokerEpoch(i64::from(node.0) * 100)));
        broker.partitions.insert(replica.clone());
        Self { handlers: Handlers::with_limits(broker, LIMITS), replica, topic, _folder: folder }
    }

    /// Makes what was appended durable.
    pub(super) async fn sync(&self) {
        if let Some(job) = self.replica.begin_sync(SyncDepth::Batches).unwrap() {
            job.run().await.unwrap();
            self.replica.finish_sync(job);
        }
    }

    /// The topic, as a version names it.
    pub(super) fn named(&self, by_id: bool) -> TopicRef {
        if by_id { TopicRef::Id(self.topic) } else { TopicRef::Name(StrBytes::from_static_str("t")) }
    }
}

/// Two brokers, both alive, and the topic.
fn image(topic: TopicId, state: &Partition) -> Image {
    let mut image = Image {
        index: LogIndex(9),
        founding: Some(Founding {
            cluster: Uuid::from_bytes([1; 16]),
            generation: 1,
            durability: DurabilityLevel::Synced,
        }),
        ..Image::default()
    };
    for node in [1, 2] {
        let endpoint = |listener: &str, port| Endpoint {
            listener: listener.to_owned(),
            host: format!("host{node}"),
            port,
            protocol: SecurityProtocol::Plaintext,
        };
        let registered = image::Broker {
            node: NodeId(node),
            epoch: BrokerEpoch(i64::from(node) * 100),
            incarnation: Uuid::from_bytes([u8::try_from(node).unwrap(); 16]),
            directories: Vec::new(),
            endpoints: vec![endpoint("PLAINTEXT", 9092), endpoint("INTERNAL", 9095)],
            rack: None,
            roles: Roles { broker: true, controller: true },
            features: BTreeMap::new(),
            fenced: false,
            shutting_down: false,
        };
        image.brokers.insert(NodeId(node), Arc::new(registered));
    }
    let name: Arc<str> = "t".into();
    image.names.insert(name.clone(), topic);
    let moved = Partition { leader: NodeId(2), ..state.clone() };
    let partitions = [state.clone(), moved].into_iter().collect();
    image.topics.insert(topic, Arc::new(Topic { id: topic, name, partitions, configs: Arc::default() }));
    image
}

/// One batch of `count` records.
pub(super) fn batch(count: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None.into());
    for record in 0..count {
        builder = builder.simple(1_000, None, Some(format!("record {record}").as_bytes()));
    }
    builder.build().unwrap().into()
}
