use super::{
    Accepted, ApplyError, Command, Image, Rejection, apply,
    apply::{AlterRefusal, ElectRefusal},
    command::*,
    image::{Nodes, Partition},
    testing::{CLUSTER, Story, creation, founding, registration, topic_id, uuid},
};
use crate::{
    consensus::LogId,
    ids::{BrokerEpoch, Epoch, LogIndex, NodeId},
};

const MIN_2: &[(&str, &str)] = &[("min.insync.replicas", "2")];

fn shutting_down(story: &mut Story, node: i32) {
    let broker_epoch = story.image.broker_epoch(NodeId(node)).0;
    story.accept(Command::BrokerShuttingDown(BrokerShuttingDown { node, broker_epoch }));
}

/// The change of partition 0's ISR that its leader would ask for now.
fn isr_change(story: &Story, topic: &str, isr: &[i32]) -> AlterPartitions {
    let partition = story.partition(topic);
    let member =
        |node: &i32| IsrMember { node: *node, broker_epoch: story.image.broker_epoch(NodeId(*node)).0 };
    AlterPartitions {
        node: partition.leader.0,
        broker_epoch: story.image.broker_epoch(partition.leader).0,
        changes: vec![IsrChange {
            topic: Some(topic_id(topic).0.into()),
            partition: 0,
            leader_epoch: partition.leader_epoch.0,
            partition_epoch: partition.partition_epoch.0,
            isr: isr.iter().map(member).collect(),
            recovering: false,
        }],
    }
}

fn alter(story: &mut Story, command: AlterPartitions) -> Result<Partition, AlterRefusal> {
    let Accepted::Altered(mut verdicts) = story.accept(Command::AlterPartitions(command)) else {
        panic!("no verdicts");
    };
    verdicts.remove(0)
}

fn set_isr(story: &mut Story, topic: &str, isr: &[i32]) {
    alter(story, isr_change(story, topic, isr)).unwrap();
}

fn elect(story: &mut Story, topic: &str, election: Election) -> Result<(), ElectRefusal> {
    let partitions = vec![PartitionKey { topic: Some(topic_id(topic).0.into()), partition: 0 }];
    let command = Command::ElectLeaders(ElectLeaders { election: election.into(), partitions });
    let Accepted::Elected(mut verdicts) = story.accept(command) else { panic!("no verdicts") };
    verdicts.remove(0)
}

fn set_config(story: &mut Story, target: ConfigTarget, name: &str, operation: ConfigOperation, value: &str) {
    let change = ConfigChange { name: name.to_owned(), value: value.to_owned(), operation: operation.into() };
    story.accept(Command::SetConfigs(SetConfigs { target: Some(target), changes: vec![change] }));
}

#[test]
fn a_lost_leader_is_one_entry_whatever_it_led() {
    let mut story = Story::with_brokers(3, &[]);
    story.create("a", &[&[1, 2, 3], &[1, 3, 2], &[2, 1, 3]], &[]);
    let before = story.image.index;
    story.fence(1);
    assert_eq!(story.image.index, before.next());
    let leaders: Vec<i32> = story.topic("a").partitions.iter().map(|p| p.leader.0).collect();
    assert_eq!(leaders, [2, 3, 2]);
    let epochs: Vec<i32> = story.topic("a").partitions.iter().map(|p| p.leader_epoch.0).collect();
    assert_eq!(epochs, [1, 1, 0], "the leader that stayed keeps its epoch");
    assert!(story.topic("a").partitions.iter().all(|p| p.partition_epoch.0 == 1));
}

#[test]
fn whoever_leaves_an_isr_below_the_minimum_stays_eligible_and_leads_again() {
    let mut story = Story::with_brokers(3, MIN_2);
    story.create("a", &[&[1, 2, 3]], &[]);
    story.fence(3);
    assert_eq!(story.state("a"), (1, vec![1, 2], vec![]), "two in sync are enough");
    story.fence(1);
    assert_eq!(story.state("a"), (2, vec![2], vec![1]));
    story.fence(2);
    assert_eq!(story.state("a"), (-1, vec![], vec![1, 2]));
    story.unfence(3);
    assert_eq!(story.state("a"), (-1, vec![], vec![1, 2]), "it lacks what was acknowledged since");
    story.unfence(2);
    assert_eq!(story.state("a"), (2, vec![2], vec![1]));
    story.unfence(1);
    set_isr(&mut story, "a", &[2, 3]);
    assert_eq!(story.state("a"), (2, vec![2, 3], vec![]), "with the minimum in sync nobody else is eligible");
    assert_eq!(story.image.unclean_elections, 0);
}

