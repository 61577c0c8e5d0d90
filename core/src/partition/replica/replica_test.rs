use std::{path::PathBuf, sync::Arc, time::Duration};

use smallvec::smallvec;

use crate::{
    ids::{LogIndex, PartitionEpoch, ProducerId, TopicId},
    log::{Handles, LogParts, Opening, PageCache, SyncDepth},
    metadata::image::DurabilityLevel,
    partition::leader::LeaderRules,
    protocol::{batch::Batches, builder::BatchBuilder, compression::Codec, errors::ErrorCode},
    runtime::{
        Rng,
        simulated::{Keep, SimulatedDisk},
    },
};

use super::*;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// Three replicas of a partition, each with its disk; fetches and syncs happen when a test says so.
struct Bench {
    clock: Clock,
    settings: Settings,
    replicas: Vec<Arc<Replica>>,
    disks: Vec<SimulatedDisk>,
    state: Partition,
}

fn everybody(node: NodeId) -> Option<BrokerEpoch> {
    Some(BrokerEpoch(i64::from(node.0) * 100))
}

impl Bench {
    /// Node 1 leads in epoch 1, and all are in sync.
    fn new(durability: DurabilityLevel) -> Self {
        let (clock, _) = Clock::simulated(1_000_000);
        let leader = LeaderRules { min_isr: 2, lag_max: Duration::from_secs(30) };
        let settings = Settings { durability, leader, ..Settings::default() };
        let state = Partition {
            leader: NODES[0],
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            replicas: NODES.into_iter().collect(),
            isr: NODES.into_iter().collect(),
            ..Partition::default()
        };
        let mut bench = Self { clock, settings, replicas: Vec::new(), disks: Vec::new(), state };
        for node in NODES {
            let disk = SimulatedDisk::new(bench.clock.clone(), Rng::seeded(u64::try_from(node.0).unwrap()));
            disk.mount(&PathBuf::from("/data/orders-0")).unwrap();
            bench.disks.push(disk);
            let replica = bench.open(node, PageCache::Kept);
            bench.replicas.push(replica);
        }
        bench.tell();
        bench
    }

    fn open(&self, node: NodeId, page_cache: PageCache) -> Arc<Replica> {
        let disk = Arc::new(self.disks[index(node)].clone());
        let parts =
            LogParts { disk, handles: Handles::new(16), clock: self.clock.clone(), health: Arc::default() };
        let opening = Opening { page_cache, ..Opening::unknown() };
        let dir = PathBuf::from("/data/orders-0");
        let (log, _) = Log::open(&dir, self.settings.log, &parts, opening).unwrap();
        let partition = PartitionId { topic: TopicId::default(), index: 0 };
        let place = (node, self.clock.clone());
        Replica::new(partition, "orders".into(), log, self.settings, place, Duties::default()).unwrap()
    }

    fn tell(&self) {
        for replica in &self.replicas {
            replica.observe(&self.state, everybody);
        }
    }

    /// A new leader with this ISR.
    fn elect(&mut self, leader: NodeId, isr: &[NodeId]) {
        self.state.leader = leader;
        self.state.leader_epoch.0 += 1;
        self.state.partition_epoch.0 += 1;
        self.state.isr = isr.iter().copied().collect();
    }

    fn at(&self, node: NodeId) -> &Arc<Replica> {
        &self.replicas[index(node)]
    }

    fn leader(&self) -> &Arc<Replica> {
        self.at(self.state.leader)
    }

    async fn sync(&self, node: NodeId) {
        if let Some(job) = self.at(node).begin_sync(SyncDepth::Batches).unwrap() {
            job.run().await.unwrap();
            self.at(node).finish_sync(job);
        }
    }

