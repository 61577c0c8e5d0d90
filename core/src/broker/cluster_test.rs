//! Whole nodes in one thread: memory backend, simulated network and disks, real listeners.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use uuid::Uuid;

use super::{
    BoundListeners, Broker, BrokerConfig, BrokerState, Caller, ControllerAt, ForwardError, NodeFacts,
    config::{FoundingConfig, ListenerConfig, ListenerPurpose, Timings},
    observer::Observer,
    service::{self, Peer},
    start::{Constructed, Started},
};
use crate::{
    consensus::{
        Consensus, Leader,
        memory::{Memory, MemoryCluster, MemoryConfig},
    },
    handler::{self, Handlers},
    ids::{DirectoryId, NodeId, base64_id},
    metadata::{
        Image,
        command::{Command, NoOp, SecurityProtocol},
        image::{Configs, DurabilityLevel, Endpoint, Roles},
    },
    protocol::{
        apis::ApiKey,
        bodies::{
            self, BrokerId, BrokerRegistrationRequest, CreateTopicsRequest, CreateTopicsResponse,
            DeleteTopicsRequest, create_topics_request::CreatableTopic,
            delete_topics_request::DeleteTopicState, text, topic_name,
        },
        errors::ErrorCode,
        header::Extras,
    },
    runtime::{
        Clock, Listener, Rng, Runtime, TaskScope,
        simulated::{Keep, SimulatedDisk, SimulatedNetwork},
    },
};

const ELECTION: Duration = Duration::from_millis(500);

/// A world with some nodes in it.
pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) network: SimulatedNetwork,
    pub(super) cluster: MemoryCluster,
    pub(super) nodes: BTreeMap<i32, Node>,
    pub(super) disks: BTreeMap<i32, SimulatedDisk>,
    lives: u64,
}

pub(super) struct Node {
    pub(super) started: Started,
    pub(super) machine: String,
    pub(super) tasks: TaskScope,
    pub(super) connections: TaskScope,
}

impl World {
    fn new(voters: i32) -> Self {
        let (clock, _) = Clock::simulated(1_700_000_000_000);
        let tasks = TaskScope::single_threaded();
        let network = SimulatedNetwork::new(clock.clone(), Rng::seeded(1), tasks);
        network.set_delay(Duration::from_micros(100)..Duration::from_millis(1));
        let cluster =
            MemoryCluster::new(MemoryConfig::timed(voters, ELECTION), clock.clone(), Rng::seeded(2));
        Self { clock, network, cluster, nodes: BTreeMap::new(), disks: BTreeMap::new(), lives: 0 }
    }

    /// Three nodes that are all let in.
    pub(super) async fn of_three() -> Self {
        let mut world = Self::new(3);
        for node in 1..=3 {
            world.start(node).await;
        }
        world.until("all brokers run", |image| live(image) == 3).await;
        world
    }

    /// Starts a process of `node` on its machine.
    pub(super) async fn start(&mut self, node: i32) {
        let machine = format!("node{node}");
        self.lives += 1;
        let disk = self.disks.entry(node).or_insert_with(|| {
            let disk = SimulatedDisk::new(self.clock.clone(), Rng::seeded(u64::try_from(node).unwrap()));
            disk.mount("/meta".as_ref()).unwrap();
            disk
        });
        let tasks = TaskScope::single_threaded();
        let runtime = Runtime {
            clock: self.clock.clone(),
            rng: Rng::seeded(1000 + self.lives),
            disk: Arc::new(disk.clone()),
            network: self.network.machine(&machine),
            tasks: tasks.clone(),
        };
        let consensus: Box<dyn Consensus> = if node <= 3 {
            Box::new(Memory::new(&self.cluster, NodeId(node)))
        } else {
            let directory = facts(node).directories[0];
            Box::new(Observer::new(runtime.clone(), NodeId(node), directory, config(node).voters))
        };
        let constructed = Constructed::new(config(node), runtime, consensus);
        let connections = TaskScope::single_threaded();
        let bound = bind(constructed.broker(), &machine, &connections);
        let started = constructed.bound(bound).start(facts(node)).await.unwrap();
        self.nodes.insert(node, Node { started, machine, tasks, connections });
    }

    pub(super) fn broker(&self, node: i32) -> &Arc<Broker> {
        self.nodes[&node].started.broker()
    }

    /// The process of a node ends, as by `kill -9`.
    pub(super) fn kill(&mut self, node: i32) {
        let gone = self.nodes.remove(&node).unwrap();
        gone.tasks.kill();
        gone.connections.kill();
        self.network.kill(&gone.machine);
        self.cluster.kill(NodeId(node));
        self.disks[&node].crash(Keep::All);
    }

