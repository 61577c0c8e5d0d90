//! Conformance suite, cluster harness, history checker, simulator, benchmarks.

pub mod certificates;
pub mod clients;
pub mod cluster;
pub mod conformance;
pub mod etcd;
pub mod history;

pub mod kafka;
pub mod proxy;
pub mod simulator;
