//! What a node with metadata tells of it, at every version.

use super::{
    Handlers,
    testing::{Bench, LIMITS, Peer, broker},
};
use crate::{
    metadata::{
        configs::{Source, TOPIC_KEYS, broker_keys},
        image::DurabilityLevel,
    },
    protocol::{
        bodies::{
            DescribeClusterRequest, DescribeConfigsRequest, DescribeQuorumRequest,
            DescribeTopicPartitionsRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
            OffsetForLeaderEpochRequest, TransactionalId,
            describe_configs_request::DescribeConfigsResource,
            describe_quorum_request,
            describe_topic_partitions_request::{Cursor, TopicRequest},
            list_offsets_request,
            metadata_request::MetadataRequestTopic,
            offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
            text, topic_name,
        },
        errors::ErrorCode,
    },
};

fn bench() -> Bench {
    Bench::new(DurabilityLevel::Synced, &[1, 2])
}

#[tokio::test]
async fn metadata_names_brokers_by_the_listener_that_was_asked() {
    let bench = bench();
    for (listener, port) in [("PLAINTEXT", 9092), ("INTERNAL", 9095)] {
        let mut peer = Peer::connect(&bench.handlers, listener);
        for version in 0..=13 {
            let all = if version == 0 { Some(Vec::new()) } else { None };
            let answer = peer.call(&MetadataRequest::default().with_topics(all), version).await;
            let brokers: Vec<(i32, &str, i32)> =
                answer.brokers.iter().map(|b| (b.node_id.0, b.host.as_str(), b.port)).collect();
            assert_eq!(brokers, [(1, "host1", port), (2, "host2", port)], "v{version}");
            let topic = &answer.topics[0];
            assert_eq!((topic.name.as_ref().unwrap().as_str(), topic.error_code), ("t", 0));
            let leaders: Vec<i32> = topic.partitions.iter().map(|p| p.leader_id.0).collect();
            assert_eq!(leaders, [1, 2]);
            let [first, _] = &topic.partitions[..] else { panic!("two partitions") };
            assert_eq!(first.leader_epoch, if version >= 7 { 3 } else { -1 });
            assert_eq!(topic.topic_id, if version >= 10 { bench.topic.0 } else { uuid::Uuid::nil() });
            assert_eq!(answer.controller_id.0, if version >= 1 { 1 } else { -1 });
            assert_eq!(answer.cluster_id.is_some(), version >= 2);
        }
    }
}

#[tokio::test]
async fn metadata_finds_topics_by_id_and_says_what_is_missing() {
    let bench = bench();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let by_id = |id| MetadataRequestTopic::default().with_name(None).with_topic_id(id);
    let by_name = |name: &str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let topics =
        vec![by_id(bench.topic.0), by_id(uuid::Uuid::from_bytes([9; 16])), by_name("none"), by_name("a/b")];
    let asked = MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false);
    let answer = peer.call(&asked, 13).await;
    let errors: Vec<i16> = answer.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(
        errors,
        [
            0,
            ErrorCode::UNKNOWN_TOPIC_ID.0,
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0,
            ErrorCode::INVALID_TOPIC_EXCEPTION.0
        ]
    );
    assert_eq!(answer.topics[0].name.as_ref().unwrap().as_str(), "t");
    // No topic at all is not every topic.
    let none = MetadataRequest::default().with_topics(Some(Vec::new()));
    assert!(peer.call(&none, 4).await.topics.is_empty());
}

#[tokio::test]
async fn describe_cluster_tells_who_is_fenced_when_asked() {
    let bench = bench();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    for version in 0..=2 {
        let answer = peer.call(&DescribeClusterRequest::default(), version).await;
        let nodes: Vec<i32> = answer.brokers.iter().map(|broker| broker.broker_id.0).collect();
        assert_eq!((nodes, answer.controller_id.0, answer.error_code), (vec![1, 2], 1, 0), "v{version}");
    }
}

