//! The etcd backend against a real etcd.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

mod etcd {
    mod brokers;
    mod common;
    mod faults;
    mod history;
    mod log;
    mod model;
    mod outside;
    mod storm;
}
