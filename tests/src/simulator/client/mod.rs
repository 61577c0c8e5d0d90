//! The clients of a simulated cluster: they speak the protocol over the simulated network, and write down what they
//! were told.

mod admin;
mod consumer;
mod history;
mod producer;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(super) use history::{Doubt, History};
use parking_lot::Mutex;
use quorate_core::{
    ids::{LeaderEpoch, TopicId},
    protocol::{
        bodies::{
            CreateTopicsRequest, MetadataRequest, MetadataResponse,
            create_topics_request::{CreatableTopic, CreatableTopicConfig},
            metadata_request::MetadataRequestTopic,
            text, topic_name,
        },
        client::Client,
        errors::ErrorCode,
    },
    runtime::{Clock, Rng, Runtime},
};

use super::{
    node::{Shared, name},
    topics::Topic,
};

/// How long a client waits for one answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What all clients share.
pub(super) type Told = Arc<Mutex<History>>;

/// Starts the clients on their own machines.
pub(super) fn start(shared: &Shared, disk: &Arc<dyn quorate_core::runtime::Disk>, topics: &[Topic]) -> Told {
    let told = Told::default();
    for number in 0..3 {
        let wire = Wire::new(shared, disk, &format!("producer{number}"), u64::from(number));
        let producer = producer::Producer::new(number, topics.to_vec(), wire, told.clone());
        shared.tasks.spawn(producer.run());
    }
    let mut number = 100;
    for topic in topics {
        for index in 0..topic.partitions {
            for again in [false, true] {
                number += 1;
                let wire = Wire::new(shared, disk, &format!("consumer{number}"), number);
                let consumer = consumer::Consumer::new(*topic, index, again, wire, told.clone());
                shared.tasks.spawn(consumer.run());
            }
        }
    }
    let wire = Wire::new(shared, disk, "admin", 99);
    shared.tasks.spawn(admin::Admin::new(topics.to_vec(), wire, told.clone()).run());
    told
}

/// A client's connections, and what it knows of the cluster.
pub(super) struct Wire {
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    runtime: Runtime,
    bootstrap: Vec<String>,
    connections: BTreeMap<String, Client>,
    layouts: BTreeMap<&'static str, Layout>,
}

/// The topic, as Metadata tells it.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) topic: TopicId,
    /// Who said so.
    pub(super) told_by: String,
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
        Self { clock, rng, runtime, bootstrap, connections: BTreeMap::new(), layouts: BTreeMap::new() }
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

    /// What is known of a topic; asks if nothing is.
    pub(super) async fn layout(&mut self, topic: &Topic) -> Option<Layout> {
        if !self.layouts.contains_key(topic.name) {
            let layout = self.ask_layout(topic).await?;
            self.layouts.insert(topic.name, layout);
        }
        self.layouts.get(topic.name).cloned()
    }

    /// What is known of a topic may be wrong.
    pub(super) fn outdated(&mut self, topic: &Topic) {
        self.layouts.remove(topic.name);
    }

    async fn ask_layout(&mut self, topic: &Topic) -> Option<Layout> {
        let client = self.anybody().await?;
        let named = MetadataRequestTopic::default().with_name(Some(topic_name(topic.name)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![named])).with_allow_auto_topic_creation(false);
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
            self.create_topic(topic).await;
            return None;
        }
        layout_of(&answer, client.endpoint())
    }

    async fn create_topic(&mut self, topic: &Topic) {
        let Some(client) = self.anybody().await else { return };
        let config = |(name, value): &(&'static str, &'static str)| {
            CreatableTopicConfig::default().with_name(text(*name)).with_value(Some(text(*value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(topic.name))
            .with_num_partitions(topic.partitions)
            .with_replication_factor(3)
            .with_configs(topic.configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(2000);
        // Whatever the answer is, Metadata will say whether the topic is there.
        let _ = client.call(&request, PATIENCE * 2).await;
    }
}

fn layout_of(answer: &MetadataResponse, told_by: &str) -> Option<Layout> {
    let topic = answer.topics.first().filter(|topic| topic.error_code == 0)?;
    let mut leaders = BTreeMap::new();
    for partition in &topic.partitions {
        let broker = answer.brokers.iter().find(|broker| broker.node_id == partition.leader_id);
        if let Some(broker) = broker {
            let endpoint = format!("{}:{}", broker.host, broker.port);
            leaders.insert(partition.partition_index, (endpoint, LeaderEpoch(partition.leader_epoch)));
        }
    }
    Some(Layout { topic: TopicId(topic.topic_id), told_by: told_by.to_owned(), leaders })
}