    /// One Fetch of a follower; returns whether anything came of it.
    fn fetch(&self, node: NodeId) -> Result<bool, FetchError> {
        let follower = self.at(node);
        let position = follower.position().unwrap();
        let synced = self.settings.is_synced().then_some(position.synced_end);
        let query = FetchQuery {
            reader: Reader::Replica { node, broker_epoch: everybody(node).unwrap(), synced_end: synced },
            from: position.offset,
            leader_epoch: position.leader_epoch,
            last_epoch: position.last_epoch,
            max_bytes: 1 << 20,
            at_least_one: true,
        };
        let answer = match self.leader().read(&query) {
            Err(FetchError::OutOfRange { start, .. }) => {
                follower.start_over(&position, start).unwrap();
                return Ok(true);
            }
            other => other?,
        };
        if let Some(diverging) = answer.diverging {
            follower.truncate(&position, diverging).unwrap();
            return Ok(true);
        }
        let records = answer.region.map_or_else(Vec::new, |region| region.read().unwrap());
        let FetchAnswer { high_watermark, log_start, .. } = answer;
        let from_leader = FromLeader { records: &records, high_watermark, log_start };
        follower.append_as_follower(&position, &from_leader).unwrap();
        Ok(!records.is_empty())
    }

    /// Everybody fetches and syncs until nothing changes.
    async fn catch_up(&self) {
        for _ in 0..20 {
            for node in NODES {
                self.sync(node).await;
                if node != self.state.leader {
                    self.fetch(node).unwrap();
                    self.sync(node).await;
                }
            }
        }
    }

    fn log_of(&self, node: NodeId) -> Vec<u8> {
        self.at(node).with_log(|log, _| {
            let request = crate::log::ReadRequest {
                from: log.start_offset(),
                below: log.end_offset(),
                max_bytes: u32::MAX,
                at_least_one: true,
            };
            log.read(request).unwrap().map_or_else(Vec::new, |region| region.read().unwrap())
        })
    }
}

fn index(node: NodeId) -> usize {
    usize::try_from(node.0 - 1).unwrap()
}

fn batch(value: &str) -> Vec<u8> {
    BatchBuilder::new(Codec::None.into()).simple(1_000_000, None, Some(value.as_bytes())).build().unwrap()
}

fn idempotent(value: &str, epoch: i16, sequence: i32) -> Vec<u8> {
    BatchBuilder::new(Codec::Lz4.into())
        .producer(ProducerId(7), epoch, sequence)
        .simple(1_000_000, None, Some(value.as_bytes()))
        .build()
        .unwrap()
}

fn consume(replica: &Arc<Replica>, from: i64) -> Result<FetchAnswer, FetchError> {
    replica.read(&FetchQuery {
        reader: Reader::Consumer,
        from: Offset(from),
        leader_epoch: LeaderEpoch::NONE,
        last_epoch: LeaderEpoch::NONE,
        max_bytes: 1 << 20,
        at_least_one: true,
    })
}

fn visible(replica: &Arc<Replica>, from: i64) -> usize {
    let region = consume(replica, from).unwrap().region;
    let bytes = region.map_or_else(Vec::new, |region| region.read().unwrap());
    Batches::of(&bytes).map(|batch| batch.unwrap().header().count).sum::<i32>().try_into().unwrap()
}

#[tokio::test(start_paused = true)]
async fn consumers_see_what_every_in_sync_replica_has_on_its_disk() {
    let bench = Bench::new(DurabilityLevel::Synced);
    let leader = bench.leader();
    leader.append_as_leader(&batch("a"), Acks::All).unwrap();
    for node in [NODES[1], NODES[2]] {
        assert!(bench.fetch(node).unwrap());
        bench.fetch(node).unwrap();
    }
    assert_eq!(visible(leader, 0), 0, "nobody has synced");
    bench.sync(NODES[0]).await;
    bench.sync(NODES[1]).await;
    bench.fetch(NODES[1]).unwrap();
    assert_eq!(visible(leader, 0), 0, "node 3 has not synced");
    bench.sync(NODES[2]).await;
    assert_eq!(visible(leader, 0), 0, "node 3 has not told");
    bench.fetch(NODES[2]).unwrap();
    assert_eq!(visible(leader, 0), 1);
    assert_eq!(leader.progress().high_watermark, Offset(1));
}