#[test]
fn a_sole_replica_leads_again_and_without_its_page_cache_that_counts_as_unclean() {
    let mut story = Story::with_brokers(2, &[]);
    story.create("synced", &[&[1]], &[]);
    story.create("cached", &[&[1]], &[("flush.messages", "9223372036854775807")]);
    story.fence(1);
    let lost = RegisterBroker { page_cache_lost: true, ..registration(1, 2) };
    story.accept(Command::RegisterBroker(lost));
    assert_eq!(story.state("synced"), (-1, vec![], vec![1]));
    assert_eq!(story.state("cached"), (-1, vec![], vec![]));
    story.unfence(1);
    assert_eq!(story.state("synced"), (1, vec![1], vec![]));
    assert_eq!(story.state("cached"), (1, vec![1], vec![]));
    assert!(story.partition("cached").recovering && !story.partition("synced").recovering);
    assert_eq!(story.image.unclean_elections, 1);
}

#[test]
fn a_replica_that_lost_data_is_in_no_set_until_it_has_caught_up() {
    let replicated = &[("flush.messages", "9223372036854775807"), ("min.insync.replicas", "2")];
    type Loss = fn(&mut RegisterBroker);
    let losses: &[(Loss, bool)] = &[
        (|command| command.page_cache_lost = true, false),
        (|command| command.sync_failed = true, true),
        (|command| command.directories = vec![uuid(2, 1, 9).into()], true),
    ];
    for (lose, also_synced) in losses {
        let mut story = Story::with_brokers(2, MIN_2);
        story.create("replicated", &[&[1, 2]], replicated);
        story.create("synced", &[&[1, 2]], &[]);
        story.fence(2);
        story.fence(1);
        assert_eq!(story.state("replicated"), (-1, vec![], vec![1, 2]));
        let mut command = registration(1, 2);
        lose(&mut command);
        story.accept(Command::RegisterBroker(command));
        story.unfence(1);
        assert_eq!(story.state("replicated"), (-1, vec![], vec![2]));
        let synced = if *also_synced { (-1, vec![], vec![2]) } else { (1, vec![1], vec![2]) };
        assert_eq!(story.state("synced"), synced);
        assert_eq!(story.partition("replicated").last_known_elr, Nodes::from_slice(&[NodeId(1)]));
    }
}

#[test]
fn an_unclean_election_happens_only_if_it_is_configured_or_commanded() {
    let mut story = Story::with_brokers(2, &[]);
    story.create("a", &[&[1, 2]], &[]);
    set_isr(&mut story, "a", &[1]);
    story.fence(1);
    assert_eq!(story.state("a"), (-1, vec![], vec![1]));
    assert_eq!(elect(&mut story, "a", Election::Unclean), Ok(()));
    assert_eq!(story.state("a"), (2, vec![2], vec![]));
    assert!(story.partition("a").recovering);
    assert_eq!(story.image.unclean_elections, 1);
    assert_eq!(elect(&mut story, "a", Election::Unclean), Err(ElectRefusal::NotNeeded));
    story.unfence(1);
    let mut grow = isr_change(&story, "a", &[2, 1]);
    grow.changes[0].recovering = true;
    let refused = Err(AlterRefusal::Invalid("the ISR of a leader in recovery is the leader"));
    assert_eq!(alter(&mut story, grow), refused);
    let before = story.partition("a").partition_epoch;
    set_isr(&mut story, "a", &[2]);
    assert!(!story.partition("a").recovering);
    assert_eq!(story.partition("a").partition_epoch.0, before.0 + 1);

    story.create("b", &[&[1, 2]], &[]);
    set_isr(&mut story, "b", &[1]);
    story.fence(1);
    let target = ConfigTarget::Topic(topic_id("b").0.into());
    set_config(&mut story, target, "unclean.leader.election.enable", ConfigOperation::Set, "true");
    assert_eq!(story.state("b"), (2, vec![2], vec![]), "the config elects at once");
}