#[tokio::test]
async fn partitions_are_described_page_by_page() {
    let bench = bench();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let topics = vec![
        TopicRequest::default().with_name(topic_name("t")),
        TopicRequest::default().with_name(topic_name("x")),
    ];
    let mut asked =
        DescribeTopicPartitionsRequest::default().with_topics(topics).with_response_partition_limit(1);
    let first = peer.call(&asked, 0).await;
    assert_eq!((first.topics.len(), first.topics[0].partitions[0].partition_index), (1, 0));
    let next = first.next_cursor.unwrap();
    assert_eq!((next.topic_name.as_str(), next.partition_index), ("t", 1));
    asked.cursor = Some(Cursor::default().with_topic_name(next.topic_name).with_partition_index(1));
    let second = peer.call(&asked, 0).await;
    assert_eq!(second.topics[0].partitions[0].partition_index, 1);
    assert_eq!(second.topics[1].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
    assert!(second.next_cursor.is_none());
}

#[tokio::test]
async fn configs_are_described_with_what_stands_behind_them() {
    let bench = bench();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let resource = |kind, name: &str, keys: Option<Vec<&'static str>>| {
        let keys = keys.map(|keys| keys.into_iter().map(text).collect());
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(keys)
    };
    for version in 1..=4 {
        let resources = vec![
            resource(2, "t", None),
            resource(4, "1", None),
            resource(2, "t", Some(vec!["flush.messages"])),
            resource(4, "", None),
            resource(2, "none", None),
            resource(4, "2", None),
            resource(8, "1", None),
        ];
        let asked = DescribeConfigsRequest::default()
            .with_resources(resources)
            .with_include_synonyms(true)
            .with_include_documentation(version >= 3);
        let answer = peer.call(&asked, version).await;
        let errors: Vec<i16> = answer.results.iter().map(|result| result.error_code).collect();
        assert_eq!(errors, [0, 0, 0, 0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0, 42, 42], "v{version}");
        assert_eq!(answer.results[0].configs.len(), TOPIC_KEYS.len());
        assert_eq!(answer.results[1].configs.len(), broker_keys().count());
        assert!(answer.results[3].configs.is_empty());
        // The effective durability, and that the cluster chose it.
        let [durability] = &answer.results[2].configs[..] else { panic!("one key") };
        assert_eq!(durability.value.as_deref(), Some("1"));
        assert_eq!(durability.config_source, Source::DynamicCluster as i8);
        let retention =
            answer.results[0].configs.iter().find(|config| config.name.as_str() == "retention.ms").unwrap();
        assert_eq!(retention.synonyms.last().unwrap().name.as_str(), "log.retention.ms");
        if version >= 3 {
            assert!(retention.documentation.as_ref().is_some_and(|text| !text.is_empty()));
        }
    }
}

#[tokio::test]
async fn epochs_end_where_the_log_says() {
    let bench = bench();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    for version in 2..=4 {
        let partition = |index, current, epoch| {
            OffsetForLeaderPartition::default()
                .with_partition(index)
                .with_current_leader_epoch(current)
                .with_leader_epoch(epoch)
        };
        let partitions =
            vec![partition(0, 3, 3), partition(0, 2, 3), partition(1, -1, 3), partition(7, -1, 3)];
        let topic = OffsetForLeaderTopic::default().with_topic(topic_name("t")).with_partitions(partitions);
        let mut asked = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
        if version >= 3 {
            asked = asked.with_replica_id((-1).into());
        }
        let answer = peer.call(&asked, version).await;
        let told: Vec<(i16, i64)> =
            answer.topics[0].partitions.iter().map(|told| (told.error_code, told.end_offset)).collect();
        let expected = [
            (ErrorCode::NONE.0, 0),
            (ErrorCode::FENCED_LEADER_EPOCH.0, -1),
            (ErrorCode::NOT_LEADER_OR_FOLLOWER.0, -1),
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0, -1),
        ];
        assert_eq!(told, expected, "v{version}");
    }
}

#[tokio::test]
async fn the_quorum_without_a_leader_is_no_quorum() {
    let bench = bench();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    for version in 0..=2 {
        let partition = describe_quorum_request::PartitionData::default().with_partition_index(0);
        let topic = describe_quorum_request::TopicData::default()
            .with_topic_name(topic_name("__cluster_metadata"))
            .with_partitions(vec![partition]);
        let answer = peer.call(&DescribeQuorumRequest::default().with_topics(vec![topic]), version).await;
        assert_eq!(
            answer.topics[0].partitions[0].error_code,
            ErrorCode::NOT_LEADER_OR_FOLLOWER.0,
            "v{version}"
        );
    }
}

#[tokio::test]
async fn before_the_image_is_loaded_the_table_of_start_up_holds() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut peer = Peer::connect(&handlers, "PLAINTEXT");
    let producer = InitProducerIdRequest::default().with_transactional_id(None);
    assert_eq!(peer.call(&producer, 5).await.error_code, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS.0);
    let partition = list_offsets_request::ListOffsetsPartition::default().with_timestamp(-1);
    let topic = list_offsets_request::ListOffsetsTopic::default()
        .with_name(topic_name("t"))
        .with_partitions(vec![partition]);
    let asked = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let answer = peer.call(&asked, 10).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
}

#[tokio::test]
async fn transactions_have_no_coordinator_yet() {
    let bench = bench();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    for (id, error) in [("tx", ErrorCode::COORDINATOR_NOT_AVAILABLE), ("", ErrorCode::INVALID_REQUEST)] {
        let asked = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text(id))));
        assert_eq!(peer.call(&asked, 5).await.error_code, error.0);
    }
}
