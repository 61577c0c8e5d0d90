use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use super::super::{
    Handlers,
    testing::{LIMITS, Peer, broker, framed},
};
use crate::protocol::{
    apis::{ApiKey, PRODUCE_ADVERTISED_MIN},
    bodies::{
        ApiVersionsRequest, DescribeClusterRequest, MetadataRequest, metadata_request::MetadataRequestTopic,
        text, topic_name,
    },
    errors::ErrorCode,
    primitives::Reader,
};

fn api_versions() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1"))
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut peer = Peer::connect(&handlers, "PLAINTEXT");
    let mut bytes = Vec::new();
    for id in 0..2000i32 {
        let frame = framed(ApiKey::API_VERSIONS, 0, id, &[]);
        bytes.extend(i32::try_from(frame.len()).unwrap().to_be_bytes());
        bytes.extend(frame);
    }
    let (read, mut write) = tokio::io::split(peer.0);
    let send = async {
        write.write_all(&bytes).await.unwrap();
        write
    };
    let receive = async {
        let mut frames = crate::protocol::frame::FrameReader::new(read, 1 << 20, None);
        for id in 0..2000i32 {
            let frame = frames.next().await.unwrap().unwrap();
            assert_eq!(Reader::new(&frame.bytes).i32(), Ok(id));
        }
    };
    tokio::join!(send, receive);
    peer = Peer::connect(&handlers, "PLAINTEXT");
    assert_eq!(peer.call(&api_versions(), 4).await.error_code, 0);
}

#[tokio::test]
async fn api_versions_tells_what_is_dispatched_and_nothing_internal() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut peer = Peer::connect(&handlers, "PLAINTEXT");
    for version in 0..=4 {
        let asked = if version >= 3 { api_versions() } else { ApiVersionsRequest::default() };
        let answer = peer.call(&asked, version).await;
        let keys: Vec<i16> = answer.api_keys.iter().map(|api| api.api_key).collect();
        assert_eq!(keys, [0, 1, 2, 3, 18, 19, 20, 22, 23, 32, 44, 55, 60, 75]);
        assert_eq!(answer.api_keys[0].min_version, PRODUCE_ADVERTISED_MIN);
        let features: Vec<&str> =
            answer.supported_features.iter().map(|feature| feature.name.as_str()).collect();
        match version {
            0..3 => assert!(features.is_empty()),
            3 => assert_eq!(features, ["metadata.version"]),
            _ => assert_eq!(features, ["kraft.version", "metadata.version"]),
        }
        assert_eq!(answer.finalized_features_epoch, -1, "nothing is final before the cluster is founded");
    }
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_is_answered_with_the_range() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut peer = Peer::connect(&handlers, "PLAINTEXT");
    for version in [6, 99, -7, i16::MAX] {
        peer.send(ApiKey::API_VERSIONS, version, 5, b"whatever").await;
        let answer = peer.receive().await.unwrap();
        assert_eq!(answer, Bytes::from_static(&[0, 0, 0, 5, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 5]));
    }
}

#[tokio::test]
async fn api_versions_5_checks_where_the_client_means_to_be() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut peer = Peer::connect(&handlers, "PLAINTEXT");
    // Name and version of the software, cluster, node, no tags.
    for (cluster, node, error) in [
        (&[0][..], -1, ErrorCode::NONE),
        (&[0], 1, ErrorCode::INVALID_REQUEST),
        // This node does not know its cluster yet.
        (&[2, b'x'], 9, ErrorCode::NONE),
    ] {
        let body = [&[2, b'j', 2, b'1'][..], cluster, &i32::to_be_bytes(node), &[0]].concat();
        peer.send(ApiKey::API_VERSIONS, 5, 5, &body).await;
        let answer = peer.receive().await.unwrap();
        assert_eq!(i16::from_be_bytes([answer[4], answer[5]]), error.0);
    }
}

#[tokio::test]
async fn a_client_with_a_strange_name_is_refused() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut peer = Peer::connect(&handlers, "PLAINTEXT");
    for name in ["", "-a", "a b", "é"] {
        let answer = peer.call(&api_versions().with_client_software_name(text(name)), 3).await;
        assert_eq!(answer.error_code, ErrorCode::INVALID_REQUEST.0, "{name}");
    }
}

#[tokio::test]
async fn what_is_not_served_closes_the_connection() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    for (listener, key, version) in [
        ("PLAINTEXT", 0, 2),
        ("PLAINTEXT", 0, 14),
        ("PLAINTEXT", 3, 14),
        ("PLAINTEXT", 999, 0),
        ("PLAINTEXT", -1, 0),
        ("PLAINTEXT", 63, 0),
        ("PLAINTEXT", 32000, 0),
        ("CONTROLLER", 3, 1),
    ] {
        let mut peer = Peer::connect(&handlers, listener);
        peer.send(ApiKey(key), version, 1, &[]).await;
        assert_eq!(peer.receive().await, None, "{listener} {key} {version}");
    }
}

#[tokio::test]
async fn before_the_image_is_loaded_named_topics_will_have_a_leader() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut peer = Peer::connect(&handlers, "PLAINTEXT");
    for version in 0..=13 {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name("t")));
        let answer = peer.call(&MetadataRequest::default().with_topics(Some(vec![topic])), version).await;
        assert_eq!(answer.topics[0].error_code, ErrorCode::LEADER_NOT_AVAILABLE.0, "v{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn before_the_image_is_loaded_a_wish_for_all_topics_is_held_and_then_closed() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    for (version, topics) in [(0, Some(vec![])), (1, None), (13, None)] {
        let mut peer = Peer::connect(&handlers, "PLAINTEXT");
        let mut body = bytes::BytesMut::new();
        let request = MetadataRequest::default().with_topics(topics);
        crate::protocol::bodies::encode(&mut body, &request, ApiKey::METADATA, version).unwrap();
        peer.send(ApiKey::METADATA, version, 1, &body).await;
        assert_eq!(peer.receive().await, None, "v{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_and_unfinished_requests_end() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut silent = Peer::connect(&handlers, "PLAINTEXT");
    let mut unfinished = Peer::connect(&handlers, "PLAINTEXT");
    unfinished.0.write_all(&[0, 0]).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(unfinished.receive().await, None);
    assert!(begun.elapsed() < std::time::Duration::from_secs(90));
    assert_eq!(silent.receive().await, None);
    assert!(begun.elapsed() > std::time::Duration::from_secs(599));
}

#[tokio::test]
async fn describe_cluster_wants_brokers() {
    let handlers = Handlers::with_limits(broker(), LIMITS);
    let mut peer = Peer::connect(&handlers, "PLAINTEXT");
    for (kind, error) in [
        (1, ErrorCode::NONE),
        (2, ErrorCode::MISMATCHED_ENDPOINT_TYPE),
        (7, ErrorCode::UNSUPPORTED_ENDPOINT_TYPE),
    ] {
        let answer = peer.call(&DescribeClusterRequest::default().with_endpoint_type(kind), 2).await;
        assert_eq!(answer.error_code, error.0);
    }
}
