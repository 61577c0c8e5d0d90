use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use uuid::Uuid;

use crate::{
    handler::testing::{Bench, Peer, batch},
    ids::{BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, Offset},
    metadata::image::DurabilityLevel,
    partition::replica::Acks,
    protocol::{
        apis::{self, ApiKey},
        errors::ErrorCode,
        fetch::{FetchPartition, FetchRequest},
        fetch_response::FetchResponse,
        header,
        internal::{HelloRequest, HelloResponse, Purpose},
    },
};

const VERSION: i16 = 18;

impl Peer {
    async fn send_fetch(&mut self, request: &FetchRequest, version: i16) {
        let mut body = BytesMut::new();
        request.encode(&mut body, version);
        self.send(ApiKey::FETCH, version, 5, &body).await;
    }

    async fn fetched(&mut self, version: i16) -> FetchResponse {
        let frame = self.receive().await.expect("an answer");
        let flexible = apis::find(ApiKey::FETCH).unwrap().has_flexible_response_header(version);
        let (_, _, body) = header::read_response(frame, flexible).unwrap();
        FetchResponse::decode(&body, version).unwrap()
    }

    async fn fetch(&mut self, request: &FetchRequest, version: i16) -> FetchResponse {
        self.send_fetch(request, version).await;
        self.fetched(version).await
    }

    async fn hello(&mut self, node: i32, purpose: Purpose) -> ErrorCode {
        let hello = HelloRequest {
            cluster: Uuid::from_bytes([1; 16]),
            node: NodeId(node),
            directory: DirectoryId::default(),
            incarnation: Uuid::from_bytes([u8::try_from(node).unwrap(); 16]),
            broker_epoch: BrokerEpoch(i64::from(node) * 100),
            purpose,
        };
        let mut body = BytesMut::new();
        hello.encode(&mut body);
        self.send(ApiKey::HELLO, 0, 1, &body).await;
        let (_, _, body) = header::read_response(self.receive().await.unwrap(), true).unwrap();
        HelloResponse::decode(&body).unwrap().error
    }
}

fn from(bench: &Bench, offset: i64) -> FetchPartition {
    FetchPartition::from(bench.named(true), 0, Offset(offset), 1 << 20)
}

fn request(partitions: Vec<FetchPartition>) -> FetchRequest {
    FetchRequest { max_wait_ms: 500, min_bytes: 1, partitions, ..FetchRequest::default() }
}

/// A replicated topic whose only replica is this node: everything appended is visible.
fn alone() -> Bench {
    Bench::new(DurabilityLevel::Replicated, &[1])
}

fn records(response: &FetchResponse) -> Bytes {
    response.partitions[0].records.to_bytes().unwrap()
}

#[tokio::test]
async fn consumers_read_what_was_written_at_every_version() {
    let bench = alone();
    let written = batch(3);
    bench.replica.append_as_leader(&written, Acks::Leader).unwrap();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    for version in 4..=VERSION {
        let partition = FetchPartition::from(bench.named(version >= 13), 0, Offset(1), 1 << 20);
        let answer = peer.fetch(&request(vec![partition]), version).await;
        assert_eq!(answer.partitions[0].error, ErrorCode::NONE, "v{version}");
        // But for base offset and epoch, byte for byte.
        assert_eq!(records(&answer)[16..], written[16..], "v{version}");
        assert_eq!(answer.partitions[0].high_watermark, Offset(3));
    }
}

