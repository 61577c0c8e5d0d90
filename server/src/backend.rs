//! The only place that names consensus backends.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use quorate_core::{
    broker::observer::Observer,
    consensus::Consensus,
    ids::{DirectoryId, NodeId},
    metadata::configs::{Key, Kind, Scope},
    runtime::{Connection, Runtime},
};
use tokio::sync::mpsc;

use crate::config::{ServerConfig, endpoints::items};
#[cfg(feature = "plugin")]
use crate::library;

/// Connections that peers of an in-process backend made to the controller listener.
pub(crate) type PeerConnections = mpsc::Receiver<(Connection, SocketAddr)>;

/// The backends of this build, as `consensus` and `--consensus` take them.
pub(crate) fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "raftrs") {
        names.push("raftrs");
    }
    if cfg!(feature = "openraft") {
        names.push("openraft");
    }
    if cfg!(feature = "etcd") {
        names.push("etcd");
    }
    names
}

/// The backend that a configuration names.
pub(crate) struct Choice {
    /// The name that a node's folders record.
    pub(crate) recorded: String,
    #[cfg(feature = "plugin")]
    library: Option<std::sync::Arc<library::Library>>,
}

/// Finds the backend of this name: one that this build has, or the library at the path of `plugin:/path`, which is
/// loaded into this process.
///
/// # Errors
/// A sentence that says why there is none.
pub(crate) fn choose(name: &str) -> Result<Choice, String> {
    #[cfg(feature = "plugin")]
    if let Some(path) = name.strip_prefix(library::PREFIX) {
        let library = library::open(path)?;
        return Ok(Choice { recorded: library.recorded_name().to_owned(), library: Some(library) });
    }
    let names = names();
    if !names.contains(&name) {
        let mut known = names.join(", ");
        if cfg!(feature = "plugin") {
            known.push_str(" and plugin:/path/of/a/library.so");
        }
        return Err(format!("consensus={name}: there is no such backend; this build has {known}"));
    }
    Ok(Choice {
        recorded: name.to_owned(),
        #[cfg(feature = "plugin")]
        library: None,
    })
}

/// What a backend is made of.
pub(crate) struct Ingredients<'a> {
    /// The backend that the configuration names.
    pub(crate) choice: &'a Choice,
    /// The configuration.
    pub(crate) config: &'a ServerConfig,
    /// The ports to the world.
    pub(crate) runtime: &'a Runtime,
    /// The identity of the folder that holds the backend's own files.
    pub(crate) directory: DirectoryId,
    /// The generation of the cluster's log that the folders are of.
    pub(crate) generation: u64,
    /// Peers that have connected to the controller listener.
    pub(crate) peers: PeerConnections,
}

/// Constructs the backend that the configuration names, or, on a node that is no controller, what follows the log of
/// those that are: no disk, no network, no task, no waiting.
///
/// # Errors
/// A sentence that names the key whose value cannot be.
pub(crate) fn select(ingredients: Ingredients<'_>) -> Result<Box<dyn Consensus>, String> {
    let config = ingredients.config;
    if !config.roles.controller {
        let runtime = ingredients.runtime.clone();
        return Ok(Box::new(Observer::new(runtime, config.node, ingredients.directory, voters(config))));
    }
    #[cfg(feature = "plugin")]
    if let Some(library) = &ingredients.choice.library {
        return library::construct(library, config, ingredients.directory);
    }
    match ingredients.choice.recorded.as_str() {
        #[cfg(feature = "raftrs")]
        "raftrs" => {
            let raftrs = quorate_consensus_raftrs::Raftrs::new(voter(ingredients, "raftrs-1"));
            Ok(Box::new(raftrs.map_err(|error| error.to_string())?))
        }
        #[cfg(feature = "openraft")]
        "openraft" => {
            let openraft = quorate_consensus_openraft::Openraft::new(voter(ingredients, "openraft-1"));
            Ok(Box::new(openraft.map_err(|error| error.to_string())?))
        }
        #[cfg(feature = "etcd")]
        "etcd" => {
            let Ingredients { config, runtime, generation, directory, .. } = ingredients;
            let settings = etcd(config, runtime, generation);
            let settings = quorate_consensus_etcd::EtcdConfig { directory, ..settings };
            let etcd = quorate_consensus_etcd::Etcd::new(settings);
            Ok(Box::new(etcd.map_err(|error| error.to_string())?))
        }
        other => Err(format!("consensus={other}: this build cannot start it")),
    }
}

fn voters(config: &ServerConfig) -> BTreeMap<NodeId, String> {
    config.voters.iter().map(|(node, endpoint)| (*node, endpoint.to_string())).collect()
}

