//! Our codec against another one: both must read what the other writes, at every version.

use kafka_protocol::{
    messages::{self, TopicName, fetch_request as theirs, fetch_response as their},
    protocol::{Decodable as _, Encodable as _},
};
use uuid::Uuid;

use super::*;
use crate::{
    ids::{ProducerId, TopicId},
    protocol::{
        errors::ErrorCode,
        fetch_response::{Aborted, EpochEnd, FetchResponse, FetchedPartition},
        hints::{LeaderHint, NodeEndpoint},
        outgoing::Outgoing,
    },
};

fn topic(version: i16, number: u8) -> TopicRef {
    if version >= TOPIC_IDS {
        TopicRef::Id(TopicId(Uuid::from_bytes([number; 16])))
    } else {
        TopicRef::Name(StrBytes::from_string(format!("topic-{number}")))
    }
}

/// A replica's request with every field set that the version has.
fn request(version: i16) -> FetchRequest {
    let mut partition = FetchPartition::from(topic(version, 1), 3, Offset(44), 1 << 20);
    if version >= 5 {
        partition.log_start = Offset(2);
    }
    if version >= 9 {
        partition.leader_epoch = LeaderEpoch(6);
    }
    if version >= 12 {
        partition.last_epoch = LeaderEpoch(5);
        partition.synced_end = Some(Offset(40));
    }
    if version >= 17 {
        partition.directory = DirectoryId(Uuid::from_bytes([8; 16]));
    }
    if version >= 18 {
        partition.high_watermark = Some(Offset(39));
    }
    let mut request = FetchRequest {
        replica: NodeId(2),
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 10 << 20,
        isolation: 1,
        partitions: vec![partition, FetchPartition::from(topic(version, 2), 0, Offset(0), 100)],
        ..FetchRequest::default()
    };
    if version >= 7 {
        (request.session_id, request.session_epoch) = (12, 3);
        request.forgotten = vec![(topic(version, 3), 1), (topic(version, 3), 2)];
    }
    if version >= 11 {
        request.rack = StrBytes::from_static_str("r1");
    }
    if version >= 12 {
        request.cluster_id = Some(StrBytes::from_static_str("c"));
    }
    if version >= REPLICA_STATE {
        request.replica_epoch = BrokerEpoch(19);
    }
    request
}

#[test]
fn requests_are_read_by_another_codec_and_back_at_every_version() {
    for version in 4..=18 {
        let ours = request(version);
        let mut bytes = BytesMut::new();
        ours.encode(&mut bytes, version);
        let mut bytes = bytes.freeze();
        assert_eq!(FetchRequest::decode(&bytes, version).as_ref(), Ok(&ours), "v{version}");
        for cut in 0..bytes.len() {
            assert!(FetchRequest::decode(&bytes.slice(..cut), version).is_err(), "v{version} cut at {cut}");
        }
        let read = messages::FetchRequest::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty());
        let replica = if version >= REPLICA_STATE { read.replica_state.replica_id } else { read.replica_id };
        assert_eq!((replica.0, read.max_wait_ms, read.isolation_level), (2, 500, 1));
        let partition = &read.topics[0].partitions[0];
        assert_eq!((partition.partition, partition.fetch_offset), (3, 44));
        assert_eq!(partition.log_start_offset, ours.partitions[0].log_start.0);
        assert_eq!(partition.high_watermark, if version >= 18 { 39 } else { i64::MAX });
        assert_eq!(read.forgotten_topics_data.len(), usize::from(version >= 7));
        if version >= 12 {
            let synced = partition.unknown_tagged_fields.get(&10_000).unwrap();
            assert_eq!(synced[..], 40i64.to_be_bytes());
        }
    }
}

#[test]
fn a_consumers_request_of_another_codec_is_read_at_every_version() {
    for version in 4..=18 {
        let mut one = theirs::FetchTopic::default()
            .with_partitions(vec![theirs::FetchPartition::default().with_partition(1).with_fetch_offset(9)]);
        if version >= TOPIC_IDS {
            one.topic_id = Uuid::from_bytes([1; 16]);
        } else {
            one.topic = TopicName(StrBytes::from_static_str("topic-1"));
        }
        let request = messages::FetchRequest::default().with_replica_id((-1).into()).with_topics(vec![one]);
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, version).unwrap();
        let read = FetchRequest::decode(&bytes.freeze(), version).unwrap();
        assert_eq!((read.replica, read.session_epoch, read.max_bytes), (NodeId::NONE, -1, i32::MAX));
        assert_eq!(read.partitions, [FetchPartition::from(topic(version, 1), 1, Offset(9), 0)]);
    }
}