#[test]
fn alter_partition_is_judged_in_kafkas_order() {
    let mut story = Story::with_brokers(4, &[]);
    story.create("a", &[&[1, 2, 3]], &[]);
    story.fence(1);
    story.unfence(1);
    assert_eq!(story.state("a"), (2, vec![2, 3], vec![]));
    let good = isr_change(&story, "a", &[2, 3, 1]);
    type Spoil = fn(&mut AlterPartitions);
    let cases: &[(Spoil, AlterRefusal)] = &[
        (|c| c.changes[0].topic = None, AlterRefusal::UnknownPartition),
        (|c| c.changes[0].partition = 1, AlterRefusal::UnknownPartition),
        (|c| c.changes[0].partition = -1, AlterRefusal::UnknownPartition),
        (|c| c.changes[0].leader_epoch += 1, AlterRefusal::NotController),
        (|c| (c.changes[0].leader_epoch, c.changes[0].partition_epoch) = (0, 9), AlterRefusal::NotController),
        (|c| c.changes[0].leader_epoch = 0, AlterRefusal::FencedLeaderEpoch),
        (|c| c.changes[0].partition_epoch = 0, AlterRefusal::InvalidUpdateVersion),
        (|c| c.changes[0].isr[0].node = 4, AlterRefusal::Invalid("the ISR is a set of replicas")),
        (|c| c.changes[0].isr[1].node = 2, AlterRefusal::Invalid("the ISR is a set of replicas")),
        (|c| c.changes[0].isr.retain(|m| m.node != 2), AlterRefusal::Invalid("the leader is in the ISR")),
        (|c| c.changes[0].isr[2].broker_epoch = 1, AlterRefusal::IneligibleReplica),
    ];
    for (spoil, refusal) in cases {
        let mut command = good.clone();
        spoil(&mut command);
        assert_eq!(alter(&mut story, command), Err(*refusal));
    }
    let mut foreign = good.clone();
    (foreign.node, foreign.broker_epoch) = (3, story.image.broker_epoch(NodeId(3)).0);
    assert_eq!(alter(&mut story, foreign), Err(AlterRefusal::Invalid("only the leader changes the ISR")));
    let stale = AlterPartitions { broker_epoch: 1, ..good.clone() };
    let present = story.image.broker_epoch(NodeId(2));
    let rejected = Err(Rejection::StaleBrokerEpoch { node: NodeId(2), present });
    assert_eq!(story.run(Command::AlterPartitions(stale)), rejected);
    assert_eq!(alter(&mut story, good.clone()).unwrap().isr.len(), 3);
    assert_eq!(alter(&mut story, good), Err(AlterRefusal::InvalidUpdateVersion));
    story.fence(1);
    let fenced = isr_change(&story, "a", &[2, 3, 1]);
    assert_eq!(alter(&mut story, fenced), Err(AlterRefusal::IneligibleReplica));
}

#[test]
fn a_broker_that_shuts_down_leads_nothing_and_returns_only_by_registering() {
    let mut story = Story::with_brokers(2, &[]);
    story.create("a", &[&[1, 2]], &[]);
    shutting_down(&mut story, 1);
    assert_eq!(story.state("a"), (2, vec![2], vec![]));
    let add = isr_change(&story, "a", &[2, 1]);
    assert_eq!(alter(&mut story, add), Err(AlterRefusal::IneligibleReplica));
    story.fence(1);
    let broker_epoch = story.image.broker_epoch(NodeId(1)).0;
    let unfence = UnfenceBroker { node: 1, broker_epoch };
    assert!(story.run(Command::UnfenceBroker(unfence)).is_err());
    story.register(1, 2);
    story.unfence(1);
    set_isr(&mut story, "a", &[2, 1]);
    assert_eq!(elect(&mut story, "a", Election::Preferred), Ok(()));
    assert_eq!(elect(&mut story, "a", Election::Preferred), Err(ElectRefusal::NotNeeded));
    assert_eq!(story.state("a"), (1, vec![1, 2], vec![]));
}