/// What every backend is given whose voters are Quorate's own nodes.
#[cfg(any(feature = "openraft", feature = "raftrs"))]
fn voter(ingredients: Ingredients<'_>, folder: &str) -> quorate_consensus_kit::config::VoterConfig {
    use quorate_consensus_kit::config::{Timings, VoterConfig};

    let Ingredients { config, runtime, directory, peers, .. } = ingredients;
    let usual = Timings::default();
    let millis =
        |key: &str| config.file.get(key).and_then(|text| text.parse().ok()).map(Duration::from_millis);
    let election_min = millis("controller.quorum.election.timeout.ms").unwrap_or(usual.election_min);
    let heartbeat = usual.heartbeat.min(election_min / 5);
    VoterConfig {
        node: config.node,
        directory_id: directory,
        folder: config.metadata_dir.join("consensus").join(folder),
        voters: voters(config),
        incoming: peers,
        timings: Timings { heartbeat, election_min, election_max: election_min * 2 },
        runtime: runtime.clone(),
    }
}

/// The way out for a cluster whose log was lost by a restore of what keeps it.
///
/// # Errors
/// If the backend keeps its log with the nodes, or a sentence that names the key whose value cannot be.
#[cfg(feature = "etcd")]
pub(crate) fn restore(
    config: &ServerConfig,
    runtime: &Runtime,
) -> Result<quorate_consensus_etcd::restore::Restore, String> {
    if config.consensus.name != "etcd" {
        return Err(format!(
            "consensus={}: its log is kept by the nodes themselves, so that there is no restore to accept",
            config.consensus.name
        ));
    }
    quorate_consensus_etcd::restore::Restore::new(&etcd(config, runtime, 1))
}

#[cfg(feature = "etcd")]
fn etcd(config: &ServerConfig, runtime: &Runtime, generation: u64) -> quorate_consensus_etcd::EtcdConfig {
    use quorate_consensus_etcd::{Credentials, EtcdConfig, Tls};

    let option = |name: &str| {
        let value = config.consensus.options.get(&format!("consensus.etcd.{name}"));
        value.filter(|value| !value.is_empty()).cloned()
    };
    let endpoints = items(&option("endpoints").unwrap_or_default()).map(str::to_owned).collect();
    let advertised = config.controller_endpoint().unwrap_or_default();
    let mut etcd = EtcdConfig::new(config.node, advertised, endpoints, runtime.clone());
    etcd.campaigns = config.roles.controller;
    etcd.generation = generation;
    if let Some(prefix) = option("prefix") {
        etcd.prefix = prefix;
    }
    if let Some(seconds) = option("lease.ttl.s").and_then(|text| text.parse().ok()) {
        etcd.lease_ttl = Duration::from_secs(seconds);
    }
    etcd.credentials = option("username")
        .map(|username| Credentials { username, password: option("password").unwrap_or_default() });
    let file = |name: &str| option(name).map(PathBuf::from);
    let tls = Tls {
        ca_file: file("tls.ca.file"),
        cert_file: file("tls.cert.file"),
        key_file: file("tls.key.file"),
        server_name: option("tls.server.name"),
    };
    etcd.tls = (tls != Tls::default()).then_some(tls);
    etcd
}

/// What a backend is made of where there is no server around it: the conformance suite's nodes.
#[cfg(feature = "conformance")]
pub(crate) struct Bare {
    pub(crate) node: NodeId,
    pub(crate) directory: DirectoryId,
    pub(crate) folder: PathBuf,
    pub(crate) voters: BTreeMap<NodeId, String>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) runtime: Runtime,
    pub(crate) peers: PeerConnections,
}

#[cfg(feature = "conformance")]
impl Bare {
    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let wrong = |text: &String| format!("{name}={text}: not a number");
        self.options.get(name).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }
}

/// Constructs a backend of this build by itself, with the few options that tests need.
///
/// # Errors
/// A sentence that names what cannot be.
#[cfg(feature = "conformance")]
pub(crate) fn bare(name: &str, bare: Bare) -> Result<Box<dyn Consensus>, String> {
    match name {
        #[cfg(feature = "raftrs")]
        "raftrs" => {
            let (voter, tail) = bare_voter(bare)?;
            let raftrs = quorate_consensus_raftrs::Raftrs::new(voter).map_err(|error| error.to_string())?;
            Ok(Box::new(raftrs.with_tail(tail)))
        }
        #[cfg(feature = "openraft")]
        "openraft" => {
            let (voter, tail) = bare_voter(bare)?;
            let openraft =
                quorate_consensus_openraft::Openraft::new(voter).map_err(|error| error.to_string())?;
            Ok(Box::new(openraft.with_tail(tail)))
        }
        #[cfg(feature = "etcd")]
        "etcd" => bare_etcd(&bare),
        other => Err(format!("this build cannot start {other}")),
    }
}

