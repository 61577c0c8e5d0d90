//! What the simulation is run for.

use super::{model::Planted, world::World};

/// Runs one seed on a runtime of its own. The result is a digest of everything that happened.
fn run(seed: u64, planted: Planted) -> Result<u64, String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { World::new(seed, planted).run().await })
}

fn seeds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the number of seeds is the caller's to choose")]
    std::env::var("SIMULATION_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .map_or(30, |seeds: u64| seeds / 10)
}

#[test]
fn random_faults_lose_repeat_and_reorder_nothing() {
    for seed in 1..=seeds() {
        run(seed, Planted::Nothing).unwrap_or_else(|reason| panic!("{reason}\nREPRODUCE: seed {seed}"));
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [3, 7] {
        assert_eq!(run(seed, Planted::Nothing), run(seed, Planted::Nothing), "seed {seed}");
    }
}

/// The first seed that finds a planted bug, and what it says.
fn found(planted: Planted, seeds: u64) -> String {
    let mut errors = (1..=seeds).filter_map(|seed| Some((seed, run(seed, planted).err()?)));
    let (seed, reason) =
        errors.next().unwrap_or_else(|| panic!("{planted:?} was not found in {seeds} seeds"));
    println!("{planted:?}: found by seed {seed}: {reason}");
    reason
}

#[test]
fn a_transaction_that_does_not_compare_the_tail_is_found_out() {
    assert!(found(Planted::NoTail, 60).contains("rewound"));
}

#[test]
fn a_transaction_that_compares_nothing_is_found_out() {
    found(Planted::NoComparison, 20);
}

#[test]
fn a_restored_backup_ends_every_node_that_knows_more() {
    for seed in 1..=10 {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let result = runtime.block_on(async { World::new(seed, Planted::Nothing).run_restore().await });
        result.unwrap_or_else(|reason| panic!("{reason}\nREPRODUCE: seed {seed}"));
    }
}