#[test]
fn a_node_id_belongs_to_one_process_at_a_time() {
    let mut story = Story::with_brokers(2, &[]);
    story.create("a", &[&[1, 2]], &[]);
    let first = story.image.broker_epoch(NodeId(1));
    let elsewhere = RegisterBroker { directories: vec![uuid(2, 1, 9).into()], ..registration(1, 2) };
    let moved = Command::RegisterBroker(elsewhere);
    assert_eq!(story.run(moved.clone()), Err(Rejection::DuplicateBroker(NodeId(1))));
    assert_eq!(story.register(1, 1), first, "the same process keeps its registration");
    assert!(!story.image.brokers[&NodeId(1)].fenced);
    let second = story.register(1, 3);
    assert!(second > first);
    assert!(story.image.brokers[&NodeId(1)].fenced, "the same folder: it takes the place at once");
    assert_eq!(story.state("a"), (2, vec![2], vec![]));
    assert!(story.run(moved).is_ok(), "the registered one is fenced");
    let copied = RegisterBroker { directories: vec![uuid(2, 2, 0).into()], ..registration(3, 1) };
    let taken =
        Rejection::DirectoryInUse { directory: crate::ids::DirectoryId(uuid(2, 2, 0)), owner: NodeId(2) };
    assert_eq!(story.run(Command::RegisterBroker(copied)), Err(taken));
}

#[test]
fn requests_with_an_old_broker_epoch_are_refused() {
    let mut story = Story::with_brokers(1, &[]);
    let old = story.image.broker_epoch(NodeId(1));
    let present = story.register(1, 2);
    let (node, broker_epoch) = (1, old.0);
    let commands = [
        Command::FenceBroker(FenceBroker { node, broker_epoch }),
        Command::UnfenceBroker(UnfenceBroker { node, broker_epoch }),
        Command::BrokerShuttingDown(BrokerShuttingDown { node, broker_epoch }),
        Command::AllocateProducerIds(AllocateProducerIds { node, broker_epoch, count: 1 }),
    ];
    for command in commands {
        let stale = Rejection::StaleBrokerEpoch { node: NodeId(1), present };
        assert_eq!(story.run(command), Err(stale));
    }
    let unknown = FenceBroker { node: 9, broker_epoch: 1 };
    assert_eq!(story.run(Command::FenceBroker(unknown)), Err(Rejection::UnknownBroker(NodeId(9))));
}

#[test]
fn nothing_is_accepted_before_the_epochs_controller_is_up_and_the_cluster_is_founded() {
    let mut story = Story { image: Image::new(LogId::of(CLUSTER, 1)).into(), log: vec![], epoch: Epoch(3) };
    let probe = Command::NoOp(NoOp {});
    assert_eq!(story.run(probe.clone()), Err(Rejection::NoController(Epoch(3))));
    story.controller_up(2).unwrap();
    assert_eq!(story.run(probe.clone()), Err(Rejection::NotFounded));
    let foreign = FoundCluster { cluster: Some(uuid(9, 9, 9).into()), ..founding(&[]) };
    assert!(matches!(story.run(Command::FoundCluster(foreign)), Err(Rejection::Malformed(_))));
    story.accept(Command::FoundCluster(founding(&[])));
    assert_eq!(story.run(Command::FoundCluster(founding(&[]))), Err(Rejection::AlreadyFounded));
    story.accept(probe.clone());
    assert_eq!(story.controller_up(1), Err(Rejection::NoController(Epoch(3))), "an epoch has one controller");
    story.epoch = Epoch(4);
    assert_eq!(story.run(probe), Err(Rejection::NoController(Epoch(4))));
}

#[test]
fn what_a_deaf_controller_says_is_kept_for_the_next_epoch_alone() {
    let mut story = Story::founded(&[]);
    story.accept(Command::ControllerDeaf(ControllerDeaf { heard: vec![1] }));
    story.next_epoch(2);
    assert_eq!(story.image.deaf.as_ref().unwrap().heard, [NodeId(1)]);
    story.next_epoch(3);
    assert_eq!(story.image.deaf, None);
}

#[test]
fn topics_are_made_whole_or_not_at_all() {
    let mut story = Story::with_brokers(2, &[]);
    story.fence(2);
    let before = story.image.clone();
    for (assignments, rejection) in [
        (&[&[1][..], &[2]][..], Rejection::NoActiveReplica(1)),
        (&[&[1], &[3]], Rejection::InvalidAssignment(1)),
        (&[&[1, 1]], Rejection::InvalidAssignment(0)),
        (&[&[1], &[]], Rejection::InvalidAssignment(1)),
    ] {
        let command = Command::CreateTopic(creation("a", assignments, &[]));
        assert_eq!(story.run(command), Err(rejection));
        assert_eq!(story.image.topics, before.topics);
    }
    story.create("a", &[&[2, 1]], &[]);
    assert_eq!(story.state("a"), (1, vec![1], vec![]), "a fenced replica is not in the first ISR");
    let again = CreateTopic { topic: Some(topic_id("other").0.into()), ..creation("a", &[&[1]], &[]) };
    assert_eq!(story.run(Command::CreateTopic(again)), Err(Rejection::TopicExists("a".to_owned())));
    let delete = Command::DeleteTopic(DeleteTopic { topic: Some(topic_id("a").0.into()) });
    story.accept(delete.clone());
    assert_eq!(story.run(delete), Err(Rejection::UnknownTopic));
    assert!(story.image.names.is_empty() && story.image.topics.is_empty());
}

