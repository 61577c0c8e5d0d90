//! What the tests of this room share: batches made up from numbers, and a folder to put them in.

use std::{path::PathBuf, sync::Arc};

use super::{Handles, Log, LogConfig, LogParts, Opening, PageCache, ReadRequest, Recovery, SyncDepth};
use crate::{
    ids::Offset,
    protocol::batch::checksum,
    runtime::{
        Clock, Disk, RealDisk, Rng,
        simulated::{Keep, SimulatedDisk},
    },
};

/// A batch of `records` offsets whose payload is `payload` bytes that depend on `base` and `seed`.
pub(super) fn batch(base: i64, records: i32, epoch: i32, timestamp: i64, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(61 + payload);
    bytes.extend(base.to_be_bytes());
    bytes.extend((49 + payload as i32).to_be_bytes());
    bytes.extend(epoch.to_be_bytes());
    bytes.extend([2, 0, 0, 0, 0]);
    bytes.extend(0_i16.to_be_bytes());
    bytes.extend((records - 1).to_be_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend((-1_i64).to_be_bytes());
    bytes.extend((-1_i16).to_be_bytes());
    bytes.extend((-1_i32).to_be_bytes());
    bytes.extend(records.to_be_bytes());
    bytes.extend((0..payload).map(|at| (at as i64 * 31 + base * 7 + i64::from(epoch)) as u8));
    let crc = checksum(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// A log in a simulated folder that can be crashed and opened again.
pub(super) struct Bench {
    pub(super) disk: SimulatedDisk,
    pub(super) parts: LogParts,
    pub(super) dir: PathBuf,
    pub(super) config: LogConfig,
}

impl Bench {
    /// Must run on a tokio runtime.
    pub(super) fn new(seed: u64) -> Self {
        let (clock, _) = Clock::simulated(1_000_000);
        let disk = SimulatedDisk::new(clock.clone(), Rng::seeded(seed));
        let dir = PathBuf::from("/data/orders-0");
        disk.mount(&dir).unwrap();
        let parts = LogParts {
            disk: Arc::new(disk.clone()),
            handles: Handles::new(64),
            clock,
            health: Arc::default(),
        };
        Self { disk, parts, dir, config: small() }
    }

    pub(super) fn open(&self, opening: Opening) -> (Log, Recovery) {
        Log::open(&self.dir, self.config, &self.parts, opening).unwrap()
    }

    /// The log after a crash, with fresh handles as a new process has.
    pub(super) fn crash(&mut self, log: Log, keep: Keep, mut opening: Opening) -> (Log, Recovery) {
        drop(log);
        self.disk.crash(keep);
        self.parts.handles = Handles::new(64);
        opening.page_cache = if keep == Keep::All { PageCache::Kept } else { PageCache::Lost };
        self.open(opening)
    }
}

/// A folder on the machine's disk.
pub(super) fn real(config: LogConfig) -> (tempfile::TempDir, Log) {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let parts = LogParts { disk, handles: Handles::new(64), clock: Clock::system(), health: Arc::default() };
    let log = Log::open(&folder.path().join("orders-0"), config, &parts, Opening::unknown()).unwrap().0;
    (folder, log)
}

/// Segments and index intervals so small that a few batches meet every border.
pub(super) fn small() -> LogConfig {
    LogConfig { segment_bytes: 2000, index_interval_bytes: 200, index_bytes_max: 400, ..LogConfig::default() }
}

pub(super) fn known(recovery_point: i64) -> Opening {
    Opening { recovery_point: Some(Offset(recovery_point)), ..Opening::unknown() }
}

/// Syncs; returns the synced end.
pub(super) async fn sync(log: &mut Log, depth: SyncDepth) -> Offset {
    let Some(job) = log.begin_sync(depth).unwrap() else { return log.synced_end() };
    job.run().await.unwrap();
    log.finish_sync(job)
}

/// Everything from `from` to `below`, read as a consumer does.
pub(super) fn read_all(log: &mut Log, from: i64, below: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut from = Offset(from);
    while let Some(region) =
        log.read(ReadRequest { from, below: Offset(below), max_bytes: 700, at_least_one: true }).unwrap()
    {
        let part = region.read().unwrap();
        let mut whole = 0;
        for batch in crate::protocol::batch::Batches::of(&part).map_while(Result::ok) {
            batch.check_crc().unwrap();
            from = batch.header().next_offset();
            whole += batch.bytes().len();
        }
        assert!(whole > 0, "a fetch that brings nothing forward");
        bytes.extend(&part[..whole]);
    }
    bytes
}
