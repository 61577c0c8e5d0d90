//! Measures the consensus backends on this machine, in one run, and writes the table of `docs/choosing-a-backend.md`:
//! `make backends`. Three nodes, each a process; times are what a client waits for a change of the metadata.
#![expect(clippy::disallowed_methods, reason = "measuring is about real time")]

mod links;
mod measures;
mod prober;
mod table;

use quorate_tests::{
    backend::{Backend, built_library},
    etcd::EtcdServer,
};

use measures::Measured;

/// A backend that is measured.
pub(crate) struct Candidate {
    /// As `--consensus` takes it.
    pub(crate) name: &'static str,
    /// A fresh cluster on it.
    pub(crate) fresh: Box<dyn Fn() -> Backend>,
    /// It as a library, for its size.
    pub(crate) library: &'static str,
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let etcd = EtcdServer::start();
    let address = etcd.address();
    let library = Backend::library(folder.path(), "libraftrs_library.so");
    let candidates = [
        Candidate { name: "raftrs", fresh: Box::new(|| Backend::Raftrs), library: "libraftrs_library.so" },
        Candidate {
            name: "openraft",
            fresh: Box::new(|| Backend::Openraft),
            library: "libopenraft_library.so",
        },
        Candidate {
            name: "etcd",
            fresh: Box::new(move || Backend::etcd(&address)),
            library: "libetcd_library.so",
        },
        Candidate {
            name: "plugin (raft-rs as a library)",
            fresh: Box::new(move || library.clone()),
            library: "libraftrs_library.so",
        },
    ];
    let only: Vec<String> = std::env::args().skip(1).collect();
    let mut rows = Vec::new();
    for candidate in &candidates {
        if only.is_empty() || only.iter().any(|name| name == candidate.name) {
            let measured = Measured::of(candidate, &etcd.address());
            println!("{}", table::row(candidate.name, &measured, &built_library(candidate.library)));
            rows.push(table::row(candidate.name, &measured, &built_library(candidate.library)));
        }
    }
    if only.is_empty() {
        table::write(&rows);
    }
}
