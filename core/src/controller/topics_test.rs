use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    ids::{NodeId, TopicId},
    metadata::{Command, command::RegisterBroker, configs::Configs, testing::*},
    protocol::errors::ErrorCode,
    runtime::Rng,
};

fn plan(story: &Story, requests: &[TopicRequest]) -> Vec<Result<TopicPlan, ErrorCode>> {
    let (file, rng) = (Configs::new(), Rng::seeded(5));
    let topics = Topics { image: &story.image, node: NodeId(1), file: &file, rng: &rng };
    plan_topics(&topics, requests).into_iter().map(|plan| plan.map_err(|refusal| refusal.code)).collect()
}

fn request(name: &str, partitions: i32, replication_factor: i16) -> TopicRequest {
    TopicRequest { name: name.to_owned(), partitions, replication_factor, ..TopicRequest::default() }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> TopicRequest {
    let nodes = |nodes: &[i32]| nodes.iter().copied().map(NodeId).collect();
    let assignments = assignments.iter().map(|(partition, n)| (*partition, nodes(n))).collect();
    TopicRequest { assignments, ..request(name, -1, -1) }
}

/// Brokers, each in a rack, of which some are fenced.
fn racked(racks: &[(&str, bool)]) -> Story {
    let mut story = Story::founded(&[]);
    for (node, (rack, fenced)) in (1..).zip(racks) {
        let rack = Some((*rack).to_owned());
        story.accept(Command::RegisterBroker(RegisterBroker { rack, ..registration(node, 1) }));
        if !fenced {
            story.unfence(node);
        }
    }
    story
}

#[test]
fn every_refusal_is_kafkas() {
    let mut story = Story::with_brokers(3, &[]);
    story.create("a.b", &[&[1]], &[]);
    story.register(4, 1);
    let config = |name: &str, value: Option<&str>| TopicRequest {
        configs: vec![(name.to_owned(), value.map(str::to_owned))],
        ..request("x", 1, 1)
    };
    let cases = [
        (request("a.b", 1, 1), ErrorCode::TOPIC_ALREADY_EXISTS),
        (request("a_b", 1, 1), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (request("", 1, 1), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (request("..", 1, 1), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (request("ü", 1, 1), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (request("a/b", 1, 1), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (request(&"n".repeat(250), 1, 1), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (request("x", 0, 1), ErrorCode::INVALID_PARTITIONS),
        (request("x", -2, 1), ErrorCode::INVALID_PARTITIONS),
        (request("x", i32::MAX, 1), ErrorCode::POLICY_VIOLATION),
        (request("x", 1, 0), ErrorCode::INVALID_REPLICATION_FACTOR),
        (request("x", 1, -2), ErrorCode::INVALID_REPLICATION_FACTOR),
        (request("x", 1, 5), ErrorCode::INVALID_REPLICATION_FACTOR),
        (config("retention.mss", Some("1")), ErrorCode::INVALID_CONFIG),
        (config("retention.ms", Some("x")), ErrorCode::INVALID_CONFIG),
        (config("retention.ms", None), ErrorCode::INVALID_CONFIG),
        (assigned("x", &[(0, &[9])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (assigned("x", &[(0, &[1, 1])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (assigned("x", &[(0, &[])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (assigned("x", &[(1, &[1])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (assigned("x", &[(0, &[1]), (0, &[1])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (assigned("x", &[(0, &[1]), (1, &[1, 2])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (assigned("x", &[(0, &[4])]), ErrorCode::INVALID_REPLICA_ASSIGNMENT),
        (TopicRequest { partitions: 1, ..assigned("x", &[(0, &[1])]) }, ErrorCode::INVALID_REQUEST),
        (TopicRequest { replication_factor: 1, ..assigned("x", &[(0, &[1])]) }, ErrorCode::INVALID_REQUEST),
    ];
    for (request, code) in cases {
        assert_eq!(plan(&story, std::slice::from_ref(&request))[0], Err(code), "{request:?}");
    }
    let twice = [request("x", 1, 1), request("x", 2, 1), request("y", 1, 1)];
    let codes: Vec<_> = plan(&story, &twice).into_iter().map(|plan| plan.err()).collect();
    assert_eq!(codes, [Some(ErrorCode::INVALID_REQUEST), Some(ErrorCode::INVALID_REQUEST), None]);
    let many = [request("x", 9_000, 1), request("y", 2_000, 1)];
    let codes: Vec<_> = plan(&story, &many).into_iter().map(|plan| plan.err()).collect();
    assert_eq!(codes, [None, Some(ErrorCode::POLICY_VIOLATION)]);
}

#[test]
fn what_is_not_said_comes_from_the_clusters_configs() {
    let mut story = Story::with_brokers(3, &[("num.partitions", "4"), ("default.replication.factor", "2")]);
    let made = plan(&story, &[request("x", -1, -1)]).remove(0).unwrap();
    assert_eq!((made.partitions, made.replication_factor), (4, 2));
    story.accept(made.command);
    assert!(story.topic("x").partitions.iter().all(|partition| partition.isr.len() == 2));
    let made = plan(&story, &[assigned("y", &[(1, &[3, 1]), (0, &[2, 3])])]).remove(0).unwrap();
    story.accept(made.command);
    assert_eq!(story.state("y"), (2, vec![2, 3], vec![]));
}

#[test]
fn a_topic_is_deleted_by_name_or_by_id() {
    let mut story = Story::with_brokers(1, &[]);
    let id = story.create("a", &[&[1]], &[]);
    let delete = |story: &Story, name: Option<&str>, id: TopicId, file: &[(&str, &str)]| {
        let file = file.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let rng = Rng::seeded(1);
        let topics = Topics { image: &story.image, node: NodeId(1), file: &file, rng: &rng };
        plan_deletion(&topics, name, id).map(|(_, _, command)| command).map_err(|refusal| refusal.code)
    };
    let nil = TopicId::default();
    assert_eq!(delete(&story, Some("b"), nil, &[]), Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert_eq!(delete(&story, None, topic_id("b"), &[]), Err(ErrorCode::UNKNOWN_TOPIC_ID));
    assert_eq!(delete(&story, Some("a"), id, &[]), Err(ErrorCode::INVALID_REQUEST));
    let off = &[("delete.topic.enable", "false")];
    assert_eq!(delete(&story, Some("a"), nil, off), Err(ErrorCode::TOPIC_DELETION_DISABLED));
    assert_eq!(delete(&story, Some("a"), nil, &[]), delete(&story, None, id, &[]));
    let command = delete(&story, None, id, &[]).unwrap();
    story.accept(command);
}

#[test]
fn configs_are_checked_before_they_are_proposed() {
    let mut story = Story::with_brokers(2, &[]);
    story.create("a", &[&[1]], &[]);
    let change = |resource_type, name: &str, key: &str, operation, value: Option<&str>| {
        let changes = vec![(key.to_owned(), operation, value.map(str::to_owned))];
        let plan = ConfigPlan { resource_type, resource_name: name.to_owned(), changes };
        plan_configs(&story.image, &plan).map(drop).map_err(|refusal| refusal.code)
    };
    assert_eq!(change(2, "a", "retention.ms", 0, Some("5")), Ok(()));
    assert_eq!(change(2, "b", "retention.ms", 0, Some("5")), Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert_eq!(change(2, "a", "retention.ms", 0, None), Err(ErrorCode::INVALID_CONFIG));
    assert_eq!(change(2, "a", "retention.ms", 1, None), Ok(()));
    assert_eq!(change(2, "a", "retention.ms", 2, Some("5")), Err(ErrorCode::INVALID_CONFIG));
    assert_eq!(change(2, "a", "cleanup.policy", 2, Some("compact")), Ok(()));
    assert_eq!(change(2, "a", "retention.ms", 9, Some("5")), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(change(4, "", "log.retention.ms", 0, Some("5")), Ok(()));
    assert_eq!(change(4, "1", "node.id", 0, Some("5")), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(change(4, "1", "log.retention.ms", 0, Some("5")), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(change(4, "9", "log.retention.ms", 0, Some("5")), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(change(3, "", "log.retention.ms", 0, Some("5")), Err(ErrorCode::INVALID_REQUEST));
}

#[test]
fn three_racks_get_a_replica_each_and_every_broker_its_share() {
    let story = racked(&[
        ("a", false),
        ("a", false),
        ("a", false),
        ("b", false),
        ("b", false),
        ("b", false),
        ("c", false),
        ("c", false),
        ("c", false),
    ]);
    let placed = place(&story.image, 90, 3, &Rng::seeded(7)).unwrap();
    let rack = |node: NodeId| story.image.brokers[&node].rack.clone();
    let (mut leaders, mut replicas) = (BTreeMap::<NodeId, u32>::new(), BTreeMap::<NodeId, u32>::new());
    for nodes in &placed {
        let racks: std::collections::BTreeSet<_> = nodes.iter().map(|node| rack(*node)).collect();
        assert_eq!(racks.len(), 3, "{nodes:?}");
        *leaders.entry(nodes[0]).or_default() += 1;
        nodes.iter().for_each(|node| *replicas.entry(*node).or_default() += 1);
    }
    assert!(leaders.len() == 9 && leaders.values().all(|count| (9..=11).contains(count)), "{leaders:?}");
    assert!(replicas.values().all(|count| (28..=32).contains(count)), "{replicas:?}");
}

#[test]
fn fenced_brokers_are_the_last_resort_and_never_lead() {
    let story = racked(&[("a", false), ("a", true), ("b", false), ("b", false)]);
    for nodes in place(&story.image, 20, 3, &Rng::seeded(1)).unwrap() {
        assert_ne!(nodes[0], NodeId(2));
        let mut sorted = nodes.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 3);
    }
    let alone = racked(&[("a", true)]);
    assert_eq!(place(&alone.image, 1, 1, &Rng::seeded(1)), Err(PlacementError::AllFenced));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_placement_is_of_distinct_brokers_with_a_live_leader_on_as_many_racks_as_can_be(
        brokers in prop::collection::vec((0usize..4, prop::bool::weighted(0.2)), 1..12),
        (partitions, wanted, seed) in (1usize..40, 1usize..6, any::<u64>()),
    ) {
        let names = ["a", "b", "c", "d"];
        let racks: Vec<(&str, bool)> = brokers.iter().map(|(rack, fenced)| (names[*rack], *fenced)).collect();
        let story = racked(&racks);
        let live = racks.iter().filter(|(_, fenced)| !fenced).count();
        match place(&story.image, partitions, wanted, &Rng::seeded(seed)) {
            Err(PlacementError::AllFenced) => prop_assert_eq!(live, 0),
            Err(PlacementError::TooFewBrokers { .. }) => prop_assert!(wanted > racks.len()),
            Ok(placed) => {
                prop_assert_eq!(placed.len(), partitions);
                let all: std::collections::BTreeSet<&str> = racks.iter().map(|(rack, _)| *rack).collect();
                for nodes in placed {
                    let distinct: std::collections::BTreeSet<_> = nodes.iter().collect();
                    prop_assert_eq!(distinct.len(), wanted);
                    prop_assert!(story.image.is_active(nodes[0]));
                    let on: std::collections::BTreeSet<_> =
                        nodes.iter().map(|node| story.image.brokers[node].rack.clone()).collect();
                    prop_assert_eq!(on.len(), wanted.min(all.len()));
                }
            }
        }
    }
}
