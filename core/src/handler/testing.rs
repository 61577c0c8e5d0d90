//! What the tests of handlers share: a broker that has not started, and connections to its handlers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::{Handlers, Limits, serve};
use crate::{
    broker::{
        Broker, BrokerConfig,
        config::{FoundingConfig, ListenerConfig, ListenerPurpose, Timings},
    },
    ids::NodeId,
    metadata::{
        command::SecurityProtocol,
        image::{Configs, DurabilityLevel, Roles},
    },
    protocol::{
        apis::{self, ApiKey},
        bodies::{self, RequestBody},
        header::{self, Extras, RequestHeader},
    },
    runtime::{Clock, Connection, RealDisk, RealNetwork, Rng, Runtime, TaskScope},
};

pub(super) const LIMITS: Limits =
    Limits { request_bytes: 1 << 20, queued_bytes: 4 << 20, idle: Duration::from_secs(600) };

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
