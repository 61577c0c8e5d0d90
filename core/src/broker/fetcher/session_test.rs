use std::{path::Path, sync::Arc};

use smallvec::smallvec;

use crate::{
    ids::LeaderEpoch,
    log::{Handles, Log, LogParts, Opening},
    metadata::image::Partition,
    partition::{replica::Duties, settings::Settings},
    protocol::{builder::BatchBuilder, compression::Codec},
    runtime::{Clock, simulated::SimulatedDisk},
};

use super::*;

const LEADER: NodeId = NodeId(2);
const OWN: (NodeId, BrokerEpoch) = (NodeId(1), BrokerEpoch(100));
const LIMITS: Limits =
    Limits { wait_ms: 500, bytes_min: 1, bytes_max: 1 << 20, partition_bytes_max: 1 << 20 };
const NOW: Moment = Moment(1_000_000_000);

/// A replica on this node that follows `leader`.
fn follower(index: i32, leader: NodeId) -> Arc<Replica> {
    let (clock, _) = Clock::simulated(0);
    let disk = SimulatedDisk::new(clock.clone(), Rng::seeded(1));
    disk.mount(Path::new("/data/orders")).unwrap();
    let parts = LogParts {
        disk: Arc::new(disk),
        handles: Handles::new(4),
        clock: clock.clone(),
        health: Arc::default(),
    };
    let settings = Settings::default();
    let (log, _) = Log::open(Path::new("/data/orders"), settings.log, &parts, Opening::unknown()).unwrap();
    let partition = PartitionId { topic: TopicId(uuid::Uuid::from_u128(7)), index };
    let place = (OWN.0, clock);
    let replica = Replica::new(partition, "orders".into(), log, settings, place, Duties::default()).unwrap();
    follow(&replica, leader, 1);
    replica
}

fn follow(replica: &Arc<Replica>, leader: NodeId, epoch: i32) {
    let state = Partition {
        leader,
        leader_epoch: LeaderEpoch(epoch),
        replicas: smallvec![leader, OWN.0],
        isr: smallvec![leader, OWN.0],
        ..Partition::default()
    };
    replica.observe(&state, |_| None);
}

fn session(replicas: &[&Arc<Replica>]) -> Session {
    let mut session = Session::new(LEADER, Rng::seeded(3));
    replicas.iter().for_each(|replica| session.note((*replica).clone()));
    session
}

fn told(asked: &Asked) -> Vec<(i32, i64)> {
    asked.request.partitions.iter().map(|wish| (wish.index, wish.offset.0)).collect()
}

fn answer(session_id: i32, partitions: Vec<FetchedPartition>) -> FetchResponse {
    FetchResponse { session_id, partitions, ..FetchResponse::default() }
}

fn with_records(replica: &Replica, base: i64) -> FetchedPartition {
    let bytes = BatchBuilder::new(Codec::None.into())
        .position(Offset(base), LeaderEpoch(1))
        .simple(0, None, Some(b"x"))
        .build()
        .unwrap();
    let mut fetched = failed(replica, ErrorCode::NONE);
    (fetched.high_watermark, fetched.log_start) = (Offset(0), Offset(0));
    fetched.records = bytes::Bytes::from(bytes).into();
    fetched
}

fn failed(replica: &Replica, error: ErrorCode) -> FetchedPartition {
    let partition = replica.partition;
    FetchedPartition::failed(TopicRef::Id(partition.topic), partition.index, error)
}

