use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    Accepted, Command, Image, check,
    command::*,
    settings, snapshot,
    snapshot::{Chunks, Reader},
    testing::{Story, creation, registration, topic_id, uuid},
};
use crate::ids::{BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch, PartitionId, TopicId};

const NODES: i32 = 4;
const TOPICS: [&str; 3] = ["a", "b", "c"];

/// Numbers out of which a command is made that fits the image more often than not.
type Draw = (u8, u8, u8, u8);

/// What somebody who sees all disks knows: which replicas of a partition have every acknowledged record.
#[derive(Default)]
struct Oracle {
    complete: BTreeMap<PartitionId, BTreeSet<NodeId>>,
    /// Who led in which leader epoch.
    leaders: BTreeMap<(PartitionId, LeaderEpoch), NodeId>,
    epochs: BTreeMap<PartitionId, (LeaderEpoch, PartitionEpoch)>,
    registered: BTreeMap<NodeId, BrokerEpoch>,
}

impl Oracle {
    /// Checks the image after a step, and lets leaders acknowledge where they may.
    fn look(&mut self, before: &Image, image: &Image, acknowledge: bool) {
        assert_eq!(check::problem(image), None);
        for broker in image.brokers.values() {
            let epoch = self.registered.entry(broker.node).or_insert(broker.epoch);
            assert!(broker.epoch >= *epoch, "a broker epoch fell");
            *epoch = broker.epoch;
        }
        for topic in image.topics.values() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let id = PartitionId { topic: topic.id, index };
                self.look_at(before, image, id);
                let enough = settings::min_isr(image, topic).min(partition.replicas.len());
                if acknowledge && partition.has_leader() && partition.isr.len() >= enough {
                    self.complete.insert(id, partition.isr.iter().copied().collect());
                }
            }
        }
    }

    fn look_at(&mut self, before: &Image, image: &Image, id: PartitionId) {
        let (partition, earlier) = (image.partition(id).unwrap(), before.partition(id));
        if let Some(earlier) = earlier {
            let led = (earlier.leader_epoch, earlier.partition_epoch);
            assert!(partition.leader_epoch >= led.0 && partition.partition_epoch >= led.1);
            assert_eq!(partition.leader != earlier.leader, partition.leader_epoch != led.0);
            assert_eq!(partition != earlier, partition.partition_epoch != led.1);
        }
        self.epochs.insert(id, (partition.leader_epoch, partition.partition_epoch));
        let leader = *self.leaders.entry((id, partition.leader_epoch)).or_insert(partition.leader);
        assert_eq!(leader, partition.leader, "two leaders of one epoch");
        let known = self.complete.entry(id).or_insert_with(|| partition.replicas.iter().copied().collect());
        let unclean = partition.recovering && !earlier.is_some_and(|earlier| earlier.recovering);
        let again = partition.recovering
            && partition.has_leader()
            && earlier.is_some_and(|e| e.leader != partition.leader);
        if unclean || (again && !known.contains(&partition.leader)) {
            // What the others had is given up.
            *known = partition.isr.iter().copied().collect();
        }
        for node in partition.isr.iter().chain(&partition.elr) {
            assert!(known.contains(node), "{node} may lead and lacks acknowledged records: {partition:?}");
        }
    }

    /// A leader says that these are in sync: it has seen that they have everything.
    fn in_sync(&mut self, id: PartitionId, isr: &[NodeId]) {
        self.complete.entry(id).or_default().extend(isr);
    }

    /// A broker has come back without some of its data.
    fn lost(&mut self, image: &Image, node: NodeId, everything: bool) {
        for topic in image.topics.values() {
            let replicated = settings::durability(image, topic) == DurabilityLevel::Replicated;
            for (index, _) in (0..).zip(&topic.partitions) {
                if everything || replicated {
                    let id = PartitionId { topic: topic.id, index };
                    self.complete.entry(id).or_default().remove(&node);
                }
            }
        }
    }
}

