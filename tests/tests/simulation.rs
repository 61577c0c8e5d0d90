//! The simulator on many seeds.
#![expect(clippy::disallowed_methods, reason = "how many seeds to run is asked by an environment variable")]

use quorate_tests::simulator::{Options, run};

/// The first seed and how many: `SIMULATION_SEEDS=17+1` for one. Another number of seeds is for long runs. With
/// `SIMULATION_LOG` set, what the nodes log is printed.
fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("SIMULATION_SEEDS").unwrap_or_else(|_| "0+100".to_owned());
    let (first, count) = text.split_once('+').expect("SIMULATION_SEEDS is FIRST+COUNT");
    let first: u64 = first.parse().expect("a number");
    first..first + count.parse::<u64>().expect("a number")
}

#[test]
fn a_hundred_seeds_break_no_invariant() {
    if std::env::var_os("SIMULATION_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .without_time()
            .with_ansi(false)
            .init();
    }
    let mut broken = Vec::new();
    for seed in seeds() {
        let report = run(Options::of(seed));
        println!("{report}");
        if report.violation.is_some() {
            broken.push(seed);
        }
    }
    assert_eq!(broken, [0; 0], "REPRODUCE: SIMULATION_SEEDS=<seed>+1");
}

#[test]
fn a_seed_is_replayed_to_the_bit() {
    for seed in 1000..1003 {
        let (first, again) = (run(Options::of(seed)), run(Options::of(seed)));
        assert_eq!(first, again, "REPRODUCE: SIMULATION_SEEDS={seed}+1");
    }
}
