//! The simulator on many seeds.

use quorate_tests::simulator::{Options, run};

#[test]
fn a_hundred_seeds_break_no_invariant() {
    for seed in 0..3 {
        let report = run(Options::of(seed));
        println!("{report}");
        assert_eq!(report.violation, None, "REPRODUCE: seed {seed}");
    }
}