fn step(story: &mut Story, oracle: &mut Oracle, draw: Draw) {
    let (kind, a, b, c) = draw;
    let node = i32::from(a) % NODES + 1;
    let name = TOPICS[usize::from(b) % TOPICS.len()];
    let present = story.image.broker_epoch(NodeId(node)).0;
    let broker_epoch = if c % 8 == 7 { present - 1 } else { present };
    match kind % 16 {
        0..=1 => drop(story.run(Command::FenceBroker(FenceBroker { node, broker_epoch }))),
        2..=4 => drop(story.run(Command::UnfenceBroker(UnfenceBroker { node, broker_epoch }))),
        5..=6 => register(story, oracle, node, b, c),
        7 => drop(story.run(Command::BrokerShuttingDown(BrokerShuttingDown { node, broker_epoch }))),
        8 => {
            let order: Vec<i32> = (0..NODES).map(|n| (n + node) % NODES + 1).collect();
            let replicas = &order[..usize::from(c) % 3 + 1];
            let configs: &[(&str, &str)] = match c % 4 {
                0 => &[("min.insync.replicas", "2")],
                1 => &[("flush.messages", "9223372036854775807"), ("min.insync.replicas", "2")],
                2 => &[("unclean.leader.election.enable", "true")],
                _ => &[],
            };
            drop(story.run(Command::CreateTopic(creation(name, &[replicas, &order[..1]], configs))));
        }
        9 if c % 4 == 0 => {
            let topic = Some(topic_id(name).0.into());
            if story.run(Command::DeleteTopic(DeleteTopic { topic })).is_ok() {
                oracle.complete.retain(|id, _| id.topic != topic_id(name));
                oracle.leaders.retain(|(id, _), _| id.topic != topic_id(name));
            }
        }
        10..=12 => alter(story, oracle, topic_id(name), b, c),
        13 => {
            let partitions =
                (0..2).map(|partition| PartitionKey { topic: Some(topic_id(name).0.into()), partition });
            let election = i32::from(c % 8 == 0);
            let command = ElectLeaders { election, partitions: partitions.collect() };
            drop(story.run(Command::ElectLeaders(command)));
        }
        14 => {
            let target = match c % 3 {
                0 => ConfigTarget::Cluster(NoOp {}),
                _ => ConfigTarget::Topic(topic_id(name).0.into()),
            };
            let change = ConfigChange {
                name: "min.insync.replicas".to_owned(),
                value: (b % 3 + 1).to_string(),
                operation: i32::from(c % 5 == 0),
            };
            drop(story.run(Command::SetConfigs(SetConfigs { target: Some(target), changes: vec![change] })));
        }
        _ => story.next_epoch(node),
    }
}

/// Registers a process, perhaps one that has lost data, or that comes from elsewhere.
fn register(story: &mut Story, oracle: &mut Oracle, node: i32, b: u8, c: u8) {
    let mut command = registration(node, i32::from(b));
    command.page_cache_lost = c.is_multiple_of(4);
    command.sync_failed = c % 8 == 1;
    if c % 16 == 2 {
        command.directories = vec![uuid(2, node, i32::from(b) + 1).into()];
    }
    let before = story.image.clone();
    let prior = before.brokers.get(&NodeId(node)).cloned();
    let result = story.run(Command::RegisterBroker(command.clone()));
    let incarnation = uuid_of(&command);
    let Ok(Accepted::Registered(epoch)) = result else {
        let prior = prior.unwrap();
        assert!(!prior.fenced, "only a live broker stands in the way");
        return;
    };
    let Some(prior) = prior.filter(|prior| prior.incarnation != incarnation) else { return };
    assert!(epoch > prior.epoch);
    let moved = !command.directories.iter().any(|id| prior.directories.iter().any(|d| Id::from(d.0) == *id));
    assert!(!moved || prior.fenced, "a live broker was replaced by one from elsewhere");
    if moved || command.sync_failed || command.page_cache_lost {
        oracle.lost(&before, NodeId(node), moved || command.sync_failed);
    }
}

fn uuid_of(command: &RegisterBroker) -> uuid::Uuid {
    super::command::uuid(command.incarnation)
}

