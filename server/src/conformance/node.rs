//! `quorate conformance-node`: a backend in this process, driven by the suite through the standard input and output.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use quorate_conformance::process::{Prepared, ProcessConfig, serve_node};
use quorate_core::{
    consensus::StartError,
    ids::{DirectoryId, NodeId},
    runtime::{Listener, Network as _, RealNetwork, Runtime},
};
use serde::Deserialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    backend::{self, Bare},
    cli::ConformanceNodeArgs,
    exit::Failure,
    logging, parent, peers,
};

/// Is a node until the suite has gone.
pub(crate) fn run(args: &ConformanceNodeArgs) -> Result<(), Failure> {
    parent::die_with(args.parent).map_err(Failure::new)?;
    logging::start(false, std::env::var_os("RUST_LOG").as_deref().and_then(std::ffi::OsStr::to_str))?;
    serve_node(|config| prepare(args, config)).map_err(Failure::new)
}

/// A node's configuration, as libraries are given it.
#[derive(Deserialize)]
struct NodeConfig {
    node: i32,
    directory_id: Uuid,
    folder: PathBuf,
    listener: SocketAddr,
    peers: BTreeMap<i32, String>,
    options: BTreeMap<String, String>,
}

fn prepare(args: &ConformanceNodeArgs, text: &str) -> Result<Prepared, StartError> {
    #[cfg(feature = "plugin")]
    if let Some(path) = &args.plugin {
        let library = quorate_consensus_plugin::Library::open(path);
        let library = library.map_err(|error| StartError::Config(error.to_string()))?;
        let text = text.to_owned();
        return Ok(Box::new(move || library.construct(&text)));
    }
    let name = args.consensus.clone().unwrap_or_default();
    let wrong = |error: serde_json::Error| StartError::Config(format!("the node's configuration: {error}"));
    let config: NodeConfig = serde_json::from_str(text).map_err(wrong)?;
    let runtime = Runtime::real();
    let incoming = listen(&runtime, config.listener)?;
    let bare = Bare {
        node: NodeId(config.node),
        directory: DirectoryId(config.directory_id),
        folder: config.folder,
        voters: config.peers.into_iter().map(|(node, endpoint)| (NodeId(node), endpoint)).collect(),
        options: config.options,
        runtime,
        peers: incoming,
    };
    Ok(Box::new(move || backend::bare(&name, bare).map_err(StartError::Config)))
}

/// The controller's listener, as the server has it.
fn listen(runtime: &Runtime, address: SocketAddr) -> Result<backend::PeerConnections, StartError> {
    let listener = RealNetwork.listen(address);
    let listener = listener.map_err(|error| StartError::Config(format!("{address}: {error}")))?;
    let (sender, incoming) = mpsc::channel(peers::WAITING_MAX);
    runtime.tasks.spawn(accept(runtime.clone(), listener, sender));
    Ok(incoming)
}

async fn accept(runtime: Runtime, mut listener: Listener, sender: peers::Sender) {
    while let Ok((connection, peer)) = listener.accept().await {
        let (sender, tasks) = (sender.clone(), runtime.tasks.clone());
        runtime.tasks.spawn(async move {
            // Nobody speaks Kafka's protocol here.
            let _ = peers::divert(connection, peer, &sender, &tasks).await;
        });
    }
}

/// A backend of this build, and how it is usually put to the test.
///
/// # Errors
/// A sentence that names those that can be.
pub(super) fn built_in(name: &str) -> Result<(&'static str, ProcessConfig), String> {
    let texts = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let known = backend::names().into_iter().find(|known| *known == name);
    let known = known.ok_or_else(|| {
        format!(
            "--consensus {name}: there is no such backend; this build has {}",
            backend::names().join(", ")
        )
    })?;
    let config = match name {
        "etcd" => ProcessConfig {
            options: texts(&[("prefix", "/conformance/{lab}"), ("lease.ttl.s", "2"), ("keep.entries", "1")]),
            bad_options: texts(&[("endpoints", "nowhere")]),
            external: Some("endpoints".to_owned()),
            lacks: texts(&[
                ("founders", "the first campaign founds the log, whoever wins it"),
                ("votes", "etcd votes, not the nodes"),
                ("folder", "it keeps nothing on the node's disk"),
                ("membership", "etcd's members are not the nodes"),
            ]),
            short_tail: true,
            quiet_ms: 4000,
            ..ProcessConfig::default()
        },
        _ => ProcessConfig {
            options: texts(&[("election.timeout.ms", "300"), ("tail", "0")]),
            bad_options: texts(&[("election.timeout.ms", "0")]),
            short_tail: true,
            quiet_ms: 1800,
            log_files: ".log".to_owned(),
            ..ProcessConfig::default()
        },
    };
    Ok((known, config))
}

/// A library's name and version, and what it does not declare.
///
/// # Errors
/// A sentence that says why it cannot be loaded.
#[cfg(feature = "plugin")]
pub(super) fn library(
    path: &std::path::Path,
    given: ProcessConfig,
) -> Result<(String, ProcessConfig), String> {
    use quorate_consensus_plugin::{Capability, Library};

    let library = Library::open(path).map_err(|error| error.to_string())?;
    let mut config = given;
    for capability in Capability::ALL.into_iter().filter(|capability| !library.can(*capability)) {
        let undeclared = "the library does not declare it".to_owned();
        config.lacks.entry(capability.name().to_owned()).or_insert(undeclared);
    }
    Ok((format!("{} {} ({})", library.name(), library.version(), path.display()), config))
}

#[cfg(not(feature = "plugin"))]
pub(super) fn library(
    path: &std::path::Path,
    _given: ProcessConfig,
) -> Result<(String, ProcessConfig), String> {
    Err(format!("{}: this build loads no libraries", path.display()))
}
