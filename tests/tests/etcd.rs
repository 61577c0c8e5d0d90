//! The etcd backend against a real etcd.

mod etcd {
    mod common;
    mod faults;
    mod history;
    mod log;
    mod outside;
}
