//! Labs of the conformance suite, cluster harness, history checker, simulator, benchmarks.

pub mod backend;
pub mod certificates;
pub mod clients;
pub mod cluster;
pub mod etcd;
pub mod history;
pub mod kafka;
pub mod labs;
pub mod simulator;
