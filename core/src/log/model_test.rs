//! The log against a list: any sequence of changes, restarts and power cuts leaves what the list says.

use proptest::prelude::*;

use super::{
    testing::{self, Bench, batch, read_all},
    walk::{SCAN_BYTES, Walk},
    *,
};
use crate::{
    ids::{LeaderEpoch, Offset},
    runtime::simulated::Keep,
};

#[derive(Clone, Debug)]
enum Op {
    /// Records and payload of each batch; whether a new leadership begins; an offset gap before them.
    Append {
        batches: Vec<(i32, usize)>,
        epoch_ends: bool,
        gap: i64,
    },
    /// As an append whose write fails.
    FailAppend,
    Sync(SyncDepth),
    /// The directory's checkpoint is written; `told` is false if the process dies before the log hears of it.
    KeepRecoveryPoint {
        told: bool,
    },
    /// A sync during which the log is cut.
    SyncOvertaken {
        depth: SyncDepth,
        cut: prop::sample::Index,
    },
    Truncate(prop::sample::Index),
    TruncateInside(prop::sample::Index),
    TruncateFully {
        ahead: i64,
    },
    DeleteBefore(prop::sample::Index),
    Expire {
        keep_bytes: u64,
    },
    Reopen,
    Crash(Keep),
}

fn op() -> impl Strategy<Value = Op> {
    let index = || any::<prop::sample::Index>();
    let depth = || prop_oneof![Just(SyncDepth::Batches), Just(SyncDepth::Everything)];
    let batches = prop::collection::vec((1..5_i32, 0..400_usize), 1..4);
    let append = (batches, prop::bool::weighted(0.2), prop_oneof![9 => Just(0_i64), 1 => 1..9_i64]);
    prop_oneof![
        12 => append.prop_map(|(batches, epoch_ends, gap)| Op::Append { batches, epoch_ends, gap }),
        1 => Just(Op::FailAppend),
        4 => depth().prop_map(Op::Sync),
        3 => prop::bool::weighted(0.7).prop_map(|told| Op::KeepRecoveryPoint { told }),
        1 => (depth(), index()).prop_map(|(depth, cut)| Op::SyncOvertaken { depth, cut }),
        2 => index().prop_map(Op::Truncate),
        1 => index().prop_map(Op::TruncateInside),
        1 => (0..20_i64).prop_map(|ahead| Op::TruncateFully { ahead }),
        1 => index().prop_map(Op::DeleteBefore),
        1 => (0..4000_u64).prop_map(|keep_bytes| Op::Expire { keep_bytes }),
        2 => Just(Op::Reopen),
        3 => prop_oneof![Just(Keep::All), Just(Keep::Some), Just(Keep::None)].prop_map(Op::Crash),
    ]
}

struct Whole {
    base: i64,
    end: i64,
    epoch: i32,
    timestamp: i64,
    bytes: Vec<u8>,
}

struct Model {
    bench: Bench,
    log: Option<Log>,
    batches: Vec<Whole>,
    start: i64,
    end: i64,
    epoch: i32,
    /// What the directory's checkpoint holds.
    kept: Option<i64>,
    clock: i64,
    /// Whether an index may have lost entries that only make it denser.
    power_was_cut: bool,
}

