//! The clients of a simulated cluster: they speak the protocol over the simulated network, and write down what they
//! were told.

mod consumer;
mod history;
mod producer;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(super) use history::History;
use parking_lot::Mutex;
use quorate_core::{
    ids::{LeaderEpoch, TopicId},
    protocol::{
        bodies::{
            CreateTopicsRequest, MetadataRequest, MetadataResponse, create_topics_request::CreatableTopic,
            metadata_request::MetadataRequestTopic, topic_name,
        },
        client::Client,
        errors::ErrorCode,
    },
    runtime::{Clock, Rng, Runtime},
};

use super::node::{Shared, name};

/// The topic that everybody writes to and reads from.
pub(super) const TOPIC: &str = "orders";
/// Its partitions.
pub(super) const PARTITIONS: i32 = 2;

/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What all clients share.
pub(super) type Told = Arc<Mutex<History>>;

/// Starts the clients on their own machines.
pub(super) fn start(shared: &Shared, disk: &Arc<dyn quorate_core::runtime::Disk>) -> Told {
    let told = Told::default();
    for number in 0..3 {
        let wire = Wire::new(shared, disk, &format!("producer{number}"), u64::from(number));
        let producer = producer::Producer::new(number, wire, told.clone());
        shared.tasks.spawn(producer.run());
    }
    for partition in 0..PARTITIONS {
        for again in [false, true] {
            let number = u64::from(partition.unsigned_abs()) + if again { 200 } else { 100 };
            let wire = Wire::new(shared, disk, &format!("consumer{number}"), number);
            let consumer = consumer::Consumer::new(partition, again, wire, told.clone());
            shared.tasks.spawn(consumer.run());
        }
    }
    told
}

/// A client's connections, and what it knows of the cluster.
pub(super) struct Wire {
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    runtime: Runtime,
    bootstrap: Vec<String>,
    connections: BTreeMap<String, Client>,
    layout: Option<Layout>,
}

/// The topic, as Metadata tells it.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) topic: TopicId,
    /// Endpoint of the leader and its epoch, by partition.
    pub(super) leaders: BTreeMap<i32, (String, LeaderEpoch)>,
}

impl Wire {
    fn new(shared: &Shared, disk: &Arc<dyn quorate_core::runtime::Disk>, machine: &str, number: u64) -> Self {
        let rng = Rng::seeded(shared.seed ^ (number << 8) ^ 0xC1_1E47);
        let runtime = Runtime {
            clock: shared.clock.clone(),
            rng: rng.clone(),
            disk: disk.clone(),
            network: shared.network.machine(machine),
            tasks: shared.tasks.clone(),
        };
        let bootstrap = shared.voters.keys().map(|&node| format!("{}:9092", name(node))).collect();
        let clock = shared.clock.clone();
        Self { clock, rng, runtime, bootstrap, connections: BTreeMap::new(), layout: None }
    }

    pub(super) async fn pause(&self) {
        self.clock.sleep(Duration::from_millis(10 + self.rng.below(90))).await;
    }

    /// A connection to an endpoint; `None` if it cannot be had now.
    pub(super) async fn connection(&mut self, endpoint: &str) -> Option<Client> {
        if let Some(client) = self.connections.get(endpoint).filter(|client| !client.is_closed()) {
            return Some(client.clone());
        }
        let client = Client::connect(&self.runtime, endpoint, "simulated", PATIENCE).await.ok()?;
        self.connections.insert(endpoint.to_owned(), client.clone());
        Some(client)
    }

    /// Any broker.
    pub(super) async fn anybody(&mut self) -> Option<Client> {
        let chosen = usize::try_from(self.rng.below(self.bootstrap.len() as u64)).ok()?;
        let endpoint = self.bootstrap.get(chosen)?.clone();
        self.connection(&endpoint).await
    }

    /// The endpoint failed: the next use connects anew.
    pub(super) fn forget(&mut self, endpoint: &str) {
        self.connections.remove(endpoint);
    }

    /// What is known of the topic; asks if nothing is.
    pub(super) async fn layout(&mut self) -> Option<Layout> {
        if self.layout.is_none() {
            self.layout = self.ask_layout().await;
        }
        self.layout.clone()
    }

    /// What is known may be wrong.
    pub(super) fn outdated(&mut self) {
        self.layout = None;
    }

    async fn ask_layout(&mut self) -> Option<Layout> {
        let client = self.anybody().await?;
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(TOPIC)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        let answer = match client.call(&request, PATIENCE).await {
            Ok(answer) => answer,
            Err(_) => {
                let endpoint = client.endpoint().to_owned();
                self.forget(&endpoint);
                return None;
            }
        };
        let code = answer.topics.first().map(|topic| ErrorCode(topic.error_code));
        if code == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) {
            self.create_topic().await;
            return None;
        }
        layout_of(&answer)
    }

    async fn create_topic(&mut self) {
        let Some(client) = self.anybody().await else { return };
        let topic = CreatableTopic::default()
            .with_name(topic_name(TOPIC))
            .with_num_partitions(PARTITIONS)
            .with_replication_factor(3);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(2000);
        // Whatever the answer is, Metadata will say whether the topic is there.
        let _ = client.call(&request, PATIENCE * 2).await;
    }
}

fn layout_of(answer: &MetadataResponse) -> Option<Layout> {
    let topic = answer.topics.first().filter(|topic| topic.error_code == 0)?;
    let mut leaders = BTreeMap::new();
    for partition in &topic.partitions {
        let broker = answer.brokers.iter().find(|broker| broker.node_id == partition.leader_id);
        if let Some(broker) = broker {
            let endpoint = format!("{}:{}", broker.host, broker.port);
            leaders.insert(partition.partition_index, (endpoint, LeaderEpoch(partition.leader_epoch)));
        }
    }
    Some(Layout { topic: TopicId(topic.topic_id), leaders })
}
