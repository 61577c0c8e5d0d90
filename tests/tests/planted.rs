//! The simulator is itself tested: each bug that is planted must be found, and by its own invariant even where that is
//! the only one that is asserted, so that no assertion hides behind another that fails before it.
#![expect(clippy::disallowed_methods, reason = "which bugs to try is asked by an environment variable")]

use quorate_tests::simulator::{Bug, Options, run};

/// Each bug and the invariant that it breaks.
const TABLE: &[(Bug, u32)] = &[
    (Bug::ElectsAnybody, 1),
    (Bug::JoinsBehind, 2),
    (Bug::IgnoresJoining, 3),
    (Bug::HidesLastEpoch, 4),
    (Bug::AcksAtOnce, 6),
    (Bug::CallsAllVisible, 7),
    (Bug::LeaderEpochStays, 8),
    (Bug::ForgetsEpochs, 9),
    (Bug::FencedStaysLeader, 10),
    (Bug::FencedStaysInIsr, 11),
    (Bug::BrokerEpochStays, 13),
    (Bug::HighWatermarkFalls, 15),
    (Bug::ServesInvisible, 16),
    (Bug::CountsUnsynced, 17),
    (Bug::LeaderCutsToHighWatermark, 18),
    (Bug::FollowerCutsToHighWatermark, 18),
    (Bug::LeavesGaps, 20),
    (Bug::ShrinksAtOnce, 21),
    (Bug::RecoversAlways, 22),
    (Bug::ForgetsProducers, 27),
    (Bug::SkipsEntries, 35),
    (Bug::YieldsUncommitted, 36),
    (Bug::LeadsUnregistered, 37),
    (Bug::SkipsChecksum, 38),
    (Bug::OpensShort, 39),
    (Bug::UnfencedStaysOut, 40),
    (Bug::EpochsSurviveCut, 40),
    (Bug::BelievesOffsets, 5),
    (Bug::ForgetsLosses, 12),
    (Bug::ReplacesAtOnce, 14),
    (Bug::CutsToCheckpoint, 19),
    (Bug::ElectsUncleanly, 23),
    (Bug::FindsByName, 25),
    (Bug::TakesOldEpochs, 28),
    (Bug::DeletesInvisible, 34),
    (Bug::VerifiesNothing, 38),
    (Bug::IgnoresFailedSyncs, 39),
];

/// Seeds that are tried for each bug.
const SEEDS: u64 = 150;

fn first(bug: Bug, only: Option<u32>) -> Option<(u64, u32)> {
    (0..SEEDS).find_map(|seed| {
        let violation = run(Options { only, ..Options::with(seed, bug) }).violation?;
        Some((seed, violation.invariant))
    })
}

/// `PLANTED=name` tries one bug alone.
fn wanted(bug: Bug) -> bool {
    std::env::var("PLANTED").map_or(true, |names| names.split(',').any(|name| format!("{bug:?}") == name))
}

#[test]
fn each_planted_bug_is_found_by_its_own_invariant() {
    let mut missed = Vec::new();
    for (bug, invariant) in TABLE.iter().filter(|(bug, _)| wanted(*bug)) {
        let (all, own) = (first(*bug, None), first(*bug, Some(*invariant)));
        match (all, own) {
            (Some((seed, by)), Some((own_seed, _))) => {
                println!("{bug:?} -> seed {seed} -> invariant {by}; {invariant} alone: seed {own_seed}");
            }
            _ => {
                println!("{bug:?} -> {all:?}; {invariant} alone: {own:?}");
                missed.push((*bug, *invariant));
            }
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}