#[tokio::test]
async fn a_consumer_waits_for_records_and_no_longer() {
    let bench = alone();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let patient = FetchRequest { max_wait_ms: 60_000, ..request(vec![from(&bench, 0)]) };
    let append = async {
        tokio::task::yield_now().await;
        bench.replica.append_as_leader(&batch(1), Acks::Leader).unwrap();
    };
    let (answer, ()) = tokio::join!(peer.fetch(&patient, VERSION), append);
    assert!(!records(&answer).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_answered_with_nothing_when_the_time_is_up() {
    let bench = alone();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let begun = tokio::time::Instant::now();
    let answer = peer.fetch(&request(vec![from(&bench, 0)]), VERSION).await;
    assert!(records(&answer).is_empty());
    assert_eq!(begun.elapsed().as_millis() / 100, 5);
}

#[tokio::test]
async fn a_consumer_sees_nothing_past_the_high_watermark() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    bench.replica.append_as_leader(&batch(3), Acks::Leader).unwrap();
    let mut peer = Peer::connect(&bench.handlers, "INTERNAL");
    for replica in [-1, -2] {
        let asked =
            FetchRequest { max_wait_ms: 0, replica: NodeId(replica), ..request(vec![from(&bench, 0)]) };
        let answer = peer.fetch(&asked, VERSION).await;
        assert_eq!(answer.partitions[0].high_watermark, Offset(0));
        assert!(records(&answer).is_empty());
    }
}

#[tokio::test]
async fn nobody_poses_as_a_replica() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    bench.replica.append_as_leader(&batch(3), Acks::Leader).unwrap();
    let asked = FetchRequest { replica: NodeId(2), ..request(vec![from(&bench, 0)]) };
    // Without a hello, on either listener.
    for listener in ["PLAINTEXT", "INTERNAL"] {
        let mut peer = Peer::connect(&bench.handlers, listener);
        let answer = peer.fetch(&asked, VERSION).await;
        assert_eq!(answer.error, ErrorCode::CLUSTER_AUTHORIZATION_FAILED);
        assert!(records(&answer).is_empty());
    }
    // As another node than the hello named.
    let mut peer = Peer::connect(&bench.handlers, "INTERNAL");
    assert_eq!(peer.hello(3, Purpose::Replication).await, ErrorCode::NONE);
    assert_eq!(peer.fetch(&asked, VERSION).await.error, ErrorCode::CLUSTER_AUTHORIZATION_FAILED);
    // For another purpose.
    let mut peer = Peer::connect(&bench.handlers, "INTERNAL");
    assert_eq!(peer.hello(2, Purpose::Controller).await, ErrorCode::CLUSTER_AUTHORIZATION_FAILED);
}

#[tokio::test]
async fn a_replica_reads_to_the_end_and_moves_the_high_watermark() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    let mut peer = Peer::connect(&bench.handlers, "INTERNAL");
    assert_eq!(peer.hello(2, Purpose::Replication).await, ErrorCode::NONE);
    bench.replica.append_as_leader(&batch(3), Acks::Leader).unwrap();
    let mut asked = FetchRequest { replica: NodeId(2), session_epoch: 0, ..request(vec![from(&bench, 0)]) };
    let first = peer.fetch(&asked, VERSION).await;
    assert!(first.session_id != 0 && !records(&first).is_empty());
    assert_eq!(first.partitions[0].high_watermark, Offset(0));
    // Its next fetch says that it has them; the newer high watermark is told at once.
    asked = FetchRequest { max_wait_ms: 60_000, session_id: first.session_id, session_epoch: 1, ..asked };
    asked.partitions = vec![from(&bench, 3)];
    let second = peer.fetch(&asked, VERSION).await;
    assert_eq!(second.partitions[0].high_watermark, Offset(3));
    assert_eq!(bench.replica.progress().high_watermark, Offset(3));
}

#[tokio::test]
async fn a_replica_that_did_not_take_a_high_watermark_in_is_told_it_again() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    let mut peer = Peer::connect(&bench.handlers, "INTERNAL");
    peer.hello(2, Purpose::Replication).await;
    bench.replica.append_as_leader(&batch(3), Acks::Leader).unwrap();
    let stands =
        |offset, known| FetchPartition { high_watermark: Some(Offset(known)), ..from(&bench, offset) };
    let mut asked = FetchRequest { replica: NodeId(2), session_epoch: 0, ..request(vec![stands(0, 0)]) };
    let id = peer.fetch(&asked, VERSION).await.session_id;
    asked = FetchRequest { max_wait_ms: 60_000, session_id: id, session_epoch: 1, ..asked };
    asked.partitions = vec![stands(3, 0)];
    assert_eq!(peer.fetch(&asked, VERSION).await.partitions[0].high_watermark, Offset(3));
    // Its log had moved when that answer came, and it says what it knows.
    asked.session_epoch = 2;
    let again = peer.fetch(&asked, VERSION).await;
    assert_eq!(again.partitions.first().map(|told| told.high_watermark), Some(Offset(3)));
    // One that knows is not told again.
    asked = FetchRequest { max_wait_ms: 0, session_epoch: 3, partitions: vec![stands(3, 3)], ..asked };
    assert_eq!(peer.fetch(&asked, VERSION).await.partitions.len(), 0);
}

