//! Consensus by an external etcd.