    pub(super) fn cut(&self, node: i32) {
        for other in (1..=3).filter(|other| *other != node) {
            self.network.cut(&format!("node{node}"), &format!("node{other}"));
            self.network.cut(&format!("node{other}"), &format!("node{node}"));
        }
    }

    /// Waits until the image of every node is as wanted; returns how long it took.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Image) -> bool) -> Duration {
        let begun = self.clock.now();
        loop {
            let mut images = self.nodes.values().map(|node| node.started.broker().image_arc());
            let waited = self.clock.now().since(begun);
            if images.all(|image| wanted(&image)) {
                return waited;
            }
            assert!(
                waited < Duration::from_secs(30),
                "{what}: {:#?}",
                self.nodes[&self.controller()].started.broker().image()
            );
            self.clock.sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn create(&self, at: i32, name: &str) -> Result<CreateTopicsResponse, ForwardError> {
        let topic = CreatableTopic::default()
            .with_name(topic_name(name.to_owned()))
            .with_num_partitions(3)
            .with_replication_factor(3);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
        let deadline = self.clock.now().plus(Duration::from_secs(5));
        self.broker(at).forward(&request, &caller(), deadline).await
    }

    pub(super) fn controller(&self) -> i32 {
        self.cluster.leader().unwrap().0.0
    }
}

pub(super) fn caller() -> Caller {
    Caller { principal: "User:ANONYMOUS".to_owned(), address: "127.0.0.1".parse().unwrap() }
}

pub(super) fn live(image: &Image) -> usize {
    image.live_brokers().count()
}

fn facts(node: i32) -> NodeFacts {
    let id = Uuid::from_u64_pair(9, u64::try_from(node).unwrap());
    NodeFacts { directories: vec![DirectoryId(id)], ..NodeFacts::default() }
}

fn config(node: i32) -> BrokerConfig {
    let listener = |name: &str, purpose| ListenerConfig {
        name: name.to_owned(),
        protocol: SecurityProtocol::Plaintext,
        purpose,
    };
    let internal = listener("INTERNAL", ListenerPurpose::InterBroker);
    let controller = listener("CONTROLLER", ListenerPurpose::Controller);
    BrokerConfig {
        node: NodeId(node),
        roles: Roles { broker: true, controller: node <= 3 },
        listeners: if node <= 3 { vec![internal, controller] } else { vec![internal] },
        inter_broker_listener: "INTERNAL".to_owned(),
        voters: (1..=3).map(|node| (NodeId(node), format!("node{node}:9093"))).collect(),
        rack: None,
        log_dirs: vec!["/data".into()],
        metadata_dir: "/meta/data".into(),
        backend: "memory".to_owned(),
        founding: FoundingConfig { durability: DurabilityLevel::Synced, defaults: Configs::new() },
        file: Configs::new(),
        timings: Timings::default(),
    }
}

/// Binds a broker's listeners and serves what connects.
fn bind(broker: &Arc<Broker>, machine: &str, connections: &TaskScope) -> BoundListeners {
    let handlers = Handlers::new(broker.clone());
    let mut bound = BoundListeners::default();
    for (port, listener) in (9092u16..).zip(broker.config.listeners.clone()) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let sockets = broker.runtime.network.listen(address).unwrap();
        if listener.purpose == ListenerPurpose::Controller {
            bound.controller = Some((machine.to_owned(), port));
        } else {
            let (listener, host) = (listener.name.clone(), machine.to_owned());
            let protocol = SecurityProtocol::Plaintext;
            bound.endpoints.push(Endpoint { listener, host, port, protocol });
        }
        connections.spawn(accept(sockets, handlers.clone(), connections.clone(), listener));
    }
    bound
}

async fn accept(mut sockets: Listener, handlers: Arc<Handlers>, tasks: TaskScope, listener: ListenerConfig) {
    loop {
        let accepted = tokio::select! { biased;
            () = tasks.stopping() => return,
            accepted = sockets.accept() => accepted,
        };
        let Ok((connection, peer)) = accepted else { return };
        let (handlers, scope, listener) = (handlers.clone(), tasks.clone(), listener.clone());
        tasks.spawn(async move { handler::serve(handlers, scope, connection, peer, &listener).await });
    }
}

