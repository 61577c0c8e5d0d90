//! The backends that a cluster of processes can run on, as its configuration names them.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use quorate_core::runtime::Rng;

use crate::cluster::binary;

/// Which consensus a cluster runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// raft-rs in the brokers.
    Raftrs,
    /// openraft in the brokers.
    Openraft,
    /// An external etcd.
    Etcd {
        /// Where it listens for clients.
        url: String,
        /// Where the cluster's keys are.
        prefix: String,
    },
    /// A shared library.
    Library {
        /// Where it lies.
        path: PathBuf,
        /// Its own options, without `consensus.plugin.`.
        options: Vec<(String, String)>,
    },
}

impl Backend {
    /// A new cluster in the etcd at this `host:port`, under a prefix that nobody has used.
    #[must_use]
    pub fn etcd(address: &str) -> Self {
        let url = format!("http://{address}");
        let prefix = format!("/quorate/{:016x}", Rng::system().next_u64());
        Self::Etcd { url, prefix }
    }

    /// The library of this file name that was built beside the binary, without options. It is copied into `folder`,
    /// because the folder of a build may be one that others can write.
    ///
    /// # Panics
    /// If it was not built.
    #[must_use]
    pub fn library(folder: &Path, name: &str) -> Self {
        let built = built_library(name);
        let path = folder.join(name);
        fs::copy(&built, &path)
            .unwrap_or_else(|error| panic!("{}: {error}: run `make test`", built.display()));
        Self::Library { path, options: Vec::new() }
    }

    /// The lines of a node's properties that choose it. `controller` is the port of the node's controller, and `voters`
    /// are all of them, `id@host:port,…`.
    pub(crate) fn properties(&self, controller: u16, voters: &str) -> String {
        let mut text = String::new();
        match self {
            Self::Raftrs => text.push_str("consensus=raftrs\n"),
            Self::Openraft => text.push_str("consensus=openraft\n"),
            Self::Etcd { url, prefix } => {
                let keys = format!("consensus.etcd.endpoints={url}\nconsensus.etcd.prefix={prefix}\n");
                text.push_str(&format!("consensus=etcd\n{keys}"));
            }
            Self::Library { path, options } => {
                // Each three ports above the controller's.
                let peer = |voter: &str| {
                    let (node, port) = voter.rsplit_once(':').expect("id@host:port");
                    format!("{node}:{}", port.parse::<u16>().expect("a port") + 3)
                };
                let peers: Vec<String> = voters.split(',').map(peer).collect();
                let _ = writeln!(text, "consensus=plugin:{}", path.display());
                let _ = writeln!(text, "consensus.listener=127.0.0.1:{}", controller + 3);
                let _ = writeln!(text, "consensus.peers={}", peers.join(","));
                for (name, value) in options {
                    let _ = writeln!(text, "consensus.plugin.{name}={value}");
                }
            }
        }
        text
    }
}

/// A shared library of this workspace, built by the same profile as the test.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn built_library(name: &str) -> PathBuf {
    let profile = binary().with_file_name("");
    // Cargo puts examples here, and other libraries where their dependents look for them.
    let places = ["examples", "deps"].map(|folder| profile.join(folder).join(name));
    let built = places.into_iter().find(|place| place.exists());
    built.unwrap_or_else(|| panic!("{name} is missing in {}: run `make test`", profile.display()))
}