/// A voter, and how many entries it keeps behind a snapshot.
#[cfg(all(feature = "conformance", any(feature = "openraft", feature = "raftrs")))]
fn bare_voter(bare: Bare) -> Result<(quorate_consensus_kit::config::VoterConfig, u64), String> {
    use quorate_consensus_kit::config::{Timings, VoterConfig};

    let usual = Timings::default();
    let election = bare.number("election.timeout.ms")?.map(Duration::from_millis);
    let election_min = election.unwrap_or(usual.election_min);
    let heartbeat = usual.heartbeat.min(election_min / 5);
    let tail = bare.number("tail")?.unwrap_or(10_000);
    let voter = VoterConfig {
        node: bare.node,
        directory_id: bare.directory,
        folder: bare.folder,
        voters: bare.voters,
        incoming: bare.peers,
        timings: Timings { heartbeat, election_min, election_max: election_min * 2 },
        runtime: bare.runtime,
    };
    Ok((voter, tail))
}

#[cfg(all(feature = "conformance", feature = "etcd"))]
fn bare_etcd(bare: &Bare) -> Result<Box<dyn Consensus>, String> {
    use quorate_consensus_etcd::{Etcd, EtcdConfig};

    let endpoints = bare.options.get("endpoints").map(String::as_str).unwrap_or_default();
    let endpoints = items(endpoints).map(str::to_owned).collect();
    let advertised = bare.voters.get(&bare.node).cloned().unwrap_or_default();
    let mut etcd = EtcdConfig::new(bare.node, advertised, endpoints, bare.runtime.clone());
    if let Some(prefix) = bare.options.get("prefix") {
        etcd.prefix.clone_from(prefix);
    }
    if let Some(seconds) = bare.number("lease.ttl.s")? {
        etcd.lease_ttl = Duration::from_secs(seconds);
    }
    if let Some(entries) = bare.number("keep.entries")? {
        etcd.keep_entries = entries;
    }
    Ok(Box::new(Etcd::new(etcd).map_err(|error| error.to_string())?))
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { name, kind, default, scope: Scope::ReadOnly, doc }
}

/// The keys of the backends.
pub(crate) const KEYS: &[Key] = &[
    key(
        "consensus.etcd.endpoints",
        Kind::List(&[]),
        None,
        "etcd's client URLs, http://host:port or https://host:port. Required with consensus=etcd.",
    ),
    key(
        "consensus.etcd.lease.ttl.s",
        Kind::Int(2, 60),
        Some("6"),
        "How long a leader that has fallen silent keeps its leadership, in seconds.",
    ),
    key("consensus.etcd.password", Kind::Password, None, "The password of consensus.etcd.username."),
    key(
        "consensus.etcd.prefix",
        Kind::Text,
        Some("/quorate/default"),
        "The cluster's place in etcd: two clusters on one etcd need two.",
    ),
    key(
        "consensus.etcd.tls.ca.file",
        Kind::Text,
        None,
        "Who signs etcd's certificates (PEM); unset, the system's roots.",
    ),
    key(
        "consensus.etcd.tls.cert.file",
        Kind::Text,
        None,
        "The certificate that this node shows to etcd (PEM).",
    ),
    key("consensus.etcd.tls.key.file", Kind::Text, None, "The key of consensus.etcd.tls.cert.file (PEM)."),
    key(
        "consensus.etcd.tls.server.name",
        Kind::Text,
        None,
        "The name in etcd's certificate, where it is not the endpoint's host.",
    ),
    key("consensus.etcd.username", Kind::Text, None, "The user that this node is in etcd."),
    key(
        "consensus.listener",
        Kind::Text,
        None,
        "Where a library of consensus=plugin: listens for its peers, host:port. Set with consensus.peers.",
    ),
    key(
        "consensus.peers",
        Kind::List(&[]),
        None,
        "Where such libraries reach each other, id@host:port,…, one for each of controller.quorum.voters.",
    ),
    key(
        "consensus.plugin.*",
        Kind::Text,
        None,
        "Whatever the library of consensus=plugin: takes, handed to it under the name behind consensus.plugin.",
    ),
    key(
        "consensus.plugin.secret.*",
        Kind::Password,
        None,
        "As consensus.plugin.*, handed over as secret.NAME, and never shown.",
    ),
];