impl Model {
    fn new(seed: u64) -> Self {
        let bench = Bench::new(seed);
        let (log, _) = bench.open(Opening::unknown());
        let log = Some(log);
        Self {
            bench,
            log,
            batches: Vec::new(),
            start: 0,
            end: 0,
            epoch: 0,
            kept: None,
            clock: 0,
            power_was_cut: false,
        }
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn border(&self, index: &prop::sample::Index) -> i64 {
        let borders: Vec<i64> = self.batches.iter().map(|batch| batch.base).chain([self.end]).collect();
        borders[index.index(borders.len())].max(self.start)
    }

    fn cut(&mut self, end: i64) {
        self.batches.retain(|batch| batch.end <= end);
        self.end = self.end.min(end);
    }

    fn opening(&self) -> Opening {
        Opening {
            rewrite: false,
            recovery_point: self.kept.map(Offset),
            log_start: Some(Offset(self.start)),
            page_cache: PageCache::Kept,
        }
    }

    async fn step(&mut self, op: &Op) {
        match op {
            Op::Append { batches, epoch_ends, gap } => self.append(batches, *epoch_ends, *gap),
            Op::FailAppend => self.fail_append(),
            Op::Sync(depth) => {
                let end = self.end;
                assert_eq!(testing::sync(self.log(), *depth).await, Offset(end));
            }
            Op::KeepRecoveryPoint { told } => {
                let kept = self.log().recovery_point_to_keep();
                self.kept = Some(kept.0);
                if *told {
                    self.log().note_kept_recovery_point(kept).unwrap();
                }
            }
            Op::SyncOvertaken { depth, cut } => self.sync_overtaken(*depth, cut).await,
            Op::Truncate(index) => {
                let to = self.border(index);
                self.truncate(to);
            }
            Op::TruncateInside(index) => {
                let base = self.border(index);
                let Some(batch) = self.batches.iter().find(|batch| batch.base == base) else { return };
                self.truncate((batch.end - 1).max(self.start));
            }
            Op::TruncateFully { ahead } => {
                let start = (self.end + ahead - 10).max(0);
                self.log().truncate_fully_and_start_at(Offset(start)).unwrap();
                self.batches.clear();
                (self.start, self.end) = (start, start);
            }
            Op::DeleteBefore(index) => {
                let start = self.border(index);
                self.log().delete_before(Offset(start)).unwrap();
                self.start = start;
            }
            Op::Expire { keep_bytes } => {
                let config = self.bench.config;
                let end = self.end;
                self.log().reconfigure(LogConfig { retention_bytes: Some(*keep_bytes), ..config });
                self.log().expire(0, Offset(end)).unwrap();
                self.log().reconfigure(config);
                self.start = self.log().start_offset().0;
            }
            Op::Reopen => {
                self.log = None;
                let (log, recovery) = self.bench.open(self.opening());
                assert_eq!((recovery.damage, recovery.cut), (None, None));
                assert_eq!(log.end_offset().0, self.end);
                self.log = Some(log);
            }
            Op::Crash(keep) => self.crash(*keep),
        }
    }

    fn fail_append(&mut self) {
        let bytes = batch(self.end, 1, self.epoch, 0, 90);
        let pending = self.log().begin_append(&[&bytes]).unwrap();
        pending.write(&[&bytes]).unwrap();
        let failed = Err(std::io::ErrorKind::Other.into());
        assert!(matches!(self.log().finish_append(pending, failed), Err(AppendError::Disk(_))));
    }

    async fn sync_overtaken(&mut self, depth: SyncDepth, cut: &prop::sample::Index) {
        let to = self.border(cut);
        let job = self.log().begin_sync(depth).unwrap();
        if let Some(job) = &job {
            job.run().await.unwrap();
        }
        self.truncate(to);
        if let Some(job) = job {
            let end = self.log().end_offset();
            assert!(self.log().finish_sync(job) <= end);
        }
    }

    fn append(&mut self, batches: &[(i32, usize)], epoch_ends: bool, gap: i64) {
        self.epoch += i32::from(epoch_ends);
        let mut base = self.end + gap;
        let mut parts = Vec::new();
        for (records, payload) in batches {
            self.clock += [7, -3, 11, 0][(base % 4) as usize];
            let bytes = batch(base, *records, self.epoch, self.clock, *payload);
            let end = base + i64::from(*records);
            let whole = Whole { base, end, epoch: self.epoch, timestamp: self.clock, bytes: bytes.clone() };
            self.batches.push(whole);
            parts.push(bytes);
            base = end;
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let appended = self.log().append(&parts).unwrap();
        assert_eq!(appended.end.0, base);
        self.end = base;
    }

    fn truncate(&mut self, to: i64) {
        let old_end = self.end;
        let first = self.log().segments[0].base().0;
        let reached = self.log().truncate_to(Offset(to)).unwrap().0;
        if to >= old_end {
            assert_eq!(reached, old_end);
            return;
        }
        self.batches.retain(|batch| batch.end <= to);
        let last = self.batches.last().map_or(first, |batch| batch.end).max(first);
        assert_eq!(reached, last);
        self.end = reached;
        self.start = self.start.min(reached);
    }

    fn crash(&mut self, keep: Keep) {
        let log = self.log.take().unwrap();
        let synced = log.synced_end();
        let opening = self.opening();
        let (log, recovery) = self.bench.crash(log, keep, opening);
        assert_eq!(recovery.damage, None);
        let end = log.end_offset().0;
        assert!(log.end_offset() >= synced, "{} was synced, {end} was found", synced.0);
        assert!(log.synced_end() <= synced.max(log.start_offset()));
        self.power_was_cut |= keep != Keep::All;
        if keep == Keep::All {
            assert_eq!((end, recovery.cut), (self.end, None));
        }
        assert!(
            end == self.end
                || self.batches.iter().any(|batch| [batch.base, batch.end].contains(&end))
                || end == self.start
        );
        self.cut(end);
        self.end = end;
        self.start = log.start_offset().0;
        self.log = Some(log);
    }

    /// Everything that can be seen is as the list says.
    fn check(&mut self) {
        let (start, end) = (self.start, self.end);
        let log = self.log.as_mut().unwrap();
        assert!(log.unusable().is_none());
        assert_eq!((log.start_offset().0, log.end_offset().0), (start, end));
        let expected: Vec<u8> = self
            .batches
            .iter()
            .filter(|batch| batch.end > start)
            .flat_map(|batch| batch.bytes.clone())
            .collect();
        assert_eq!(read_all(log, start, end), expected);
        let mut epochs = EpochCache::default();
        for batch in self.batches.iter().filter(|batch| batch.end > start) {
            epochs.assign(LeaderEpoch(batch.epoch), Offset(batch.base.max(start)));
        }
        // The epoch of the start may begin there although the next batch, behind a gap, begins later.
        let mut found = log.epochs().clone();
        let mut listed = epochs.clone();
        found.delete_before(Offset(start));
        listed.delete_before(Offset(start));
        let firsts = (found.entries().first().copied(), listed.entries().first().copied());
        if let (Some(found), Some(listed)) = firsts {
            assert!(found.start <= listed.start);
        }
        let tail = |cache: &EpochCache| cache.entries().iter().skip(1).copied().collect::<Vec<_>>();
        if found.entries().len() == listed.entries().len() {
            assert_eq!(tail(&found), tail(&listed));
        } else {
            // The epoch before the start, if no batch of it is left.
            assert_eq!(found.entries()[1..], *listed.entries());
        }
        check_indexes(log, self.power_was_cut);
        self.check_times();
    }

    fn check_times(&mut self) {
        let start = self.start;
        let listed: Vec<(i64, i64, i64)> = self
            .batches
            .iter()
            .filter(|batch| batch.end > start)
            .map(|batch| (batch.base, batch.end, batch.timestamp))
            .collect();
        let newest = listed.iter().map(|(_, _, timestamp)| *timestamp).max().filter(|newest| *newest >= 0);
        let log = self.log();
        if start == log.segments[0].base().0 {
            assert_eq!(log.newest_batch().unwrap().map(|batch| batch.header.max_timestamp), newest);
        }
        for wanted in [0, newest.unwrap_or(0) / 2, newest.unwrap_or(0)] {
            let found = log.first_batch_since(wanted).unwrap().map(|batch| batch.header.base_offset.0);
            let expected =
                listed.iter().find(|(_, _, timestamp)| *timestamp >= wanted).map(|(base, _, _)| *base);
            if start == log.segments[0].base().0 {
                assert_eq!(found, expected, "timestamp {wanted}");
            }
        }
    }
}

/// The offset index is what the batches give when it is built from the first; the time index has at least that, and
/// nothing that is not true.
fn check_indexes(log: &mut Log, power_was_cut: bool) {
    let (files, config) = (&log.files, &log.config);
    for segment in &mut log.segments {
        if !segment.is_created() {
            continue;
        }
        let (offsets, times) = segment.index_entries(files, config);
        let file = segment.file(files).unwrap();
        assert_eq!(file.len().unwrap(), u64::from(segment.size()));
        let mut walk = Walk::new(&*file, 0, segment.size(), SCAN_BYTES);
        let (mut since, mut largest) = (0, None);
        let (mut expected_offsets, mut expected_times, mut true_times) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((position, header)) = walk.next().unwrap() {
            let offset = segment.relative(header.last_offset()).unwrap();
            if header.max_timestamp >= 0
                && largest.is_none_or(|(timestamp, _)| header.max_timestamp > timestamp)
            {
                largest = Some((header.max_timestamp, offset));
                true_times.push((header.max_timestamp, offset));
            }
            if since > config.index_interval_bytes as usize {
                expected_offsets.push((offset, position));
                expected_times.extend(largest.filter(|largest| expected_times.last() != Some(largest)));
                since = 0;
            }
            since += header.size_bytes;
        }
        let offsets: Vec<(u32, u32)> = offsets.iter().map(|entry| (entry.offset, entry.position)).collect();
        assert_eq!(offsets, expected_offsets);
        let times: Vec<(i64, u32)> = times.iter().map(|entry| (entry.timestamp, entry.offset)).collect();
        assert!(times.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{times:?}");
        assert!(times.iter().all(|entry| true_times.contains(entry)), "{times:?} of {true_times:?}");
        let all = expected_times.iter().all(|entry| times.contains(entry));
        assert!(all || power_was_cut, "{expected_times:?} in {times:?}");
        let newest = segment.largest(files, config).unwrap().map(|largest| largest.timestamp);
        assert_eq!(newest, true_times.last().map(|(timestamp, _)| *timestamp));
    }
}

fn run(seed: u64, ops: &[Op]) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut model = Model::new(seed);
        for op in ops {
            model.step(op).await;
            model.check();
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_changes_restarts_and_power_cuts_leaves_what_the_list_says(
        seed in any::<u64>(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        run(seed, &ops);
    }
}
