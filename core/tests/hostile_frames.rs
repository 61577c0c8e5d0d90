//! Whatever a peer sends, the broker answers or closes the connection: no panic, no allocation beyond a small multiple
//! of what was sent, no other connection touched. One test thread, because allocations are counted.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use peak_alloc::PeakAlloc;
use quorate_core::{
    broker::{
        BoundListeners, BrokerConfig, BrokerState, ControllerAt, NodeFacts,
        config::{FoundingConfig, ListenerConfig, ListenerPurpose, Timings},
        start::{Constructed, Started},
    },
    consensus::memory::{Memory, MemoryCluster, MemoryConfig},
    handler::{self, Handlers, Limits},
    ids::{BrokerEpoch, DirectoryId, NodeId},
    metadata::{
        command::SecurityProtocol,
        image::{Configs, DurabilityLevel, Endpoint, Roles},
    },
    protocol::{
        apis::{self, APIS, Api, ApiKey, Purposes},
        bodies::{self, *},
        fetch::FetchRequest,
        header::{self, Extras, RequestHeader},
        internal::{HelloRequest, Purpose},
        produce::ProduceRequest,
    },
    runtime::{
        Clock, Connection, Rng, Runtime, TaskScope,
        simulated::{SimulatedDisk, SimulatedNetwork},
    },
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use uuid::Uuid;

#[global_allocator]
static ALLOCATIONS: PeakAlloc = PeakAlloc;

const LIMITS: Limits = Limits {
    request_bytes: 1 << 20,
    queued_bytes: 4 << 20,
    fetch_bytes: 1 << 20,
    idle: Duration::from_secs(600),
};

/// What one request may cost besides a multiple of its bytes: buffers of the connection and the fixed answers.
const FIXED_BYTES: usize = 1 << 20;
/// What one byte of a malformed request may cost.
const TIMES: usize = 64;

/// A node that runs alone, with a loaded image.
struct Node {
    started: Started,
    handlers: Arc<Handlers>,
    tasks: TaskScope,
}

impl Node {
    async fn start() -> Self {
        let (clock, _) = Clock::simulated(1_700_000_000_000);
        let tasks = TaskScope::single_threaded();
        let disk = SimulatedDisk::new(clock.clone(), Rng::seeded(1));
        disk.mount("/meta".as_ref()).unwrap();
        disk.mount("/data".as_ref()).unwrap();
        let network = SimulatedNetwork::new(clock.clone(), Rng::seeded(2), TaskScope::single_threaded());
        let runtime = Runtime {
            clock: clock.clone(),
            rng: Rng::seeded(3),
            disk: Arc::new(disk),
            network: network.machine("node1"),
            tasks: tasks.clone(),
        };
        let election = Duration::from_millis(500);
        let cluster = MemoryCluster::new(MemoryConfig::timed(1, election), clock, Rng::seeded(4));
        let constructed = Constructed::new(config(), runtime, Box::new(Memory::new(&cluster, NodeId(1))));
        let handlers = Handlers::with_limits(constructed.broker().clone(), LIMITS);
        let endpoint = |name: &str, port| Endpoint {
            listener: name.to_owned(),
            host: "node1".to_owned(),
            port,
            protocol: SecurityProtocol::Plaintext,
        };
        let bound = BoundListeners {
            endpoints: vec![endpoint("PLAINTEXT", 9092), endpoint("INTERNAL", 9095)],
            controller: Some(("node1".to_owned(), 9093)),
        };
        let facts =
            NodeFacts { directories: vec![DirectoryId(Uuid::from_bytes([5; 16]))], ..NodeFacts::default() };
        let started = constructed.bound(bound).start(facts).await.unwrap();
        let mut state = started.broker().state();
        state.wait_for(|state| *state == BrokerState::Running).await.unwrap();
        Self { started, handlers, tasks }
    }

    fn connect(&self, listener: &str) -> Peer {
        let (near, far) = tokio::io::duplex(16 << 10);
        let listener = self.started.broker().config.listener(listener).unwrap().clone();
        let (handlers, tasks) = (self.handlers.clone(), self.tasks.clone());
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        self.tasks.spawn(async move {
            handler::serve(handlers, tasks, Connection::Memory(near), address, &listener).await;
        });
        Peer(far)
    }

    /// A connection to the listener where an API is served, after a hello where one is needed.
    async fn connect_for(&self, api: &Api) -> Peer {
        if api.listeners.meets(Purposes::CLIENTS) {
            return self.connect("PLAINTEXT");
        }
        let mut peer = self.connect("CONTROLLER");
        if api.key != ApiKey::HELLO {
            let mut body = BytesMut::new();
            hello(self).encode(&mut body);
            peer.send(&framed(ApiKey::HELLO, 0, 1, &body)).await;
            assert!(peer.receive().await.is_some());
        }
        peer
    }

    /// A client that does as it should is served as ever.
    async fn serves(&self) {
        let mut peer = self.connect("PLAINTEXT");
        peer.send(&framed(ApiKey::API_VERSIONS, 0, 7, &[])).await;
        assert!(peer.receive().await.is_some());
    }
}

fn hello(node: &Node) -> HelloRequest {
    HelloRequest {
        cluster: Uuid::nil(),
        node: NodeId(1),
        directory: DirectoryId::default(),
        incarnation: node.started.broker().incarnation,
        broker_epoch: BrokerEpoch::NONE,
        purpose: Purpose::Controller,
    }
}

fn config() -> BrokerConfig {
    let listener = |name: &str, purpose| ListenerConfig {
        name: name.to_owned(),
        protocol: SecurityProtocol::Plaintext,
        purpose,
    };
    BrokerConfig {
        node: NodeId(1),
        roles: Roles { broker: true, controller: true },
        listeners: vec![
            listener("PLAINTEXT", ListenerPurpose::Client),
            listener("INTERNAL", ListenerPurpose::InterBroker),
            listener("CONTROLLER", ListenerPurpose::Controller),
        ],
        inter_broker_listener: "INTERNAL".to_owned(),
        voters: BTreeMap::from([(NodeId(1), "node1:9093".to_owned())]),
        rack: None,
        log_dirs: vec!["/data".into()],
        metadata_dir: "/meta".into(),
        backend: "memory".to_owned(),
        founding: FoundingConfig { durability: DurabilityLevel::Synced, defaults: Configs::new() },
        file: Configs::new(),
        timings: Timings::default(),
    }
}

struct Peer(DuplexStream);

impl Peer {
    /// Sends a frame; the other end may have closed.
    async fn send(&mut self, frame: &[u8]) {
        let _ = self.0.write_all(&prefixed(frame)).await;
    }

    /// The next answer; `None` once the connection is closed.
    async fn receive(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.0.read_i32().await.ok()?).unwrap();
        let mut frame = vec![0; length];
        self.0.read_exact(&mut frame).await.ok()?;
        Some(frame.into())
    }
}