#[tokio::test(start_paused = true)]
async fn the_first_request_names_everything_and_the_next_only_what_is_new() {
    let (one, two) = (follower(0, LEADER), follower(1, LEADER));
    let mut session = session(&[&one, &two]);
    let first = session.request(OWN, &LIMITS, NOW);
    assert_eq!(told(&first), [(0, 0), (1, 0)]);
    assert_eq!((first.request.session_id, first.request.session_epoch), (0, 0));
    assert!(!session.is_open());
    session.answered(first.positions, answer(9, vec![with_records(&two, 0)]), NOW).unwrap();
    assert!(session.is_open() && session.has_news(NOW));
    let second = session.request(OWN, &LIMITS, NOW);
    assert_eq!(told(&second), [(1, 1)]);
    assert_eq!((second.request.session_id, second.request.session_epoch), (9, 1));
    assert!(!session.has_news(NOW), "an idle partition costs no message");
    session.answered(second.positions, answer(9, Vec::new()), NOW).unwrap();
    assert!(told(&session.request(OWN, &LIMITS, NOW)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_read_with_the_positions_of_its_own_request() {
    let one = follower(0, LEADER);
    let mut session = session(&[&one]);
    let first = session.request(OWN, &LIMITS, NOW);
    session.answered(first.positions, answer(9, vec![with_records(&one, 0)]), NOW).unwrap();
    let waiting = session.request(OWN, &LIMITS, NOW);
    let newer = session.request(OWN, &LIMITS, NOW);
    session.answered(waiting.positions, answer(9, vec![with_records(&one, 1)]), NOW).unwrap();
    // The same records once more, by whatever way: they are not appended twice.
    session.answered(newer.positions, answer(9, vec![with_records(&one, 1)]), NOW).unwrap();
    assert_eq!(one.progress().log_end, Offset(2));
    assert_eq!(told(&session.request(OWN, &LIMITS, NOW)), [(0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_fails_is_put_off_and_leaves_the_session_meanwhile() {
    let (one, two) = (follower(0, LEADER), follower(1, LEADER));
    let mut session = session(&[&one, &two]);
    let first = session.request(OWN, &LIMITS, NOW);
    let unknown = failed(&one, ErrorCode::UNKNOWN_LEADER_EPOCH);
    session.answered(first.positions, answer(9, vec![unknown]), NOW).unwrap();
    let second = session.request(OWN, &LIMITS, NOW);
    assert!(told(&second).is_empty());
    assert_eq!(second.request.forgotten, [(TopicRef::Id(one.partition.topic), 0)]);
    assert!(!session.has_news(NOW));
    let later = session.next_retry().unwrap();
    assert!(later > NOW && session.has_news(later));
    assert_eq!(told(&session.request(OWN, &LIMITS, later)), [(0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_batch_is_not_appended_and_is_fetched_again() {
    let one = follower(0, LEADER);
    let mut session = session(&[&one]);
    let first = session.request(OWN, &LIMITS, NOW);
    let mut damaged = with_records(&one, 0);
    let mut bytes = damaged.records.to_bytes().unwrap().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    damaged.records = bytes::Bytes::from(bytes).into();
    session.answered(first.positions, answer(9, vec![damaged]), NOW).unwrap();
    assert_eq!(one.progress().log_end, Offset(0));
    assert_eq!(told(&session.request(OWN, &LIMITS, session.next_retry().unwrap())), [(0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_with_another_leader_is_let_go() {
    let (one, two) = (follower(0, LEADER), follower(1, LEADER));
    let mut session = session(&[&one, &two]);
    let first = session.request(OWN, &LIMITS, NOW);
    session.answered(first.positions, answer(9, Vec::new()), NOW).unwrap();
    follow(&one, NodeId(3), 2);
    session.note(one.clone());
    assert!(session.has_news(NOW));
    let second = session.request(OWN, &LIMITS, NOW);
    assert_eq!(second.request.forgotten, [(TopicRef::Id(one.partition.topic), 0)]);
    two.retire();
    session.note(two);
    assert!(session.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_the_leader_ended_is_opened_anew_with_everything() {
    let one = follower(0, LEADER);
    let mut session = session(&[&one]);
    let first = session.request(OWN, &LIMITS, NOW);
    session.answered(first.positions, answer(9, Vec::new()), NOW).unwrap();
    let second = session.request(OWN, &LIMITS, NOW);
    session.answered(second.positions, answer(0, Vec::new()), NOW).unwrap();
    let third = session.request(OWN, &LIMITS, NOW);
    assert_eq!((third.request.session_id, third.request.session_epoch), (0, 0));
    assert_eq!(told(&third), [(0, 0)]);
    let lost = FetchResponse::failed(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    let lost = session.answered(third.positions, lost, NOW);
    assert_eq!(lost, Err(SessionLost(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)));
}
