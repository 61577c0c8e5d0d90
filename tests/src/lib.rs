//! Conformance suite, cluster harness, history checker, simulator, benchmarks.
