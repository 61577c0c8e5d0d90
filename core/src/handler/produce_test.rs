use bytes::BytesMut;
use futures_util::FutureExt as _;
use smallvec::SmallVec;

use super::*;
use crate::{
    handler::testing::{Bench, Peer, batch},
    metadata::image::DurabilityLevel,
    protocol::{
        apis::{self, ApiKey},
        bodies::{ListOffsetsRequest, list_offsets_request::*, topic_name},
        header,
    },
};

const VERSION: i16 = 13;

fn request(bench: &Bench, version: i16, index: i32, records: Bytes) -> ProduceRequest {
    let topic = bench.named(version >= 13);
    ProduceRequest {
        acks: 1,
        timeout_ms: 1_000,
        partitions: SmallVec::from_iter([ProducePartition { topic, index, records: Some(records) }]),
        ..ProduceRequest::default()
    }
}

impl Peer {
    async fn send_produce(&mut self, request: &ProduceRequest, version: i16) {
        let mut body = BytesMut::new();
        request.encode(&mut body, version);
        self.send(ApiKey::PRODUCE, version, 5, &body).await;
    }

    async fn produced(&mut self, version: i16) -> ProduceResponse {
        let frame = self.receive().await.expect("an answer");
        let flexible = apis::find(ApiKey::PRODUCE).unwrap().has_flexible_response_header(version);
        let (_, _, body) = header::read_response(frame, flexible).unwrap();
        ProduceResponse::decode(&body, version).unwrap()
    }

    async fn produce(&mut self, request: &ProduceRequest, version: i16) -> ProduceResponse {
        self.send_produce(request, version).await;
        self.produced(version).await
    }
}

#[tokio::test]
async fn batches_are_appended_at_every_version() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    for version in 3..=VERSION {
        let answer = peer.produce(&request(&bench, version, 0, batch(2)), version).await;
        let told = &answer.partitions[0];
        assert_eq!((told.error, told.base_offset.0), (ErrorCode::NONE, i64::from(version - 3) * 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_synced_topic_answers_after_the_sync_and_not_before() {
    let bench = Bench::new(DurabilityLevel::Synced, &[1]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    peer.send_produce(&request(&bench, VERSION, 0, batch(1)), VERSION).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(peer.receive().now_or_never().is_none());
    bench.sync().await;
    assert_eq!(peer.produced(VERSION).await.partitions[0].error, ErrorCode::NONE);
}

#[tokio::test(start_paused = true)]
async fn acks_all_waits_for_the_followers_until_the_time_is_up() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let asked = ProduceRequest { acks: -1, ..request(&bench, VERSION, 0, batch(1)) };
    let answer = peer.produce(&asked, VERSION).await;
    assert_eq!(answer.partitions[0].error, ErrorCode::REQUEST_TIMED_OUT);
    assert_eq!(bench.replica.progress().log_end, Offset(1), "it is appended all the same");
}

#[tokio::test(start_paused = true)]
async fn several_may_wait_at_once_and_are_answered_in_order() {
    let bench = Bench::new(DurabilityLevel::Synced, &[1]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    for _ in 0..3 {
        peer.send_produce(&request(&bench, VERSION, 0, batch(1)), VERSION).await;
    }
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.replica.progress().log_end, Offset(3), "all were begun");
    bench.sync().await;
    for offset in 0..3 {
        assert_eq!(peer.produced(VERSION).await.partitions[0].base_offset, Offset(offset));
    }
}

#[tokio::test]
async fn acks_0_has_no_answer_and_an_error_ends_the_connection() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let silent = ProduceRequest { acks: 0, ..request(&bench, VERSION, 0, batch(1)) };
    peer.send_produce(&silent, VERSION).await;
    // The next answer is the next request's.
    let answer = peer.produce(&request(&bench, VERSION, 0, batch(1)), VERSION).await;
    assert_eq!(answer.partitions[0].base_offset, Offset(1));
    let failing = ProduceRequest { acks: 0, ..request(&bench, VERSION, 1, batch(1)) };
    peer.send_produce(&failing, VERSION).await;
    assert_eq!(peer.receive().await, None);
}

#[tokio::test]
async fn a_producer_with_acks_0_may_go_at_once() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let silent = ProduceRequest { acks: 0, ..request(&bench, VERSION, 0, batch(1)) };
    for _ in 0..5 {
        peer.send_produce(&silent, VERSION).await;
    }
    drop(peer);
    let mut progress = bench.replica.watch();
    progress.wait_for(|progress| progress.log_end == Offset(5)).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_told_for_each_partition() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let mut broken = batch(1).to_vec();
    *broken.last_mut().unwrap() ^= 1;
    for (asked, error) in [
        (request(&bench, VERSION, 1, batch(1)), ErrorCode::NOT_LEADER_OR_FOLLOWER),
        (request(&bench, VERSION, 9, batch(1)), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (request(&bench, VERSION, -1, batch(1)), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (request(&bench, VERSION, 0, broken.into()), ErrorCode::CORRUPT_MESSAGE),
        (
            ProduceRequest { acks: 2, ..request(&bench, VERSION, 0, batch(1)) },
            ErrorCode::INVALID_REQUIRED_ACKS,
        ),
    ] {
        let answer = peer.produce(&asked, VERSION).await;
        assert_eq!(answer.partitions[0].error, error);
        let hinted = error == ErrorCode::NOT_LEADER_OR_FOLLOWER;
        assert_eq!(answer.partitions[0].leader.is_some(), hinted);
        assert_eq!(
            answer.endpoints.first().map(|endpoint| endpoint.host.as_str()),
            hinted.then_some("host2")
        );
    }
    assert_eq!(bench.replica.progress().log_end, Offset(0));
}

#[tokio::test]
async fn the_ends_of_a_partition_are_listed() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    peer.produce(&request(&bench, VERSION, 0, batch(4)), VERSION).await;
    for version in 1..=10 {
        for (time, offset, error) in [
            (-1, 4, ErrorCode::NONE),
            (-2, 0, ErrorCode::NONE),
            (0, 0, ErrorCode::NONE),
            (2_000, -1, ErrorCode::NONE),
            (-9, -1, ErrorCode::UNSUPPORTED_VERSION),
        ] {
            let partition = ListOffsetsPartition::default().with_partition_index(0).with_timestamp(time);
            let topic =
                ListOffsetsTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
            let asked = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
            let answer = peer.call(&asked, version).await;
            let told = &answer.topics[0].partitions[0];
            assert_eq!((told.error_code, told.offset), (error.0, offset), "v{version} {time}");
        }
    }
}
