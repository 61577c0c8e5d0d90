//! The etcd backend as a shared library, `plugin:…/libetcd_library.so`: the same code as in the broker, with a runtime
//! and threads of its own. Its options are the broker's `consensus.etcd.*`, without that beginning.

use std::{path::PathBuf, time::Duration};

use quorate_consensus_etcd::{Credentials, Etcd, EtcdConfig, Tls};
use quorate_consensus_plugin::{PluginConfig, export_consensus};
use quorate_core::{consensus::StartError, runtime::Runtime};

export_consensus! {
    name: "etcd",
    version: env!("CARGO_PKG_VERSION"),
    capabilities: [HandOver, PreVote, External],
    new: new,
}

fn new(config: PluginConfig) -> Result<Etcd, StartError> {
    let option = |name: &str| config.option(name).map(str::to_owned);
    let endpoints = option("endpoints").unwrap_or_default();
    let endpoints = endpoints.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
    let advertised = config.peers.get(&config.node).cloned().unwrap_or_default();
    let mut etcd =
        EtcdConfig::new(config.node, advertised, endpoints.map(str::to_owned).collect(), Runtime::real());
    if let Some(prefix) = option("prefix") {
        etcd.prefix = prefix;
    }
    if let Some(seconds) = option("lease.ttl.s") {
        let wrong = |_| StartError::Config(format!("lease.ttl.s: '{seconds}' is not a number of seconds"));
        etcd.lease_ttl = Duration::from_secs(seconds.parse().map_err(wrong)?);
    }
    etcd.credentials = option("username")
        .map(|username| Credentials { username, password: option("secret.password").unwrap_or_default() });
    let file = |name: &str| option(name).map(PathBuf::from);
    let tls = Tls {
        ca_file: file("tls.ca.file"),
        cert_file: file("tls.cert.file"),
        key_file: file("tls.key.file"),
        server_name: option("tls.server.name"),
    };
    etcd.tls = (tls != Tls::default()).then_some(tls);
    Etcd::new(etcd).map_err(|error| StartError::Config(error.to_string()))
}
