//! What tests of the metadata build their images with.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    Accepted, Command, Image, Outcome, Rejection, apply,
    command::{
        Assignment, ConfigEntry, ControllerUp, CreateTopic, DurabilityLevel, FenceBroker, FoundCluster,
        ListenerEndpoint, RegisterBroker, UnfenceBroker,
    },
    image::{Partition, Topic},
};
use crate::{
    consensus::LogId,
    ids::{BrokerEpoch, Epoch, LogIndex, NodeId, TopicId},
};

/// The cluster of tests.
pub(crate) const CLUSTER: Uuid = Uuid::from_bytes([7; 16]);

/// An image, and the log that made it.
pub(crate) struct Story {
    pub(crate) image: Arc<Image>,
    pub(crate) log: Vec<(Epoch, Vec<u8>)>,
    pub(crate) epoch: Epoch,
}

impl Story {
    /// A founded cluster in its first epoch, with these cluster-wide configs.
    pub(crate) fn founded(configs: &[(&str, &str)]) -> Self {
        let log_id = LogId::of(CLUSTER, 1);
        let mut story = Self { image: Arc::new(Image::new(log_id)), log: Vec::new(), epoch: Epoch(1) };
        story.entry(Vec::new());
        story.controller_up(1).unwrap();
        story.accept(Command::FoundCluster(founding(configs)));
        story
    }

    /// As [`Story::founded`], with brokers 1 to `count`, all unfenced.
    pub(crate) fn with_brokers(count: i32, configs: &[(&str, &str)]) -> Self {
        let mut story = Self::founded(configs);
        for node in 1..=count {
            story.register(node, 1);
            story.unfence(node);
        }
        story
    }

    /// Appends an entry.
    pub(crate) fn entry(&mut self, data: Vec<u8>) -> Outcome {
        let index = self.image.index.next();
        let (image, outcome) = apply(&self.image, index, self.epoch, &data).unwrap();
        self.image = Arc::new(image);
        self.log.push((self.epoch, data));
        outcome
    }

    /// Appends a command.
    pub(crate) fn run(&mut self, command: Command) -> Result<Accepted, Rejection> {
        match self.entry(command.to_entry().to_vec()) {
            Outcome::Accepted(accepted) => Ok(accepted),
            Outcome::Rejected(rejection) => Err(rejection),
            Outcome::Engine => panic!("a command is no engine entry"),
        }
    }

    /// Appends a command that must be accepted.
    pub(crate) fn accept(&mut self, command: Command) -> Accepted {
        let name = command.name();
        self.run(command).unwrap_or_else(|rejection| panic!("{name}: {rejection}"))
    }

    /// The next epoch begins, led by `node`.
    pub(crate) fn next_epoch(&mut self, node: i32) {
        self.epoch.0 += 1;
        self.entry(Vec::new());
        self.controller_up(node).unwrap();
    }

    pub(crate) fn controller_up(&mut self, node: i32) -> Result<Accepted, Rejection> {
        let epoch = self.epoch.0;
        self.run(Command::ControllerUp(ControllerUp {
            epoch,
            node,
            incarnation: Some(uuid(90, node, 1).into()),
            host: "controller".to_owned(),
            port: 9093,
        }))
    }

    pub(crate) fn register(&mut self, node: i32, life: i32) -> BrokerEpoch {
        let command = Command::RegisterBroker(registration(node, life));
        let Accepted::Registered(epoch) = self.accept(command) else { panic!("not registered") };
        epoch
    }

    pub(crate) fn fence(&mut self, node: i32) {
        let broker_epoch = self.image.broker_epoch(NodeId(node)).0;
        self.accept(Command::FenceBroker(FenceBroker { node, broker_epoch }));
    }

    pub(crate) fn unfence(&mut self, node: i32) {
        let broker_epoch = self.image.broker_epoch(NodeId(node)).0;
        self.accept(Command::UnfenceBroker(UnfenceBroker { node, broker_epoch }));
    }

    /// A topic with these assignments.
    pub(crate) fn create(&mut self, name: &str, assignments: &[&[i32]], configs: &[(&str, &str)]) -> TopicId {
        let id = topic_id(name);
        self.accept(Command::CreateTopic(creation(name, assignments, configs)));
        id
    }

    pub(crate) fn topic(&self, name: &str) -> &Topic {
        self.image.topic(name).unwrap()
    }

    pub(crate) fn partition(&self, name: &str) -> &Partition {
        &self.topic(name).partitions[0]
    }

    /// Leader, ISR, ELR of partition 0.
    pub(crate) fn state(&self, name: &str) -> (i32, Vec<i32>, Vec<i32>) {
        let partition = self.partition(name);
        let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        (partition.leader.0, numbers(&partition.isr), numbers(&partition.elr))
    }

    /// The image that the log makes from the beginning, up to an entry.
    pub(crate) fn replayed(&self, to: LogIndex) -> Image {
        let mut image = Image::new(LogId::of(CLUSTER, 1));
        for (epoch, data) in self.log.iter().take(usize::try_from(to.0).unwrap()) {
            image = apply(&image, image.index.next(), *epoch, data).unwrap().0;
        }
        image
    }
}

pub(crate) fn founding(configs: &[(&str, &str)]) -> FoundCluster {
    FoundCluster {
        cluster: Some(CLUSTER.into()),
        generation: 1,
        durability: DurabilityLevel::Synced.into(),
        features: Vec::new(),
        defaults: entries(configs),
    }
}

pub(crate) fn entries(configs: &[(&str, &str)]) -> Vec<ConfigEntry> {
    let entry =
        |(name, value): &(&str, &str)| ConfigEntry { name: (*name).to_owned(), value: (*value).to_owned() };
    configs.iter().map(entry).collect()
}

/// The registration of the `life`th process of a node, always in the same directory.
pub(crate) fn registration(node: i32, life: i32) -> RegisterBroker {
    RegisterBroker {
        node,
        incarnation: Some(uuid(1, node, life).into()),
        directories: vec![uuid(2, node, 0).into()],
        endpoints: vec![ListenerEndpoint {
            name: "PLAINTEXT".to_owned(),
            host: format!("host{node}"),
            port: 9092,
            protocol: 0,
        }],
        rack: None,
        roles: 1,
        features: Vec::new(),
        page_cache_lost: false,
        sync_failed: false,
    }
}

pub(crate) fn creation(name: &str, assignments: &[&[i32]], configs: &[(&str, &str)]) -> CreateTopic {
    CreateTopic {
        name: name.to_owned(),
        topic: Some(topic_id(name).0.into()),
        partitions: assignments.iter().map(|nodes| Assignment { replicas: nodes.to_vec() }).collect(),
        configs: entries(configs),
    }
}

pub(crate) fn topic_id(name: &str) -> TopicId {
    let mut bytes = [3; 16];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    TopicId(Uuid::from_bytes(bytes))
}

/// An id for each kind of thing, node and number.
pub(crate) fn uuid(kind: u8, node: i32, number: i32) -> Uuid {
    let node = u64::try_from(node).unwrap();
    Uuid::from_u64_pair(u64::from(kind) << 56 | node, u64::try_from(number).unwrap() + 1)
}