fn response(version: i16) -> FetchResponse {
    let mut full = FetchedPartition::failed(topic(version, 1), 3, ErrorCode::NONE);
    full.high_watermark = Offset(100);
    full.last_stable = Offset(90);
    full.aborted = Some(vec![Aborted { producer: ProducerId(4), first: Offset(50) }]);
    full.records = Bytes::from_static(b"some batches").into();
    let mut moved = FetchedPartition::failed(topic(version, 1), 4, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let mut response = FetchResponse { throttle_ms: 1, ..FetchResponse::default() };
    if version >= 5 {
        full.log_start = Offset(7);
    }
    if version >= 7 {
        response.session_id = 5;
    }
    if version >= 12 {
        full.diverging = Some(EpochEnd { epoch: LeaderEpoch(2), end: Offset(30) });
        moved.leader = Some(LeaderHint { leader: NodeId(1), epoch: LeaderEpoch(9) });
    }
    if version >= 16 {
        response.endpoints =
            vec![NodeEndpoint { node: NodeId(1), host: "host".into(), port: 19092, rack: Some("r".into()) }];
    }
    response.partitions = vec![full, moved];
    response
}

#[test]
fn responses_are_read_by_another_codec_and_back_at_every_version() {
    for version in 4..=18 {
        let mut frame = Outgoing::new();
        response(version).encode(&mut frame, version);
        let mut bytes = frame.into_bytes().unwrap();
        for cut in 0..bytes.len() {
            assert!(FetchResponse::decode(&bytes.slice(..cut), version).is_err(), "v{version} cut at {cut}");
        }
        let ours = FetchResponse::decode(&bytes, version).unwrap();
        assert_eq!(
            format!("{ours:?}"),
            format!("{:?}", {
                let mut same = response(version);
                same.partitions[1].records = Bytes::new().into();
                same
            })
        );
        let read = messages::FetchResponse::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty());
        let [full, moved] = &read.responses[0].partitions[..] else { panic!("two partitions") };
        assert_eq!((full.high_watermark, full.last_stable_offset), (100, 90));
        assert_eq!(full.records.as_deref(), Some(&b"some batches"[..]));
        assert_eq!(full.aborted_transactions.as_ref().unwrap()[0].first_offset, 50);
        assert_eq!(moved.records.as_deref(), Some(&b""[..]), "records are empty, not null");
        assert_eq!((moved.error_code, moved.aborted_transactions.is_none()), (6, true));
        if version >= 12 {
            assert_eq!((full.diverging_epoch.epoch, full.diverging_epoch.end_offset), (2, 30));
            assert_eq!((moved.current_leader.leader_id.0, moved.current_leader.leader_epoch), (1, 9));
        }
        if version >= 16 {
            assert_eq!((read.node_endpoints[0].node_id.0, read.node_endpoints[0].port), (1, 19092));
        }
    }
}

#[test]
fn tags_at_their_default_are_left_out() {
    for version in [12, 16, 18] {
        let ours = FetchResponse {
            partitions: vec![FetchedPartition::failed(topic(version, 1), 0, ErrorCode::NONE)],
            ..FetchResponse::default()
        };
        let mut frame = Outgoing::new();
        ours.encode(&mut frame, version);
        let partition = their::PartitionData::default()
            .with_high_watermark(-1)
            .with_last_stable_offset(-1)
            .with_log_start_offset(-1)
            .with_aborted_transactions(None)
            .with_preferred_read_replica((-1).into());
        let mut one = their::FetchableTopicResponse::default().with_partitions(vec![partition]);
        if version >= TOPIC_IDS {
            one.topic_id = Uuid::from_bytes([1; 16]);
        } else {
            one.topic = TopicName(StrBytes::from_static_str("topic-1"));
        }
        let mut same = BytesMut::new();
        messages::FetchResponse::default().with_responses(vec![one]).encode(&mut same, version).unwrap();
        assert_eq!(frame.into_bytes().unwrap(), same.freeze());
    }
}

#[test]
fn counts_without_bytes_behind_them_are_refused() {
    let mut bytes = BytesMut::new();
    FetchRequest::default().encode(&mut bytes, 18);
    // The topics' count follows the first 21 bytes.
    let at = 21;
    let mut bytes = bytes.to_vec();
    bytes.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(FetchRequest::decode(&bytes.into(), 18), Err(Malformed::CountTooLarge));
}