fn prefixed(frame: &[u8]) -> Vec<u8> {
    [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat()
}

fn framed(key: ApiKey, version: i16, correlation_id: i32, body: &[u8]) -> BytesMut {
    let header =
        RequestHeader { key, version, correlation_id, client_id: Some(b"x"), extras: Extras::default() };
    let mut frame = BytesMut::new();
    header::write_request(&mut frame, &header, apis::find(key).is_some_and(|api| api.is_flexible(version)));
    frame.extend_from_slice(body);
    frame
}

/// A request of an API, to the controller with the epoch that it leads in.
fn request(node: &Node, api: &Api, version: i16, body: &[u8]) -> BytesMut {
    let epoch = match *node.started.broker().controller_at().borrow() {
        ControllerAt::Here { epoch } if api.listeners == Purposes::CONTROLLER => Some(epoch),
        _ => None,
    };
    let extras = Extras { controller_epoch: epoch, image_index: None };
    let header = RequestHeader { key: api.key, version, correlation_id: 1, client_id: Some(b"x"), extras };
    let mut frame = BytesMut::new();
    header::write_request(&mut frame, &header, api.is_flexible(version));
    frame.extend_from_slice(body);
    frame
}

/// Sends a frame on a connection of its own and has whatever comes of it; returns the answer, if there is one.
async fn outcome(node: &Node, api: &Api, frame: &[u8]) -> Option<Bytes> {
    let mut peer = node.connect_for(api).await;
    let before = ALLOCATIONS.current_usage();
    ALLOCATIONS.reset_peak_usage();
    peer.send(frame).await;
    let answer = peer.receive().await;
    let cost = ALLOCATIONS.peak_usage().saturating_sub(before);
    let allowed = FIXED_BYTES + TIMES * frame.len();
    assert!(cost <= allowed, "{} of {} bytes cost {cost} bytes", api.key, frame.len());
    answer
}

#[tokio::test(start_paused = true)]
async fn a_hostile_peer_hurts_nobody_but_itself() {
    let node = Node::start().await;
    frames_of_absurd_lengths(&node).await;
    headers_that_are_none(&node).await;
    bodies_of_garbage(&node).await;
    counts_without_elements(&node).await;
    valid_requests_cut_and_mangled(&node).await;
    floods(&node).await;
    node.serves().await;
    node.tasks.kill();
}

async fn frames_of_absurd_lengths(node: &Node) {
    for start in [
        &(-1i32).to_be_bytes()[..],
        &i32::MIN.to_be_bytes(),
        &i32::MAX.to_be_bytes(),
        &((1i32 << 20) + 1).to_be_bytes(),
        &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\0\0\0",
        b"\0\0\0\x03abc",
    ] {
        let mut peer = node.connect("PLAINTEXT");
        let before = ALLOCATIONS.current_usage();
        ALLOCATIONS.reset_peak_usage();
        let _ = peer.0.write_all(start).await;
        assert_eq!(peer.receive().await, None, "{start:?}");
        assert!(ALLOCATIONS.peak_usage().saturating_sub(before) < FIXED_BYTES, "{start:?}");
    }
    // The largest length that is taken, and nothing behind it: memory comes with the bytes.
    let mut peer = node.connect("PLAINTEXT");
    let before = ALLOCATIONS.current_usage();
    ALLOCATIONS.reset_peak_usage();
    peer.0.write_all(&(1i32 << 20).to_be_bytes()).await.unwrap();
    peer.0.write_all(&[0; 100]).await.unwrap();
    node.started.broker().runtime.clock.sleep(Duration::from_secs(1)).await;
    assert!(ALLOCATIONS.peak_usage().saturating_sub(before) < 256 << 10);
    // Cut at every byte.
    let whole = prefixed(&framed(ApiKey::API_VERSIONS, 3, 1, &[2, b'a', 2, b'b', 0]));
    for cut in 0..whole.len() {
        let mut peer = node.connect("PLAINTEXT");
        peer.0.write_all(&whole[..cut]).await.unwrap();
        peer.0.shutdown().await.unwrap();
        assert_eq!(peer.receive().await, None, "cut at {cut}");
    }
    node.serves().await;
}

async fn headers_that_are_none(node: &Node) {
    let versions = apis::find(ApiKey::API_VERSIONS).unwrap();
    let mut long = framed(ApiKey::METADATA, 1, 9, &[]);
    long.truncate(8);
    long.put_i16(i16::MAX);
    long.extend_from_slice(&[0xff; i16::MAX as usize]);
    long.put_i32(0);
    assert!(
        outcome(node, versions, &long).await.is_some(),
        "a long client id that is not UTF-8 is only a name"
    );
    let mut negative = framed(ApiKey::METADATA, 1, 9, &[]);
    negative.truncate(8);
    negative.put_i16(-2);
    assert_eq!(outcome(node, versions, &negative).await, None);
    for (key, version) in [(-1, 0), (999, 0), (i16::MAX, 0), (3, -1), (3, 99), (0, 2), (1, 3), (58, 0)] {
        let frame = framed(ApiKey(key), version, 9, &[0; 20]);
        assert_eq!(outcome(node, versions, &frame).await, None, "{key} {version}");
    }
    for version in [-1, 6, i16::MIN, i16::MAX] {
        let answer = outcome(node, versions, &framed(ApiKey::API_VERSIONS, version, 9, &[0xff; 64])).await;
        assert_eq!(answer.unwrap()[..6], [0, 0, 0, 9, 0, 35]);
    }
    // Tags of the header: too many, out of order, longer than the frame.
    for tags in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[2, 5, 0, 1, 0], &[1, 0, 0xff, 0xff, 0xff, 0xff, 0x07]]
    {
        let mut frame = framed(ApiKey::METADATA, 1, 9, &[]);
        frame[2..4].copy_from_slice(&12i16.to_be_bytes());
        frame.extend_from_slice(tags);
        assert_eq!(outcome(node, versions, &frame).await, None);
    }
    node.serves().await;
}

