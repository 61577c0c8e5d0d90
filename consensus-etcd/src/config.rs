//! What an operator sets.

use std::{fmt, path::PathBuf, time::Duration};

use quorate_core::{consensus::NodeId, ids::DirectoryId, runtime::Runtime};
use thiserror::Error;

/// The settings of the backend, already parsed from their keys; checked by [`crate::Etcd::new`].
#[derive(Clone)]
pub struct EtcdConfig {
    /// This node.
    pub node: NodeId,
    /// This node's controller endpoint, `host:port`, shown to the other nodes.
    pub advertised: String,
    /// Whether this node may lead (`process.roles` contains `controller`).
    pub campaigns: bool,
    /// `consensus.etcd.endpoints`: etcd's client URLs, `host:port` or `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// `consensus.etcd.prefix`: the cluster's place in etcd. Begins with `/`, does not end with one.
    pub prefix: String,
    /// The identity of this node's data folder, by which it is told from another process of the same id; nil if it has
    /// none.
    pub directory: DirectoryId,
    /// The generation of the log, 1 or more: each has its own folder below the prefix.
    pub generation: u64,
    /// `consensus.etcd.lease.ttl.s`: how long a silent leader keeps its leadership; whole seconds, 2 to 60.
    pub lease_ttl: Duration,
    /// `consensus.etcd.username` and `consensus.etcd.password`.
    pub credentials: Option<Credentials>,
    /// `consensus.etcd.tls.*`.
    pub tls: Option<Tls>,
    /// Entries that are kept behind the tail for slow readers, whatever a snapshot contains. At least 1.
    pub keep_entries: u64,
    /// The ports to the world. The backend's tasks become a child scope of `runtime.tasks`.
    pub runtime: Runtime,
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: String,
}

/// How etcd is reached by TLS. Files are PEM and are read when the backend starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `consensus.etcd.tls.ca.file`: who signs etcd's certificates; the system's roots if not set.
    pub ca_file: Option<PathBuf>,
    /// `consensus.etcd.tls.cert.file`: this client's certificate; needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// `consensus.etcd.tls.key.file`: the key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// `consensus.etcd.tls.server.name`: the name in etcd's certificate, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

/// A setting that cannot be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    /// The configuration key.
    pub key: &'static str,
    /// What is wrong with its value, and what would be right.
    pub reason: String,
}

impl EtcdConfig {
    /// The defaults: a node that may lead, the log `/quorate/default/1`, a lease of 6 s, no credentials, no TLS.
    #[must_use]
    pub fn new(node: NodeId, advertised: String, endpoints: Vec<String>, runtime: Runtime) -> Self {
        Self {
            node,
            advertised,
            campaigns: true,
            endpoints,
            prefix: "/quorate/default".to_owned(),
            directory: DirectoryId::default(),
            generation: 1,
            lease_ttl: Duration::from_secs(6),
            credentials: None,
            tls: None,
            keep_entries: 10_000,
            runtime,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason: String| Err(ConfigError { key, reason });
        if self.endpoints.is_empty() {
            return refuse(
                "consensus.etcd.endpoints",
                "names no endpoint; list etcd's client URLs".to_owned(),
            );
        }
        for endpoint in &self.endpoints {
            self.validate_endpoint(endpoint)?;
        }
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let prefix = self.prefix.as_str();
        if !plain(prefix) || !prefix.starts_with('/') || prefix.ends_with('/') || prefix.len() > 200 {
            let reason = format!(
                "'{prefix}' must begin with '/', not end with '/', and be at most 200 printable ASCII characters"
            );
            return refuse("consensus.etcd.prefix", reason);
        }
        if self.generation == 0 {
            return refuse("quorate.generation", "must be 1 or more".to_owned());
        }
        let ttl = self.lease_ttl;
        if ttl.subsec_nanos() != 0 || !(2..=60).contains(&ttl.as_secs()) {
            let reason = format!("{} s is not a whole number of seconds from 2 to 60", ttl.as_secs_f64());
            return refuse("consensus.etcd.lease.ttl.s", reason);
        }
        if self.keep_entries == 0 {
            return refuse("consensus.etcd.keep.entries", "must be 1 or more".to_owned());
        }
        if !plain(&self.advertised) || self.advertised.len() > 300 {
            let reason = format!("'{}' cannot be announced in etcd", self.advertised);
            return refuse("advertised.listeners", reason);
        }
        if self.credentials.as_ref().is_some_and(|user| user.username.is_empty()) {
            return refuse("consensus.etcd.username", "is empty".to_owned());
        }
        match &self.tls {
            Some(tls) if tls.cert_file.is_some() != tls.key_file.is_some() => refuse(
                "consensus.etcd.tls.cert.file",
                "needs consensus.etcd.tls.key.file, and the reverse".to_owned(),
            ),
            _ => Ok(()),
        }
    }

    fn validate_endpoint(&self, endpoint: &str) -> Result<(), ConfigError> {
        let refuse = |reason: String| Err(ConfigError { key: "consensus.etcd.endpoints", reason });
        let address = host_and_port(endpoint);
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0)) {
            return refuse(format!("'{endpoint}' is not host:port, http://host:port or https://host:port"));
        }
        if !address.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte)) {
            return refuse(format!("'{endpoint}' may contain nothing but the scheme, a host and a port"));
        }
        if endpoint.starts_with("http://") && self.tls.is_some() {
            return refuse(format!(
                "'{endpoint}' is not encrypted although consensus.etcd.tls.* is set; write https://"
            ));
        }
        Ok(())
    }
}

/// The part of an endpoint behind its scheme.
pub(crate) fn host_and_port(endpoint: &str) -> &str {
    endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://")).unwrap_or(endpoint)
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("node", &self.node)
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("generation", &self.generation)
            .field("lease_ttl", &self.lease_ttl)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (password hidden)", self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn with(change: impl FnOnce(&mut EtcdConfig)) -> Result<(), String> {
        let endpoints = vec!["127.0.0.1:2379".to_owned()];
        let mut config = EtcdConfig::new(NodeId(0), "h:1".to_owned(), endpoints, Runtime::real());
        change(&mut config);
        config.validate().map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_wrong_setting_is_named_with_its_key() {
        assert_eq!(with(|_| {}).await, Ok(()));
        assert_eq!(with(|c| c.endpoints = vec!["https://[::1]:2379".to_owned()]).await, Ok(()));
        for (key, wrong) in [
            ("consensus.etcd.endpoints", with(|c| c.endpoints.clear()).await),
            ("consensus.etcd.endpoints", with(|c| c.endpoints = vec!["etcd".to_owned()]).await),
            ("consensus.etcd.endpoints", with(|c| c.endpoints = vec!["http://a:1/x".to_owned()]).await),
            ("consensus.etcd.prefix", with(|c| c.prefix = "/a/".to_owned()).await),
            ("consensus.etcd.lease.ttl.s", with(|c| c.lease_ttl = Duration::from_millis(2500)).await),
            ("consensus.etcd.lease.ttl.s", with(|c| c.lease_ttl = Duration::from_secs(1)).await),
        ] {
            assert!(wrong.clone().is_err_and(|sentence| sentence.starts_with(key)), "{key}: {wrong:?}");
        }
    }
}