#[tokio::test(start_paused = true)]
async fn every_broker_is_let_in_and_a_topic_is_seen_where_it_was_made() {
    let world = World::of_three().await;
    assert_eq!(world.broker(1).image().brokers.len(), 3);
    for at in 1..=3 {
        let name = format!("topic-{at}");
        let response = world.create(at, &name).await.unwrap();
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
        assert!(world.broker(at).image().topic(&name).is_some(), "node {at} does not see what it made");
    }
    let again = world.create(2, "topic-1").await.unwrap();
    assert_eq!(again.topics[0].error_code, ErrorCode::TOPIC_ALREADY_EXISTS.0);
    let topic = DeleteTopicState::default().with_name(Some(topic_name("topic-1")));
    let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
    let deadline = world.clock.now().plus(Duration::from_secs(5));
    let deleted = world.broker(3).forward(&request, &caller(), deadline).await.unwrap();
    assert_eq!(deleted.responses[0].error_code, 0);
    assert!(world.broker(3).image().topic("topic-1").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_killed_broker_is_fenced_before_its_session_ends_and_let_in_again() {
    let mut world = World::of_three().await;
    world.create(1, "a").await.unwrap();
    let victim = world.controller() % 3 + 1;
    world.kill(victim);
    let took = world.until("it is fenced", |image| live(image) == 2).await;
    assert!(took < Duration::from_millis(300), "{took:?}");
    let led = |image: &Image| image.topic("a").unwrap().partitions.iter().all(|p| p.leader.0 != victim);
    assert!(led(&world.broker(world.controller()).image()));
    world.start(victim).await;
    world.until("it is let in", |image| live(image) == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_cut_off_is_fenced_when_its_session_ends() {
    let world = World::of_three().await;
    let victim = world.controller() % 3 + 1;
    world.cut(victim);
    let took = world.until("it is fenced", |image| live(image) == 2).await;
    assert!(took > Duration::from_millis(1200) && took < Duration::from_millis(1600), "{took:?}");
    world.network.heal_all();
    world.until("it is let in", |image| live(image) == 3).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_controller_dies_another_one_is_up_and_fences_it_at_once() {
    let mut world = World::of_three().await;
    let victim = world.controller();
    let other = victim % 3 + 1;
    world.kill(victim);
    let took = world.until("another is the controller", |image| live(image) == 2).await;
    assert!(took < ELECTION * 3 + Duration::from_millis(700), "{took:?}");
    let response = world.create(other, "a").await.unwrap();
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    assert!(world.broker(other).image().topic("a").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_leader_changes_found_the_cluster_once() {
    let world = World::of_three().await;
    let founded = world.broker(1).image().founding;
    for round in 0..1000 {
        world.cluster.elect(NodeId(round % 3 + 1));
        if round % 7 == 0 {
            world.clock.sleep(Duration::from_millis(50)).await;
        }
    }
    let (node, epoch) = world.cluster.leader().unwrap();
    let up = |image: &Image| image.controller.as_ref().is_some_and(|c| (c.node, c.epoch) == (node, epoch));
    world.until("the last leader is up", up).await;
    assert_eq!(world.broker(2).image().founding, founded);
    world.until("everybody is in", |image| live(image) == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stops_in_order_leads_nothing_before_it_goes() {
    let mut world = World::of_three().await;
    world.create(1, "a").await.unwrap();
    let node = world.nodes.remove(&2).unwrap();
    let broker = node.started.broker().clone();
    let begun = world.clock.now();
    node.started.stop().await;
    assert_eq!(*broker.state().borrow(), BrokerState::Stopped);
    let took = world.clock.now().since(begun);
    assert!(took < Duration::from_secs(1), "{took:?}");
    world.until("it is fenced", |image| image.brokers[&NodeId(2)].fenced).await;
    let image = world.broker(1).image_arc();
    assert!(image.topic("a").unwrap().partitions.iter().all(|p| p.leader.0 != 2 && p.has_leader()));
}

#[tokio::test(start_paused = true)]
async fn a_single_node_founds_itself_and_stops_in_order() {
    let mut world = World::new(1);
    world.start(1).await;
    world.until("it runs", |image| live(image) == 1).await;
    let node = world.nodes.remove(&1).unwrap();
    let begun = world.clock.now();
    node.started.stop().await;
    let took = world.clock.now().since(begun);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_place_is_taken_ends_and_never_takes_it_back() {
    let world = World::of_three().await;
    let old = world.broker(3).broker_epoch();
    let controller = world.broker(world.controller());
    let incarnation = Uuid::from_u64_pair(1, 1);
    let request = BrokerRegistrationRequest::default()
        .with_broker_id(BrokerId(3))
        .with_cluster_id(text(base64_id(controller.image().founding.unwrap().cluster)))
        .with_incarnation_id(incarnation)
        .with_features(super::registration::features())
        .with_log_dirs(vec![facts(3).directories[0].0]);
    let mut body = BytesMut::new();
    bodies::encode(&mut body, &request, ApiKey::BROKER_REGISTRATION, 4).unwrap();
    let peer = Peer { node: NodeId(3), incarnation };
    let extras = Extras { controller_epoch: Some(controller.image().epoch), image_index: None };
    let api = (ApiKey::BROKER_REGISTRATION, 4);
    service::serve(controller, &peer, api, body.freeze(), &extras).await.unwrap();
    world.until("it is replaced", |image| image.broker_epoch(NodeId(3)) > old).await;
    let mut fatal = world.broker(3).fatal();
    let waiting = fatal.wait_for(Option::is_some);
    let reason = world.clock.timeout(Duration::from_secs(2), waiting).await.unwrap().unwrap().clone();
    assert!(reason.unwrap().contains("another process has registered as node 3"));
    let new = world.broker(1).image().broker_epoch(NodeId(3));
    world.clock.sleep(Duration::from_secs(5)).await;
    assert_eq!(world.broker(1).image().broker_epoch(NodeId(3)), new);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_hears_nobody_resigns_once_and_fences_nobody() {
    let world = World::of_three().await;
    let deaf = world.controller();
    // It still reaches the log, as a node can reach etcd and no broker.
    world.cut(deaf);
    let taken = |image: &Image| image.controller.as_ref().is_some_and(|c| c.node.0 != deaf);
    world.until("another is the controller", taken).await;
    let others = |node: NodeId| node.0 != deaf;
    let image = world.broker(deaf).image_arc();
    assert!(image.brokers.values().all(|broker| !others(broker.node) || !broker.fenced));
    let fenced = |image: &Image| image.brokers.values().filter(|b| b.fenced).count() == 1;
    world.until("the deaf one is fenced", fenced).await;
    assert!(world.broker(1).image().brokers[&NodeId(deaf)].fenced);
    world.network.heal_all();
    world.until("everybody is in", |image| live(image) == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_silences_the_broker() {
    let world = World::of_three().await;
    let broker = world.broker(2);
    let hung = broker.syncs.begin(world.clock.now());
    world.until("it is fenced", |image| image.brokers[&NodeId(2)].fenced).await;
    drop(hung);
    world.until("it is let in", |image| live(image) == 3).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_requests_wait_and_say_that_there_is_no_controller() {
    let mut world = World::of_three().await;
    world.kill(2);
    world.kill(3);
    let mut at = world.broker(1).controller_at();
    at.wait_for(|at| *at == ControllerAt::Unknown).await.unwrap();
    let begun = world.clock.now();
    assert_eq!(world.create(1, "a").await.unwrap_err(), ForwardError::NoController);
    assert!(world.clock.now().since(begun) > Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn the_image_is_durable_and_a_restart_goes_on_from_it() {
    let mut world = World::of_three().await;
    world.create(1, "a").await.unwrap();
    let leader = world.broker(world.controller()).clone();
    let Some(Leader::Me { .. }) =
        leader.consensus().unwrap().leader_events().last().map(|event| event.leader)
    else {
        panic!("no leader");
    };
    let epoch = leader.image().epoch;
    for _ in 0..10_500 {
        leader.consensus().unwrap().propose(epoch, Command::NoOp(NoOp {}).to_entry()).await.unwrap();
    }
    let index = leader.image().index;
    world.until("all have it", |image| image.index >= index).await;
    world.clock.sleep(Duration::from_secs(1)).await;
    let before = world.broker(3).image_arc();
    world.kill(3);
    let disk = world.disks[&3].clone();
    let kept = super::image_file::load(&disk, "/meta/data".as_ref()).unwrap();
    assert!(kept.index.0 >= 10_000 && kept.topic("a").is_some());
    world.start(3).await;
    assert!(world.broker(3).image().topic("a").is_some(), "known before anybody was asked");
    world.until("it has caught up", |image| image.index >= before.index).await;
    world.start(4).await;
    world.until("an observer has taken a snapshot and is in", |image| live(image) == 4).await;
    assert!(world.broker(4).image().topic("a").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_no_voter_follows_and_serves_and_survives_its_voter() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.until("the observer is in", |image| live(image) == 4).await;
    let response = world.create(4, "a").await.unwrap();
    assert_eq!(response.topics[0].error_code, 0);
    assert!(world.broker(4).image().topic("a").is_some());
    for victim in 1..=3 {
        world.kill(victim);
        world.until("another one is asked", |image| live(image) == 3).await;
        world.start(victim).await;
        world.until("all are in", |image| live(image) == 4).await;
    }
    let response = world.create(4, "b").await.unwrap();
    assert_eq!(response.topics[0].error_code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_is_told_to_the_cluster_once() {
    let mut world = World::of_three().await;
    let victim = world.controller() % 3 + 1;
    world.kill(victim);
    world.disks[&victim].crash(Keep::None);
    world.until("it is fenced", |image| live(image) == 2).await;
    world.start(victim).await;
    assert!(world.broker(victim).facts().unwrap().page_cache_lost);
    world.until("it is let in", |image| live(image) == 3).await;
    world.clock.sleep(Duration::from_millis(100)).await;
    world.kill(victim);
    world.until("it is fenced", |image| live(image) == 2).await;
    world.start(victim).await;
    assert!(!world.broker(victim).facts().unwrap().page_cache_lost, "the cluster knows");
}