async fn bodies_of_garbage(node: &Node) {
    let rng = Rng::seeded(5);
    for api in APIS {
        for version in api.min..=api.max {
            for filler in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                for length in [0, 1, 4, 63, 1000] {
                    outcome(node, api, &request(node, api, version, &vec![filler; length])).await;
                }
            }
            for _ in 0..20 {
                let length = usize::try_from(rng.below(200)).unwrap();
                let body: Vec<u8> = (0..length).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
                outcome(node, api, &request(node, api, version, &body)).await;
            }
        }
    }
    node.serves().await;
}

/// A count in every place of a short body.
async fn counts_without_elements(node: &Node) {
    let counts: [&[u8]; 7] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xfe],
        &[0x00, 0xff, 0xff, 0xff],
        &[0x01, 0x00, 0x00, 0x00],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0x7f],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
    ];
    for api in APIS {
        for version in [api.min, api.max] {
            for at in 0..40 {
                for count in counts {
                    let body = [&vec![0; at][..], count, &[0; 30]].concat();
                    outcome(node, api, &request(node, api, version, &body)).await;
                }
            }
        }
    }
    node.serves().await;
}

/// Bodies that another codec makes, at every version.
fn valid_bodies(version: i16, key: ApiKey) -> Option<BytesMut> {
    let mut body = BytesMut::new();
    macro_rules! default_of {
        ($($key:ident => $request:ty,)*) => {
            match key {
                ApiKey::PRODUCE => ProduceRequest { acks: 1, ..ProduceRequest::default() }.encode(&mut body, version),
                ApiKey::FETCH => FetchRequest::default().encode(&mut body, version),
                // Software, its version, no cluster, no node, no tags.
                ApiKey::API_VERSIONS if version >= 3 => {
                    body.extend_from_slice(&[2, b'a', 2, b'b']);
                    if version >= 5 {
                        body.extend_from_slice(&[0, 0xff, 0xff, 0xff, 0xff]);
                    }
                    body.put_u8(0);
                }
                $(ApiKey::$key => bodies::encode(&mut body, &<$request>::default(), key, version).ok()?,)*
                _ => return None,
            }
        };
    }
    default_of! {
        LIST_OFFSETS => ListOffsetsRequest,
        METADATA => MetadataRequest,
        API_VERSIONS => ApiVersionsRequest,
        CREATE_TOPICS => CreateTopicsRequest,
        DELETE_TOPICS => DeleteTopicsRequest,
        INIT_PRODUCER_ID => InitProducerIdRequest,
        OFFSET_FOR_LEADER_EPOCH => OffsetForLeaderEpochRequest,
        DESCRIBE_CONFIGS => DescribeConfigsRequest,
        INCREMENTAL_ALTER_CONFIGS => IncrementalAlterConfigsRequest,
        DESCRIBE_QUORUM => DescribeQuorumRequest,
        DESCRIBE_CLUSTER => DescribeClusterRequest,
        DESCRIBE_TOPIC_PARTITIONS => DescribeTopicPartitionsRequest,
        ALTER_PARTITION => AlterPartitionRequest,
        ALLOCATE_PRODUCER_IDS => AllocateProducerIdsRequest,
    }
    Some(body)
}