#[tokio::test(start_paused = true)]
async fn the_page_caches_of_the_isr_are_enough_where_a_topic_says_so() {
    let bench = Bench::new(DurabilityLevel::Replicated);
    bench.leader().append_as_leader(&batch("a"), Acks::All).unwrap();
    for node in [NODES[1], NODES[2]] {
        bench.fetch(node).unwrap();
        bench.fetch(node).unwrap();
    }
    assert_eq!(visible(bench.leader(), 0), 1);
    assert_eq!(bench.leader().progress().synced_end, Offset(0));
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_wait_for_who_was_asked_for() {
    let bench = Bench::new(DurabilityLevel::Synced);
    let leader = bench.leader().clone();
    let written = leader.append_as_leader(&batch("a"), Acks::All).unwrap();
    assert_eq!((written.base_offset, written.end), (Offset(0), Offset(1)));
    leader.acknowledged(&written, Acks::None).await.unwrap();
    let soon = Duration::from_secs(1);
    assert!(bench.clock.timeout(soon, leader.acknowledged(&written, Acks::Leader)).await.is_err());
    bench.sync(NODES[0]).await;
    leader.acknowledged(&written, Acks::Leader).await.unwrap();
    assert!(bench.clock.timeout(soon, leader.acknowledged(&written, Acks::All)).await.is_err());
    bench.catch_up().await;
    leader.acknowledged(&written, Acks::All).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_ends_with_the_leadership() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    let leader = bench.leader().clone();
    let written = leader.append_as_leader(&batch("a"), Acks::All).unwrap();
    let waiting = leader.acknowledged(&written, Acks::All);
    bench.elect(NODES[1], &NODES);
    bench.tell();
    assert_eq!(waiting.await, Err(AckError::NotLeader));
}

#[tokio::test(start_paused = true)]
async fn a_small_isr_takes_no_batch_for_all() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    bench.elect(NODES[0], &[NODES[0]]);
    bench.tell();
    let refused = bench.leader().append_as_leader(&batch("a"), Acks::All).unwrap_err();
    assert_eq!(refused.error_code(), ErrorCode::NOT_ENOUGH_REPLICAS);
    bench.leader().append_as_leader(&batch("a"), Acks::Leader).unwrap();
    bench.sync(NODES[0]).await;
    assert_eq!(bench.leader().progress().high_watermark, Offset(0), "and its high watermark stands still");
}

