//! Our codec against another one: both must read what the other writes, at every version.

use kafka_protocol::{
    messages::{self, TopicName, TransactionalId, produce_request as theirs, produce_response as their},
    protocol::{Decodable as _, Encodable as _},
};
use uuid::Uuid;

use super::*;
use crate::ids::{LeaderEpoch, TopicId};

fn topic(version: i16, number: u8) -> TopicRef {
    if version >= TOPIC_IDS {
        TopicRef::Id(TopicId(Uuid::from_bytes([number; 16])))
    } else {
        TopicRef::Name(StrBytes::from_string(format!("topic-{number}")))
    }
}

fn request(version: i16) -> ProduceRequest {
    let partition = |number, index, records: Option<&'static [u8]>| ProducePartition {
        topic: topic(version, number),
        index,
        records: records.map(Bytes::from_static),
    };
    ProduceRequest {
        transactional_id: Some(StrBytes::from_static_str("tx")),
        acks: -1,
        timeout_ms: 30_000,
        partitions: SmallVec::from_iter([
            partition(1, 0, Some(b"abc")),
            partition(1, 7, None),
            partition(2, 3, Some(b"")),
        ]),
    }
}

#[test]
fn requests_are_read_by_another_codec_and_back_at_every_version() {
    for version in 3..=13 {
        let ours = request(version);
        let mut bytes = BytesMut::new();
        ours.encode(&mut bytes, version);
        let mut bytes = bytes.freeze();
        assert_eq!(ProduceRequest::decode(&bytes, version), Ok(ours));
        let read = messages::ProduceRequest::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty());
        assert_eq!(read.transactional_id, Some(TransactionalId(StrBytes::from_static_str("tx"))));
        assert_eq!((read.acks, read.timeout_ms, read.topic_data.len()), (-1, 30_000, 2));
        let partitions: Vec<(i32, Option<&[u8]>)> =
            read.topic_data[0].partition_data.iter().map(|p| (p.index, p.records.as_deref())).collect();
        assert_eq!(partitions, [(0, Some(&b"abc"[..])), (7, None)]);
    }
}

#[test]
fn requests_of_another_codec_are_read_with_tags_that_mean_nothing() {
    for version in 3..=13 {
        let mut partition = theirs::PartitionProduceData::default()
            .with_index(5)
            .with_records(Some(Bytes::from_static(b"batch")));
        let mut topic = theirs::TopicProduceData::default();
        if version >= TOPIC_IDS {
            topic.topic_id = Uuid::from_bytes([9; 16]);
        } else {
            topic.name = TopicName(StrBytes::from_static_str("t"));
        }
        if version >= FLEXIBLE {
            partition = partition.with_unknown_tagged_field(4, Bytes::from_static(b"?"));
        }
        topic.partition_data = vec![partition];
        let request = messages::ProduceRequest::default().with_acks(1).with_topic_data(vec![topic]);
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, version).unwrap();
        let bytes = bytes.freeze();
        let read = ProduceRequest::decode(&bytes, version).unwrap();
        assert_eq!(read.transactional_id, None);
        let [only] = &read.partitions[..] else { panic!("one partition") };
        assert_eq!((only.index, only.records.as_deref()), (5, Some(&b"batch"[..])));
        let slice = only.records.as_ref().unwrap();
        assert!(bytes.as_ptr_range().contains(&slice.as_ptr()), "records are a slice of the frame");
        for cut in 0..bytes.len() {
            assert!(ProduceRequest::decode(&bytes.slice(..cut), version).is_err(), "v{version} cut at {cut}");
        }
        let long = Bytes::from([&bytes[..], b"x"].concat());
        assert_eq!(ProduceRequest::decode(&long, version), Err(Malformed::Trailing));
    }
}

#[test]
fn responses_are_read_by_another_codec_and_back_at_every_version() {
    for version in 3..=13 {
        let mut refused = ProducedPartition::failed(topic(version, 1), 0, ErrorCode::NOT_LEADER_OR_FOLLOWER);
        let mut appended = ProducedPartition::failed(topic(version, 2), 4, ErrorCode::NONE);
        appended.base_offset = Offset(77);
        appended.append_time_ms = 5;
        if version >= 5 {
            appended.log_start = Offset(3);
        }
        if version >= 8 {
            refused.message = Some(StrBytes::from_static_str("moved"));
            refused.record_errors = vec![RecordError { index: 2, message: None }];
        }
        let mut ours = ProduceResponse { throttle_ms: 9, ..ProduceResponse::default() };
        if version >= 10 {
            refused.leader = Some(LeaderHint { leader: NodeId(3), epoch: LeaderEpoch(8) });
            ours.endpoints = vec![NodeEndpoint { node: NodeId(3), host: "h".into(), port: 9092, rack: None }];
        }
        ours.partitions = SmallVec::from_iter([refused, appended]);
        let mut bytes = BytesMut::new();
        ours.encode(&mut bytes, version);
        let mut bytes = bytes.freeze();
        assert_eq!(ProduceResponse::decode(&bytes, version), Ok(ours));
        let read = messages::ProduceResponse::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty());
        assert_eq!(read.throttle_time_ms, 9);
        let first = &read.responses[0].partition_responses[0];
        let second: &their::PartitionProduceResponse = &read.responses[1].partition_responses[0];
        assert_eq!((first.error_code, first.base_offset), (6, -1));
        assert_eq!((second.index, second.base_offset, second.log_append_time_ms), (4, 77, 5));
        if version >= 10 {
            assert_eq!((first.current_leader.leader_id.0, first.current_leader.leader_epoch), (3, 8));
            assert_eq!((read.node_endpoints[0].port, second.current_leader.leader_id.0), (9092, -1));
        }
    }
}

#[test]
fn two_hundred_million_partitions_in_fifteen_bytes_are_refused() {
    let bytes = Bytes::from_static(&[0, 0, 1, 0, 0, 0, 1, 2, 2, b't', 0xff, 0xff, 0xff, 0x7f, 0]);
    assert_eq!(ProduceRequest::decode(&bytes, 9), Err(Malformed::CountTooLarge));
}

#[test]
fn tags_at_their_default_are_left_out() {
    let ours = ProduceResponse {
        partitions: SmallVec::from_iter([ProducedPartition::failed(topic(12, 1), 0, ErrorCode::NONE)]),
        ..ProduceResponse::default()
    };
    let mut bytes = BytesMut::new();
    ours.encode(&mut bytes, 12);
    let theirs = messages::ProduceResponse::default().with_responses(vec![
        their::TopicProduceResponse::default()
            .with_name(TopicName(StrBytes::from_static_str("topic-1")))
            .with_partition_responses(vec![their::PartitionProduceResponse::default().with_base_offset(-1)]),
    ]);
    let mut same = BytesMut::new();
    theirs.encode(&mut same, 12).unwrap();
    assert_eq!(bytes, same);
}