async fn valid_requests_cut_and_mangled(node: &Node) {
    let rng = Rng::seeded(6);
    for api in APIS {
        for version in api.min..=api.max {
            let Some(body) = valid_bodies(version, api.key) else { continue };
            let whole = request(node, api, version, &body);
            assert!(outcome(node, api, &whole).await.is_some(), "{} v{version} is answered", api.key);
            let longer = [&whole[..], b"x"].concat();
            assert_eq!(
                outcome(node, api, &longer).await,
                None,
                "{} v{version} with bytes behind it",
                api.key
            );
            for cut in 0..body.len() {
                let frame = request(node, api, version, &body[..cut]);
                assert_eq!(outcome(node, api, &frame).await, None, "{} v{version} cut at {cut}", api.key);
            }
            for _ in 0..30 {
                let mut mangled = body.clone();
                for _ in 0..=rng.below(3) {
                    let at = usize::try_from(rng.below(mangled.len() as u64)).unwrap();
                    if let Some(byte) = mangled.get_mut(at) {
                        *byte = u8::try_from(rng.below(256)).unwrap();
                    }
                }
                outcome(node, api, &request(node, api, version, &mangled)).await;
            }
        }
    }
    node.serves().await;
}

async fn floods(node: &Node) {
    let metadata = apis::find(ApiKey::METADATA).unwrap();
    // Empty names, more than a request may have: two bytes each.
    let mut names = BytesMut::new();
    names.put_i32(500_000);
    names.put_bytes(0, 1_000_000);
    assert_eq!(outcome(node, metadata, &framed(ApiKey::METADATA, 1, 1, &names)).await, None);
    // As many as it may have: answered, at a cost that has a bound.
    let mut names = BytesMut::new();
    names.put_i32(100_000);
    names.put_bytes(0, 200_000);
    let mut peer = node.connect("PLAINTEXT");
    let before = ALLOCATIONS.current_usage();
    ALLOCATIONS.reset_peak_usage();
    peer.send(&framed(ApiKey::METADATA, 1, 1, &names)).await;
    assert!(peer.receive().await.is_some());
    assert!(ALLOCATIONS.peak_usage().saturating_sub(before) < 64 << 20);
    // A hundred thousand requests at once, on one connection, to a client that reads late.
    let one = prefixed(&framed(ApiKey::API_VERSIONS, 0, 1, &[]));
    let (read, mut write) = tokio::io::split(node.connect("PLAINTEXT").0);
    let before = ALLOCATIONS.current_usage();
    ALLOCATIONS.reset_peak_usage();
    let send = async {
        for _ in 0..100_000 {
            write.write_all(&one).await.unwrap();
        }
        write
    };
    let receive = async {
        node.started.broker().runtime.clock.sleep(Duration::from_secs(5)).await;
        assert!(ALLOCATIONS.peak_usage().saturating_sub(before) < 2 << 20, "what is not read is not made");
        let mut read = tokio::io::BufReader::new(read);
        for _ in 0..100_000 {
            let length = read.read_i32().await.unwrap();
            let mut frame = vec![0; usize::try_from(length).unwrap()];
            read.read_exact(&mut frame).await.unwrap();
        }
    };
    tokio::join!(send, receive);
    assert!(ALLOCATIONS.peak_usage().saturating_sub(before) < 4 << 20);
}