#[test]
fn configs_are_set_deleted_appended_and_subtracted() {
    let mut story = Story::with_brokers(1, &[]);
    story.create("a", &[&[1]], &[("cleanup.policy", "delete")]);
    let target = || ConfigTarget::Topic(topic_id("a").0.into());
    let value = |story: &Story| story.topic("a").configs.get("cleanup.policy").cloned();
    set_config(&mut story, target(), "cleanup.policy", ConfigOperation::Append, "compact,delete");
    assert_eq!(value(&story).as_deref(), Some("delete,compact"));
    set_config(&mut story, target(), "cleanup.policy", ConfigOperation::Subtract, "delete");
    assert_eq!(value(&story).as_deref(), Some("compact"));
    set_config(&mut story, target(), "cleanup.policy", ConfigOperation::Delete, "");
    assert_eq!(value(&story), None);
    set_config(&mut story, ConfigTarget::Broker(1), "log.retention.ms", ConfigOperation::Set, "5");
    assert_eq!(story.image.broker_configs[&NodeId(1)].len(), 1);
    set_config(&mut story, ConfigTarget::Broker(1), "log.retention.ms", ConfigOperation::Delete, "");
    assert!(story.image.broker_configs.is_empty());
}

#[test]
fn a_lower_minimum_leaves_nobody_eligible_outside_of_the_isr() {
    let mut story = Story::with_brokers(2, MIN_2);
    story.create("a", &[&[1, 2]], &[]);
    story.fence(2);
    assert_eq!(story.state("a"), (1, vec![1], vec![2]));
    let all = || ConfigTarget::Cluster(NoOp {});
    set_config(&mut story, all(), "min.insync.replicas", ConfigOperation::Set, "1");
    assert_eq!(story.state("a"), (1, vec![1], vec![]));
    set_config(&mut story, all(), "min.insync.replicas", ConfigOperation::Set, "2");
    assert_eq!(story.state("a"), (1, vec![1], vec![]), "and a higher one brings nobody back");
}

#[test]
fn blocks_of_producer_ids_never_overlap() {
    let mut story = Story::with_brokers(1, &[]);
    let broker_epoch = story.image.broker_epoch(NodeId(1)).0;
    for first in [0, 1000, 2000] {
        let block = AllocateProducerIds { node: 1, broker_epoch, count: 1000 };
        assert_eq!(story.run(Command::AllocateProducerIds(block)), Ok(Accepted::ProducerIds(first)));
    }
    let none = AllocateProducerIds { node: 1, broker_epoch, count: 0 };
    assert!(story.run(Command::AllocateProducerIds(none)).is_err());
}

#[test]
fn a_hole_a_falling_epoch_and_an_unknown_command_stop_the_node() {
    let story = Story::founded(&[]);
    let (image, next) = (&story.image, story.image.index.next());
    assert!(matches!(apply(image, next.next(), Epoch(1), b""), Err(ApplyError::Hole { .. })));
    assert!(matches!(apply(image, LogIndex(1), Epoch(1), b""), Err(ApplyError::Hole { .. })));
    assert!(matches!(apply(image, next, Epoch(0), b""), Err(ApplyError::EpochFell { .. })));
    let unknown = |bytes: &[u8]| apply(image, next, Epoch(1), bytes).unwrap_err();
    assert_eq!(unknown(&[8, 1]), ApplyError::Command(CommandError::Unknown));
    assert_eq!(unknown(&[8, 9]), ApplyError::Command(CommandError::Newer { found: 9 }));
    assert!(matches!(unknown(&[0xff]), ApplyError::Command(CommandError::Malformed(_))));
    assert_eq!(BrokerEpoch::NONE, story.image.broker_epoch(NodeId(1)));
}
