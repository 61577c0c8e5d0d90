//! What must always hold, one file a group.
//!
//! Numbers are those of a checklist of what replication and consensus promise. Where a topic permits unclean elections
//! and one has happened, nothing is said any more of what clients were told of the partition (1, 2, 6, 7, 15, 17, 18,
//! 19, 27, 28, 39); all else holds there too.
//!
//! | nr | what must hold | asserted in | a planted bug that it finds |
//! |---|---|---|---|
//! | 1 | the leader has every acknowledged record | `records`, consumers | `ElectsAnybody` |
//! | 2 | every member of ISR and ELR has what is visible | `records` | `JoinsBehind` |
//! | 3 | the maximal ISR contains the ISR of the metadata | `records` | `IgnoresJoining` |
//! | 4 | equal offset and epoch, equal history before | `records` | `HidesLastEpoch` |
//! | 5 | below the leader's high watermark the whole ISR agrees | `records` | `BelievesOffsets` |
//! | 6 | no acknowledged record is lost | `rest` | `AcksAtOnce` |
//! | 7 | what was read once is read ever after | consumers, `rest` | `CallsAllVisible` |
//! | 8 | one leader an epoch; epochs grow | `metadata` | `LeaderEpochStays` |
//! | 9 | the epochs of a log are those of its batches | `scan`, `records` | `ForgetsEpochs` |
//! | 10 | leader ∈ ISR ⊆ replicas, ISR ∩ ELR = ∅ | `metadata` | `FencedStaysLeader` |
//! | 11 | a fenced broker is in no ISR | `metadata` | `FencedStaysInIsr` |
//! | 12 | who has lost something counts only once it has caught up | `restarts` | `ForgetsLosses` |
//! | 13 | broker epochs grow with each registration | `metadata` | `BrokerEpochStays` |
//! | 14 | in other folders a broker waits for its former self to be fenced | `metadata` | `ReplacesAtOnce` |
//! | 15 | start ≤ high watermark ≤ end; it never falls | `records` | `HighWatermarkFalls` |
//! | 16 | consumers are served nothing past the high watermark | consumers | `ServesInvisible` |
//! | 17 | what is visible is synced by the maximal ISR (`synced` topics) | `records`, `rest` | `CountsUnsynced` |
//! | 18 | a leader cuts nothing, a follower nothing visible | `records` | `LeaderCutsToHighWatermark`, `FollowerCutsToHighWatermark` |
//! | 19 | a restart cuts nothing that the leader has | `restarts` | `CutsToCheckpoint` |
//! | 20 | logs have no holes | `scan` | `LeavesGaps` |
//! | 21 | who leaves the ISR counts until the metadata says so | `records` | `ShrinksAtOnce` |
//! | 22 | a leader in recovery is alone in the ISR | `metadata` | `RecoversAlways` |
//! | 23 | unclean elections only where permitted, and counted | `metadata` | `ElectsUncleanly` |
//! | 24 | reassignment | not applicable: there is none yet | |
//! | 25 | a topic is its id, not its name | `scan`, consumers | `FindsByName` |
//! | 26 | replicas and directories | a node has one directory here, and the metadata assigns none: what a lost or failed one means is 12 and 14 | |
//! | 27 | batches of a producer follow each other; duplicates get their old offset | `scan`, producers, `rest` | `ForgetsProducers` |
//! | 28 | an old epoch of a producer is refused | producers, `scan` | `TakesOldEpochs` |
//! | 29–32 | transactions | not applicable: there are none yet | |
//! | 33 | consumer groups | not applicable: there are none yet | |
//! | 34 | retention deletes nothing that is not visible; compaction is not applicable: there is none yet | `records` | `DeletesInvisible` |
//! | 35 | every image is what the log says | `metadata` | `SkipsEntries` |
//! | 36 | nothing uncommitted is served; one controller an epoch | `metadata` | `YieldsUncommitted` |
//! | 37 | nobody leads before it has registered | `records` | `LeadsUnregistered` |
//! | 38 | nothing with a wrong checksum is kept, served or replicated | `scan`, consumers | `SkipsChecksum`, `VerifiesNothing` |
//! | 39 | a log that is opened has what was synced (the indexes are the log's own tests' concern) | `restarts` | `OpensShort`, `IgnoresFailedSyncs` |
//! | 40 | once faults end, everybody leads, follows, answers | `rest`, `damage` | `UnfencedStaysOut`, `EpochsSurviveCut` |

pub(super) mod metadata;
pub(super) mod records;
pub(super) mod rest;
mod restarts;
mod scan;

use std::{cell::Cell, fmt};

use super::{client::Doubt, world::World};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the checklist.
    pub invariant: u32,
    /// What is wrong.
    pub what: String,
}

impl Violation {
    pub(super) fn new(invariant: u32, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {} does not hold: {}", self.invariant, self.what)
    }
}

thread_local! {
    static ONLY: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Asserts one invariant alone in this thread, or all of them.
pub(super) fn assert_only(invariant: Option<u32>) {
    ONLY.set(invariant);
}

/// Whether an invariant is asserted.
pub(super) fn asserts(invariant: u32) -> bool {
    ONLY.get().is_none_or(|only| only == invariant)
}

/// Ends a look unless a condition holds.
macro_rules! holds {
    ($invariant:expr, $condition:expr, $($what:tt)+) => {
        if $crate::simulator::invariants::asserts($invariant) && !$condition {
            return Err($crate::simulator::Violation::new($invariant, format!($($what)+)));
        }
    };
}
pub(super) use holds;

/// What the invariants remember of the past.
#[derive(Default)]
pub(super) struct Observer {
    pub(super) metadata: metadata::Seen,
    pub(super) records: records::Seen,
    pub(super) restarts: restarts::Seen,
    looks: u64,
}

/// Every so many looks, logs are read from end to end.
const SCAN_EACH: u64 = 25;

/// Looks at everything.
pub(super) fn look(world: &mut World) -> Result<(), Violation> {
    metadata::look(world)?;
    let doubts = std::mem::take(&mut world.told.lock().doubts);
    let founded = doubts.into_iter().find(|doubt| is_founded(world, doubt));
    if let Some(doubt) = founded {
        return Err(doubt.violation);
    }
    records::glance(world)?;
    world.observer.looks += 1;
    if world.observer.looks.is_multiple_of(SCAN_EACH) {
        records::scan(world)?;
    }
    let told = world.told.lock().violation.clone();
    told.map_or(Ok(()), Err)
}

/// Whether what a client saw was of the present leader of a partition that has lost nothing.
fn is_founded(world: &World, doubt: &Doubt) -> bool {
    let image = world.oracle.newest();
    let present = image.partition(doubt.id).is_some_and(|partition| doubt.epoch >= partition.leader_epoch);
    present && !world.oracle.is_unclean(doubt.id)
}

/// Whether a replica's log can be read from end to end.
pub(super) fn can_be_read(
    replica: &std::sync::Arc<quorate_core::partition::replica::Replica>,
) -> Result<bool, Violation> {
    scan::Scan::of(replica).map(|scan| scan.is_some())
}