/// The leader of a partition proposes an ISR that is true: whoever joins has caught up with it.
fn alter(story: &mut Story, oracle: &mut Oracle, topic: TopicId, b: u8, c: u8) {
    let id = PartitionId { topic, index: i32::from(b / 4 % 2) };
    let Some(partition) = story.image.partition(id).cloned() else { return };
    let keep =
        |(bit, node): (usize, &NodeId)| (c >> bit & 1 == 1 || *node == partition.leader).then_some(*node);
    let isr: Vec<NodeId> = partition.replicas.iter().enumerate().filter_map(keep).collect();
    let member = |node: &NodeId| IsrMember { node: node.0, broker_epoch: story.image.broker_epoch(*node).0 };
    let command = AlterPartitions {
        node: partition.leader.0,
        broker_epoch: story.image.broker_epoch(partition.leader).0,
        changes: vec![IsrChange {
            topic: Some(topic.0.into()),
            partition: id.index,
            leader_epoch: partition.leader_epoch.0 - i32::from(c & 0x40 != 0),
            partition_epoch: partition.partition_epoch.0 - i32::from(c & 0x80 != 0),
            isr: isr.iter().map(member).collect(),
            recovering: false,
        }],
    };
    if let Ok(Accepted::Altered(verdicts)) = story.run(Command::AlterPartitions(command))
        && verdicts[0].is_ok()
    {
        oracle.in_sync(id, &isr);
    }
}

/// The image through its bytes, cut into pieces.
fn through_bytes(story: &Story, piece: usize) -> Image {
    let mut reader = Reader::new();
    for chunk in Chunks::of(story.image.clone()) {
        for part in chunk.chunks(piece) {
            reader.push(part).unwrap();
        }
    }
    reader.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_image_keeps_the_rules_and_nobody_leads_who_lacks_what_was_acknowledged(
        draws in prop::collection::vec(any::<(Draw, bool)>(), 1..120),
    ) {
        let mut story = Story::with_brokers(3, &[]);
        let mut oracle = Oracle::default();
        for (draw, acknowledge) in draws {
            let before = story.image.clone();
            step(&mut story, &mut oracle, draw);
            oracle.look(&before, &story.image.clone(), acknowledge);
        }
        let replayed = story.replayed(story.image.index);
        prop_assert_eq!(&replayed, story.image.as_ref());
        let restored = through_bytes(&story, 7);
        prop_assert_eq!(&restored, story.image.as_ref());
        prop_assert_eq!(snapshot::hash(&replayed.into()), snapshot::hash(&restored.into()));
    }

    #[test]
    fn damaged_bytes_are_refused_and_nothing_panics(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut story = Story::with_brokers(3, &[("num.partitions", "3")]);
        story.create("a", &[&[1, 2, 3], &[2, 3, 1]], &[("retention.ms", "5")]);
        let mut bytes: Vec<u8> = Chunks::of(story.image.clone()).flatten().collect();
        let at = at.index(bytes.len());
        let read = |bytes: &[u8]| {
            let mut reader = Reader::new();
            reader.push(bytes)?;
            reader.finish()
        };
        prop_assert!(read(&bytes[..at]).is_err());
        bytes[at] ^= flip;
        prop_assert!(read(&bytes).is_err());
    }
}

#[test]
fn large_images_are_cut_into_chunks_and_come_back() {
    let mut story = Story::with_brokers(3, &[]);
    let partitions: Vec<&[i32]> = vec![&[1, 2, 3]; 2500];
    for topic in 0..40 {
        story.create(&format!("topic-{topic}"), &partitions, &[]);
    }
    let lengths: Vec<usize> = Chunks::of(story.image.clone()).map(|chunk| chunk.len()).collect();
    assert!(lengths.len() > 1 && lengths.iter().all(|length| *length <= snapshot::SNAPSHOT_CHUNK_BYTES));
    assert_eq!(lengths.iter().sum::<usize>() as u64, snapshot::meta(&story.image).bytes);
    assert_eq!(through_bytes(&story, 1 << 20), *story.image);
}