#[tokio::test(start_paused = true)]
async fn an_isr_that_shrinks_after_the_append_is_told() {
    let mut bench = Bench::new(DurabilityLevel::Replicated);
    let leader = bench.leader().clone();
    let written = leader.append_as_leader(&batch("a"), Acks::All).unwrap();
    for node in [NODES[1], NODES[2]] {
        bench.fetch(node).unwrap();
        bench.fetch(node).unwrap();
    }
    bench.state.partition_epoch.0 += 1;
    bench.state.isr = smallvec![NODES[0]];
    bench.tell();
    assert_eq!(leader.acknowledged(&written, Acks::All).await, Err(AckError::NotEnoughReplicas));
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_of_the_epoch_that_the_reader_knows_answers() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    let ask = |replica: &Arc<Replica>, epoch: i32| {
        replica.list_offset(Wanted::Latest, LeaderEpoch(epoch), true).map_err(|error| error.error_code())
    };
    assert!(ask(bench.at(NODES[0]), 1).is_ok());
    assert_eq!(ask(bench.at(NODES[0]), 0), Err(ErrorCode::FENCED_LEADER_EPOCH));
    assert_eq!(ask(bench.at(NODES[0]), 2), Err(ErrorCode::UNKNOWN_LEADER_EPOCH));
    assert_eq!(ask(bench.at(NODES[1]), 1), Err(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    bench.elect(NODES[1], &NODES);
    bench.tell();
    assert_eq!(ask(bench.at(NODES[0]), 1), Err(ErrorCode::FENCED_LEADER_EPOCH));
    assert!(bench.at(NODES[0]).append_as_leader(&batch("late"), Acks::Leader).is_err());
}

#[tokio::test(start_paused = true)]
async fn settings_of_an_older_image_are_ignored() {
    let bench = Bench::new(DurabilityLevel::Synced);
    let with = |image: u64, min_isr: usize| {
        let leader = LeaderRules { min_isr, ..bench.settings.leader };
        Settings { image: LogIndex(image), leader, ..bench.settings }
    };
    let replica = &bench.replicas[0];
    replica.reconfigure(with(12, 3));
    replica.reconfigure(with(10, 1));
    assert_eq!(replica.settings().leader.min_isr, 3);
    replica.reconfigure(with(13, 1));
    assert_eq!(replica.settings().leader.min_isr, 1);
}

#[tokio::test(start_paused = true)]
async fn state_of_an_older_leadership_is_ignored() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    let old = bench.state.clone();
    bench.elect(NODES[1], &NODES);
    bench.tell();
    bench.at(NODES[0]).observe(&old, everybody);
    assert!(!bench.at(NODES[0]).progress().leads);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_does_not_tell_the_end_before_it_knows_the_high_watermark() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    bench.leader().append_as_leader(&batch("a"), Acks::All).unwrap();
    bench.catch_up().await;
    bench.elect(NODES[1], &[NODES[1], NODES[2]]);
    bench.replicas[1] = bench.open(NODES[1], PageCache::Kept);
    bench.tell();
    let latest = bench.leader().list_offset(Wanted::Latest, LeaderEpoch::NONE, true);
    assert_eq!(latest.unwrap_err().error_code(), ErrorCode::OFFSET_NOT_AVAILABLE);
    bench.fetch(NODES[2]).unwrap();
    bench.sync(NODES[1]).await;
    bench.fetch(NODES[2]).unwrap();
    let latest = bench.leader().list_offset(Wanted::Latest, LeaderEpoch::NONE, true).unwrap().unwrap();
    assert_eq!((latest.offset, latest.leader_epoch), (Offset(1), LeaderEpoch(2)));
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_leader_alone_had_is_cut_and_what_was_acknowledged_stays() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    bench.leader().append_as_leader(&batch("kept"), Acks::All).unwrap();
    bench.catch_up().await;
    bench.leader().append_as_leader(&batch("lost"), Acks::Leader).unwrap();
    bench.leader().append_as_leader(&batch("lost too"), Acks::Leader).unwrap();
    bench.elect(NODES[1], &[NODES[1], NODES[2]]);
    bench.tell();
    bench.leader().append_as_leader(&batch("after"), Acks::Leader).unwrap();
    bench.catch_up().await;
    assert_eq!(bench.at(NODES[0]).progress().log_end, Offset(2));
    for node in [NODES[1], NODES[2]] {
        assert_eq!(bench.log_of(NODES[0]), bench.log_of(node));
    }
    assert_eq!(visible(bench.leader(), 0), 2);
}

#[tokio::test(start_paused = true)]
async fn a_leadership_that_wrote_nothing_is_forgotten_by_who_led_it() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    bench.leader().append_as_leader(&batch("before"), Acks::All).unwrap();
    bench.catch_up().await;
    bench.elect(NODES[1], &NODES);
    bench.tell();
    bench.elect(NODES[2], &NODES);
    bench.tell();
    bench.leader().append_as_leader(&batch("after"), Acks::All).unwrap();
    bench.catch_up().await;
    assert_eq!(bench.log_of(NODES[1]), bench.log_of(NODES[2]));
    assert_eq!(visible(bench.leader(), 0), 2);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_behind_the_leaders_start_begins_there() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    bench.elect(NODES[0], &[NODES[0], NODES[1]]);
    bench.tell();
    for _ in 0..5 {
        bench.leader().append_as_leader(&batch("x"), Acks::All).unwrap();
    }
    for _ in 0..3 {
        bench.sync(NODES[0]).await;
        bench.fetch(NODES[1]).unwrap();
        bench.sync(NODES[1]).await;
    }
    bench.leader().with_log(|log, _| log.delete_before(Offset(3)).unwrap());
    bench.fetch(NODES[2]).unwrap();
    assert_eq!(bench.at(NODES[2]).progress().log_start, Offset(3));
    bench.catch_up().await;
    assert_eq!(bench.at(NODES[2]).progress().log_end, Offset(5));
    assert_eq!(bench.at(NODES[1]).progress().log_start, Offset(3), "followers follow the start as well");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_sent_again_keeps_its_offset_across_leaders_and_restarts() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    for (sequence, value) in ["a", "b", "c"].into_iter().enumerate() {
        let sequence = i32::try_from(sequence).unwrap();
        bench.leader().append_as_leader(&idempotent(value, 0, sequence), Acks::All).unwrap();
    }
    let again = bench.leader().append_as_leader(&idempotent("b", 0, 1), Acks::All).unwrap();
    assert!(again.is_duplicate);
    assert_eq!((again.base_offset, again.end), (Offset(1), Offset(2)));
    bench.catch_up().await;

    bench.elect(NODES[1], &NODES);
    bench.tell();
    assert!(bench.leader().append_as_leader(&idempotent("c", 0, 2), Acks::All).unwrap().is_duplicate);

    bench.replicas[1] = bench.open(NODES[1], PageCache::Kept);
    bench.elect(NODES[1], &NODES);
    bench.tell();
    assert!(bench.leader().append_as_leader(&idempotent("c", 0, 2), Acks::All).unwrap().is_duplicate);
    let gap = bench.leader().append_as_leader(&idempotent("e", 0, 4), Acks::All).unwrap_err();
    assert_eq!(gap.error_code(), ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    bench.leader().append_as_leader(&idempotent("d", 1, 0), Acks::All).unwrap();
    let old = bench.leader().append_as_leader(&idempotent("d", 0, 3), Acks::All).unwrap_err();
    assert_eq!(old.error_code(), ErrorCode::INVALID_PRODUCER_EPOCH);
}

#[tokio::test(start_paused = true)]
async fn a_truncated_batch_of_a_producer_may_be_sent_to_the_next_leader() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    bench.leader().append_as_leader(&idempotent("a", 0, 0), Acks::All).unwrap();
    bench.catch_up().await;
    bench.leader().append_as_leader(&idempotent("b", 0, 1), Acks::All).unwrap();
    bench.elect(NODES[1], &[NODES[1], NODES[2]]);
    bench.tell();
    bench.catch_up().await;
    bench.elect(NODES[0], &NODES);
    bench.tell();
    let written = bench.leader().append_as_leader(&idempotent("b", 0, 1), Acks::All).unwrap();
    assert!(!written.is_duplicate);
    assert_eq!(written.base_offset, Offset(1));
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_of_all_nodes_loses_nothing_that_was_acknowledged() {
    let mut bench = Bench::new(DurabilityLevel::Synced);
    let written = bench.leader().append_as_leader(&batch("kept"), Acks::All).unwrap();
    bench.catch_up().await;
    bench.leader().acknowledged(&written, Acks::All).await.unwrap();
    bench.leader().append_as_leader(&batch("nobody was told"), Acks::All).unwrap();
    bench.fetch(NODES[1]).unwrap();
    for node in NODES {
        bench.disks[index(node)].crash(Keep::None);
        bench.replicas[index(node)] = bench.open(node, PageCache::Lost);
    }
    bench.elect(NODES[2], &NODES);
    bench.tell();
    bench.catch_up().await;
    assert_eq!(visible(bench.leader(), 0), 1);
    bench.leader().append_as_leader(&batch("goes on"), Acks::All).unwrap();
    bench.catch_up().await;
    assert_eq!(visible(bench.leader(), 0), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retired_replica_serves_nothing_and_ends_who_waits() {
    let bench = Bench::new(DurabilityLevel::Synced);
    let leader = bench.leader().clone();
    let written = leader.append_as_leader(&batch("a"), Acks::All).unwrap();
    let waiting = leader.acknowledged(&written, Acks::All);
    leader.retire();
    assert_eq!(waiting.await, Err(AckError::NotLeader));
    assert!(consume(&leader, 0).is_err());
    leader.observe(&bench.state, everybody);
    assert!(!leader.progress().leads, "no metadata brings it back");
    assert!(leader.begin_sync(SyncDepth::Batches).unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lagging_member_is_proposed_to_leave_and_holds_the_high_watermark_until_it_has() {
    let bench = Bench::new(DurabilityLevel::Replicated);
    let leader = bench.leader();
    leader.append_as_leader(&batch("a"), Acks::All).unwrap();
    bench.fetch(NODES[1]).unwrap();
    bench.clock.sleep(Duration::from_secs(29)).await;
    bench.fetch(NODES[1]).unwrap();
    leader.tick();
    assert!(leader.duties.proposals.take_now().is_empty());
    bench.clock.sleep(Duration::from_secs(2)).await;
    bench.fetch(NODES[1]).unwrap();
    leader.tick();
    assert_eq!(leader.duties.proposals.take_now().len(), 1);
    let proposal = leader.take_proposal().unwrap();
    let members: Vec<NodeId> = proposal.isr.iter().map(|(node, _)| *node).collect();
    assert_eq!(members, [NODES[0], NODES[1]]);
    assert_eq!(leader.progress().high_watermark, Offset(0));
    let accepted = Verdict::Accepted {
        leader_epoch: LeaderEpoch(1),
        partition_epoch: PartitionEpoch(2),
        isr: members.into_iter().collect(),
    };
    assert_eq!(leader.answered(&proposal, &accepted), Effect::Settled);
    assert_eq!(leader.progress().high_watermark, Offset(1));
}

#[tokio::test(start_paused = true)]
async fn records_are_found_by_time() {
    let bench = Bench::new(DurabilityLevel::Replicated);
    let leader = bench.leader();
    for codec in [Codec::None, Codec::Zstd] {
        let mut batch = BatchBuilder::new(codec.into());
        for timestamp in [1_000, 3_000, 2_000] {
            let timestamp = timestamp + i64::from(codec.id()) * 10_000;
            batch = batch.simple(timestamp, None, Some(b"x"));
        }
        leader.append_as_leader(&batch.build().unwrap(), Acks::All).unwrap();
    }
    let find = |wanted| {
        let found = leader.list_offset(wanted, LeaderEpoch::NONE, true).unwrap();
        found.map(|found| (found.offset.0, found.timestamp))
    };
    assert_eq!(find(Wanted::Since(0)), None, "nothing is visible yet");
    bench.catch_up().await;
    assert_eq!(find(Wanted::Since(0)), Some((0, 1_000)));
    assert_eq!(find(Wanted::Since(1_001)), Some((1, 3_000)));
    assert_eq!(find(Wanted::Since(3_001)), Some((3, 41_000)));
    assert_eq!(find(Wanted::Since(41_500)), Some((4, 43_000)));
    assert_eq!(find(Wanted::Since(43_001)), None);
    assert_eq!(find(Wanted::MaxTimestamp), Some((4, 43_000)));
    assert_eq!(find(Wanted::Earliest), Some((0, -1)));
    assert_eq!(find(Wanted::Latest), Some((6, -1)));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_outside_of_the_log_says_where_it_is() {
    let bench = Bench::new(DurabilityLevel::Synced);
    bench.leader().append_as_leader(&batch("a"), Acks::All).unwrap();
    assert!(matches!(consume(bench.leader(), 2), Err(FetchError::OutOfRange { .. })));
    assert!(consume(bench.leader(), 1).unwrap().region.is_none(), "past what is visible is nothing, yet");
    assert_eq!(consume(bench.leader(), -1).unwrap_err().error_code(), ErrorCode::OFFSET_OUT_OF_RANGE);
}

#[tokio::test(start_paused = true)]
async fn a_replica_fetch_of_another_epoch_gets_no_data_and_leaves_no_trace() {
    let bench = Bench::new(DurabilityLevel::Replicated);
    bench.leader().append_as_leader(&batch("a"), Acks::All).unwrap();
    let mut query = FetchQuery {
        reader: Reader::Replica { node: NODES[1], broker_epoch: BrokerEpoch(200), synced_end: None },
        from: Offset(1),
        leader_epoch: LeaderEpoch(0),
        last_epoch: LeaderEpoch::NONE,
        max_bytes: 1000,
        at_least_one: true,
    };
    assert_eq!(bench.leader().read(&query).unwrap_err().error_code(), ErrorCode::FENCED_LEADER_EPOCH);
    query.leader_epoch = LeaderEpoch(1);
    query.reader = Reader::Replica { node: NODES[1], broker_epoch: BrokerEpoch(199), synced_end: None };
    assert_eq!(bench.leader().read(&query).unwrap_err().error_code(), ErrorCode::NOT_LEADER_OR_FOLLOWER);
    query.reader = Reader::Replica { node: NodeId(9), broker_epoch: BrokerEpoch(900), synced_end: None };
    assert_eq!(bench.leader().read(&query).unwrap_err().error_code(), ErrorCode::UNKNOWN_LEADER_EPOCH);
    assert_eq!(bench.leader().progress().high_watermark, Offset(0));
}
