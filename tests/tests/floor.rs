//! The whole conformance suite on the oldest etcd that works. Not part of a plain `cargo test`: `make conformance`.

use quorate_tests::{etcd::Release, labs::etcd::EtcdBackend};

quorate_conformance::conformance!(EtcdBackend(Release::Floor));