#[tokio::test]
async fn a_newer_fetch_of_a_replica_ends_the_one_that_waits() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    let mut peer = Peer::connect(&bench.handlers, "INTERNAL");
    peer.hello(2, Purpose::Replication).await;
    let mut asked = FetchRequest {
        max_wait_ms: 0,
        replica: NodeId(2),
        session_epoch: 0,
        ..request(vec![from(&bench, 0)])
    };
    let id = peer.fetch(&asked, VERSION).await.session_id;
    asked = FetchRequest {
        max_wait_ms: 3_600_000,
        session_id: id,
        session_epoch: 1,
        partitions: Vec::new(),
        ..asked
    };
    peer.send_fetch(&asked, VERSION).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(peer.receive().now_or_never().is_none(), "an idle session waits");
    peer.send_fetch(&FetchRequest { session_epoch: 2, max_wait_ms: 0, ..asked }, VERSION).await;
    for _ in 0..2 {
        let answer = peer.fetched(VERSION).await;
        assert_eq!((answer.error, answer.session_id, answer.partitions.len()), (ErrorCode::NONE, id, 0));
    }
}

#[tokio::test]
async fn a_session_tells_only_of_what_has_changed() {
    let bench = alone();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let mut asked = FetchRequest { max_wait_ms: 0, session_epoch: 0, ..request(vec![from(&bench, 0)]) };
    let first = peer.fetch(&asked, VERSION).await;
    assert_eq!(first.partitions.len(), 1);
    asked = FetchRequest { session_id: first.session_id, session_epoch: 1, partitions: Vec::new(), ..asked };
    assert_eq!(peer.fetch(&asked, VERSION).await.partitions.len(), 0);
    bench.replica.append_as_leader(&batch(1), Acks::Leader).unwrap();
    asked.session_epoch = 2;
    assert!(!records(&peer.fetch(&asked, VERSION).await).is_empty());
    // The wrong number, and an unknown session.
    assert_eq!(peer.fetch(&asked, VERSION).await.error, ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    let by_name = FetchRequest { session_epoch: 3, ..asked.clone() };
    assert_eq!(peer.fetch(&by_name, 12).await.error, ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
    let unknown = FetchRequest { session_id: first.session_id ^ 1, ..asked.clone() };
    assert_eq!(peer.fetch(&unknown, VERSION).await.error, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    // Without its last partition a session is over.
    let mut last = FetchRequest { session_epoch: 3, ..asked };
    last.forgotten = vec![(bench.named(true), 0)];
    assert_eq!(peer.fetch(&last, VERSION).await.session_id, 0);
}

#[tokio::test]
async fn a_reader_that_goes_takes_its_session_with_it() {
    let bench = alone();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let mut asked = FetchRequest { max_wait_ms: 0, session_epoch: 0, ..request(vec![from(&bench, 0)]) };
    let id = peer.fetch(&asked, VERSION).await.session_id;
    asked = FetchRequest {
        max_wait_ms: 3_600_000,
        session_id: id,
        session_epoch: 1,
        partitions: Vec::new(),
        ..asked
    };
    peer.send_fetch(&asked, VERSION).await;
    tokio::task::yield_now().await;
    drop(peer);
    let mut other = Peer::connect(&bench.handlers, "PLAINTEXT");
    let gone = FetchRequest { session_epoch: 2, ..asked };
    let ended = async {
        loop {
            let error = other.fetch(&gone, VERSION).await.error;
            if error == ErrorCode::FETCH_SESSION_ID_NOT_FOUND {
                break;
            }
            assert_eq!(error, ErrorCode::INVALID_FETCH_SESSION_EPOCH);
            tokio::task::yield_now().await;
        }
    };
    bench.handlers.broker.runtime.clock.timeout(Duration::from_secs(10), ended).await.unwrap();
}

#[tokio::test]
async fn whoever_comes_to_the_wrong_broker_is_told_the_right_one() {
    let bench = alone();
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let mut elsewhere = from(&bench, 0);
    elsewhere.index = 1;
    let mut fenced = from(&bench, 0);
    fenced.leader_epoch = LeaderEpoch(2);
    let mut early = from(&bench, 0);
    early.leader_epoch = LeaderEpoch(4);
    for (asked, error, leader) in [
        (elsewhere, ErrorCode::NOT_LEADER_OR_FOLLOWER, Some(2)),
        (fenced, ErrorCode::FENCED_LEADER_EPOCH, Some(1)),
        (early, ErrorCode::UNKNOWN_LEADER_EPOCH, None),
        (from(&bench, 5), ErrorCode::OFFSET_OUT_OF_RANGE, None),
    ] {
        let answer = peer.fetch(&request(vec![asked]), VERSION).await;
        let told = &answer.partitions[0];
        assert_eq!((told.error, told.leader.map(|hint| hint.leader.0)), (error, leader));
        assert_eq!(answer.endpoints.first().map(|endpoint| endpoint.node.0), leader);
    }
}

#[tokio::test]
async fn max_bytes_cuts_after_the_first_batch() {
    let bench = alone();
    for _ in 0..3 {
        bench.replica.append_as_leader(&batch(10), Acks::Leader).unwrap();
    }
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    for (partition_max, max, expected) in [(1, 1 << 20, 1), (1 << 20, 1, 1), (1 << 20, 1 << 20, 3)] {
        let mut partition = from(&bench, 0);
        partition.max_bytes = partition_max;
        let asked = FetchRequest { max_bytes: max, ..request(vec![partition]) };
        let got = records(&peer.fetch(&asked, VERSION).await).len();
        assert_eq!(got, batch(10).len() * expected);
    }
}

#[tokio::test]
async fn records_that_are_on_their_way_to_a_replica_are_not_sent_again() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    let mut peer = Peer::connect(&bench.handlers, "INTERNAL");
    peer.hello(2, Purpose::Replication).await;
    bench.replica.append_as_leader(&batch(3), Acks::Leader).unwrap();
    let mut asked = FetchRequest {
        max_wait_ms: 0,
        replica: NodeId(2),
        session_epoch: 0,
        ..request(vec![from(&bench, 0)])
    };
    let first = peer.fetch(&asked, VERSION).await;
    assert!(!records(&first).is_empty());
    // What it tells of its disk meanwhile is no wish for the same records, not even when there are more.
    bench.replica.append_as_leader(&batch(1), Acks::Leader).unwrap();
    asked = FetchRequest { session_id: first.session_id, session_epoch: 1, ..asked };
    let second = peer.fetch(&asked, VERSION).await;
    assert!(second.partitions.iter().all(|partition| partition.records.is_empty()));
    asked = FetchRequest { session_epoch: 2, partitions: vec![from(&bench, 3)], ..asked };
    assert!(!records(&peer.fetch(&asked, VERSION).await).is_empty());
}

#[tokio::test]
async fn a_replica_that_is_behind_the_log_is_told_where_it_begins() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    bench.replica.append_as_leader(&batch(3), Acks::Leader).unwrap();
    bench.replica.with_log(|log, _| log.delete_before(Offset(3)).unwrap());
    let mut peer = Peer::connect(&bench.handlers, "INTERNAL");
    peer.hello(2, Purpose::Replication).await;
    let asked = FetchRequest { replica: NodeId(2), session_epoch: 0, ..request(vec![from(&bench, 0)]) };
    let answer = peer.fetch(&asked, VERSION).await;
    assert_eq!(answer.partitions[0].error, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(answer.partitions[0].log_start, Offset(3));
}

#[tokio::test]
async fn sessions_have_a_bound_and_replicas_come_before_consumers() {
    let bench = Bench::new(DurabilityLevel::Replicated, &[1, 2]);
    let mut peer = Peer::connect(&bench.handlers, "PLAINTEXT");
    let asked = FetchRequest { max_wait_ms: 0, session_epoch: 0, ..request(vec![from(&bench, 0)]) };
    for _ in 0..1000 {
        assert_ne!(peer.fetch(&asked, VERSION).await.session_id, 0);
    }
    assert_eq!(peer.fetch(&asked, VERSION).await.session_id, 0, "the reader does without");
    let mut follower = Peer::connect(&bench.handlers, "INTERNAL");
    follower.hello(2, Purpose::Replication).await;
    let asked = FetchRequest { replica: NodeId(2), ..asked };
    assert_ne!(follower.fetch(&asked, VERSION).await.session_id, 0);
}
