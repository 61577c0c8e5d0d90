//! The simulator is itself tested: each bug that is planted must be found, by an invariant that it breaks.

use quorate_tests::simulator::{Bug, Options, run};

/// The bug, the invariants that it breaks, and the seed that shows it first.
const TABLE: &[(Bug, &[u32])] = &[
    (Bug::ElectsAnybody, &[1, 2]),
    (Bug::JoinsBehind, &[2, 17]),
    (Bug::IgnoresJoining, &[3]),
    (Bug::HidesLastEpoch, &[4]),
    (Bug::AcksAtOnce, &[6, 1, 2]),
    (Bug::CallsAllVisible, &[7, 1, 2]),
    (Bug::LeaderEpochStays, &[8]),
    (Bug::EpochsSurviveCut, &[9]),
    (Bug::FencedStaysLeader, &[10]),
    (Bug::FencedStaysInIsr, &[11]),
    (Bug::BrokerEpochStays, &[13]),
    (Bug::HighWatermarkFalls, &[15]),
    (Bug::ServesInvisible, &[16]),
    (Bug::CountsUnsynced, &[17]),
    (Bug::LeaderCutsToHighWatermark, &[18, 1, 2]),
    (Bug::FollowerCutsToHighWatermark, &[19, 18, 2]),
    (Bug::LeavesGaps, &[20]),
    (Bug::ShrinksAtOnce, &[21]),
    (Bug::RecoversAlways, &[22]),
    (Bug::ForgetsProducers, &[27]),
    (Bug::SkipsEntries, &[35]),
    (Bug::YieldsUncommitted, &[36]),
    (Bug::LeadsUnregistered, &[37]),
    (Bug::SkipsChecksum, &[38]),
    (Bug::OpensShort, &[39, 2]),
    (Bug::UnfencedStaysOut, &[40]),
];

/// Seeds that are tried for each bug.
const SEEDS: u64 = 40;

#[test]
fn each_planted_bug_is_found() {
    let mut missed = Vec::new();
    for (bug, invariants) in TABLE {
        let found = (0..SEEDS).find_map(|seed| Some((seed, run(Options::with(seed, *bug)).violation?)));
        match found {
            Some((seed, violation)) => {
                println!("{bug:?} -> seed {seed} -> invariant {}: {}", violation.invariant, violation.what);
                if !invariants.contains(&violation.invariant) {
                    missed.push(format!("{bug:?} by {}", violation.invariant));
                }
            }
            None => {
                println!("{bug:?} -> not found in {SEEDS} seeds");
                missed.push(format!("{bug:?}"));
            }
        }
    }
    assert!(missed.is_empty(), "not found, or by another invariant than its own: {missed:?}");
}
