//! What `quorate dev` is about to run: nodes, ports, folders and their configuration. Pure.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use crate::config::{properties::escape_value, settings::Settings};

/// Ports from one node's first to the next one's.
const STRIDE: u16 = 10;

/// Keys that `dev` decides for each node, and that nobody else may set.
const OWN_KEYS: [&str; 13] = [
    "node.id",
    "broker.id",
    "process.roles",
    "listeners",
    "advertised.listeners",
    "listener.security.protocol.map",
    "controller.listener.names",
    "inter.broker.listener.name",
    "controller.quorum.voters",
    "log.dirs",
    "quorate.http.listener",
    "consensus.listener",
    "consensus.peers",
];

/// A cluster on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its folder, absolute.
    pub(crate) folder: PathBuf,
    /// The backend.
    pub(crate) consensus: String,
    /// The first port.
    pub(crate) port: u16,
    /// The nodes, from 1.
    pub(crate) nodes: Vec<NodePlan>,
    /// The private etcd's binary, where one is started.
    pub(crate) etcd: Option<PathBuf>,
    /// What else was set, by flag or environment.
    pub(crate) extra: Vec<(String, String)>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodePlan {
    /// Its number, from 1.
    pub(crate) node: u16,
    /// Its first port.
    pub(crate) port: u16,
    /// Its folder.
    pub(crate) folder: PathBuf,
}

impl NodePlan {
    /// Where clients reach it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its health is read.
    pub(crate) fn http(&self) -> String {
        format!("127.0.0.1:{}", self.port + 2)
    }

    /// Its configuration.
    pub(crate) fn properties(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    /// What it logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }
}

impl Plan {
    /// Lays out `count` nodes from `port` on.
    ///
    /// # Errors
    /// If the ports do not fit, or something was set that is not the user's to set here.
    pub(crate) fn new(
        folder: &Path,
        count: u16,
        port: u16,
        consensus: &str,
        settings: &Settings,
    ) -> Result<Self, String> {
        if folder.to_string_lossy().contains(',') {
            return Err(format!("{}: the folder's path may hold no comma", folder.display()));
        }
        let last = (count - 1).checked_mul(STRIDE).and_then(|offset| port.checked_add(offset));
        if last.and_then(|last| last.checked_add(5)).is_none() {
            return Err(format!(
                "{count} nodes from port {port} on need ports above 65535: choose a lower --port"
            ));
        }
        let nodes = (1..=count).map(|node| NodePlan {
            node,
            port: port + STRIDE * (node - 1),
            folder: folder.join(format!("node-{node}")),
        });
        let mut extra = Vec::new();
        for (key, setting) in settings.all_set().filter(|(key, _)| *key != "consensus") {
            if OWN_KEYS.contains(&key) {
                return Err(format!(
                    "{}: 'dev' sets {key} itself; use 'quorate server' to choose it",
                    setting.origin
                ));
            }
            extra.push((key.to_owned(), setting.value.clone()));
        }
        let consensus = consensus.to_owned();
        Ok(Self { folder: folder.to_owned(), consensus, port, nodes: nodes.collect(), etcd: None, extra })
    }

    /// Replicas of new and internal topics.
    pub(crate) fn replication(&self) -> usize {
        self.nodes.len().min(3)
    }

    /// In-sync replicas that a record needs.
    pub(crate) fn min_isr(&self) -> usize {
        if self.nodes.len() >= 3 { 2 } else { 1 }
    }

    /// The client listeners, as `bootstrap.servers` takes them.
    pub(crate) fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(NodePlan::address).collect();
        addresses.join(",")
    }

    /// The private etcd's ports: for clients, for peers.
    pub(crate) fn etcd_ports(&self) -> (u16, u16) {
        (self.port + 4, self.port + 5)
    }

    /// The private etcd's folder.
    pub(crate) fn etcd_folder(&self) -> PathBuf {
        self.folder.join("etcd")
    }

    /// What the private etcd logs.
    pub(crate) fn etcd_log(&self) -> PathBuf {
        self.folder.join("etcd.log")
    }

    /// Whether the backend is a shared library, which binds a listener of its own.
    fn is_library(&self) -> bool {
        self.consensus.starts_with("plugin:")
    }

    /// Every port that is needed, and what for.
    pub(crate) fn ports(&self) -> Vec<(u16, String)> {
        let mut ports = Vec::new();
        for node in &self.nodes {
            let purposes = ["clients", "controller", "HTTP", "inter-broker", "consensus"];
            let count = purposes.len() - usize::from(!self.is_library());
            for (offset, purpose) in (0..).zip(purposes).take(count) {
                ports.push((node.port + offset, format!("node {}, {purpose}", node.node)));
            }
        }
        if self.etcd.is_some() {
            let (clients, peers) = self.etcd_ports();
            ports.extend([(clients, "etcd, clients".to_owned()), (peers, "etcd, peers".to_owned())]);
        }
        ports
    }

    /// The text of a node's configuration file.
    pub(crate) fn properties_of(&self, node: &NodePlan) -> String {
        let voters: Vec<String> =
            self.nodes.iter().map(|other| format!("{}@127.0.0.1:{}", other.node, other.port + 1)).collect();
        let (client, controller, internal) = (node.port, node.port + 1, node.port + 3);
        let mut lines = vec![
            ("node.id", node.node.to_string()),
            ("process.roles", "broker,controller".to_owned()),
            (
                "listeners",
                format!(
                    "PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},\
                     INTERNAL://127.0.0.1:{internal}"
                ),
            ),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("inter.broker.listener.name", "INTERNAL".to_owned()),
            ("controller.quorum.voters", voters.join(",")),
            ("quorate.http.listener", node.http()),
            ("log.dirs", node.folder.join("data").display().to_string()),
            ("consensus", self.consensus.clone()),
        ];
        if self.is_library() {
            let listener = |other: &NodePlan| format!("127.0.0.1:{}", other.port + 4);
            let peers: Vec<String> =
                self.nodes.iter().map(|other| format!("{}@{}", other.node, listener(other))).collect();
            lines.push(("consensus.listener", listener(node)));
            lines.push(("consensus.peers", peers.join(",")));
        }
        if self.etcd.is_some() {
            lines.push(("consensus.etcd.endpoints", format!("http://127.0.0.1:{}", self.etcd_ports().0)));
        }
        let (replication, min_isr) = (self.replication().to_string(), self.min_isr().to_string());
        for key in REPLICATION_KEYS {
            lines.push((key, replication.clone()));
        }
        for key in MIN_ISR_KEYS {
            lines.push((key, min_isr.clone()));
        }
        let given = |key: &str| self.extra.iter().any(|(set, _)| set == key);
        lines.retain(|(key, _)| !given(key));
        lines.extend(self.extra.iter().map(|(key, value)| (key.as_str(), value.clone())));
        let mut text = format!("# Node {} of 'quorate dev', written anew at each start.\n", node.node);
        for (key, value) in lines {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{key}={}", escape_value(&value));
        }
        text
    }
}

/// Where Kafka reads the replication factor of new topics and of its own.
const REPLICATION_KEYS: [&str; 3] = [
    "default.replication.factor",
    "offsets.topic.replication.factor",
    "transaction.state.log.replication.factor",
];

const MIN_ISR_KEYS: [&str; 2] = ["min.insync.replicas", "transaction.state.log.min.isr"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServerConfig, settings::Sources};

    fn plan(count: u16, port: u16, overrides: &[&str]) -> Result<Plan, String> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        let settings = Settings::gather(&Sources { overrides: &overrides, ..Sources::default() }).unwrap();
        Plan::new(Path::new("/data"), count, port, "raftrs", &settings)
    }

    #[test]
    fn ports_are_laid_out_in_tens() {
        let mut plan = plan(3, 9092, &[]).unwrap();
        assert_eq!(plan.bootstrap(), "127.0.0.1:9092,127.0.0.1:9102,127.0.0.1:9112");
        plan.etcd = Some(PathBuf::from("etcd"));
        let ports: Vec<u16> = plan.ports().into_iter().map(|(port, _)| port).collect();
        assert_eq!(
            ports,
            [9092, 9093, 9094, 9095, 9102, 9103, 9104, 9105, 9112, 9113, 9114, 9115, 9096, 9097]
        );
    }

    #[test]
    fn a_library_is_given_a_listener_on_each_node() {
        let mut plan = plan(2, 9092, &[]).unwrap();
        plan.consensus = "plugin:/x.so".to_owned();
        let text = plan.properties_of(&plan.nodes[1]);
        for line in ["consensus.listener=127.0.0.1:9106", "consensus.peers=1@127.0.0.1:9096,2@127.0.0.1:9106"]
        {
            assert!(text.lines().any(|written| written == line), "{text}");
        }
        assert!(plan.ports().contains(&(9106, "node 2, consensus".to_owned())));
    }

    #[test]
    fn replication_follows_the_number_of_nodes() {
        let numbers = |count| {
            let plan = plan(count, 9092, &[]).unwrap();
            (plan.replication(), plan.min_isr())
        };
        assert_eq!([1, 2, 3, 5].map(numbers), [(1, 1), (2, 1), (3, 2), (3, 2)]);
    }

    #[test]
    fn the_written_file_is_a_configuration_that_the_server_reads() {
        let plan = plan(3, 9092, &["consensus.etcd.prefix=/a\\b"]).unwrap();
        let text = plan.properties_of(&plan.nodes[1]);
        let path = Path::new("f");
        let settings =
            Settings::gather(&Sources { file: Some((path, &text)), ..Sources::default() }).unwrap();
        let config = ServerConfig::from_settings(&settings).unwrap();
        assert_eq!(
            (config.node.0, config.voters.len(), config.inter_broker_listener.as_str()),
            (2, 3, "INTERNAL")
        );
        assert!(config.listeners.iter().all(|listener| listener.bind.host == "127.0.0.1"));
        assert_eq!(config.http.unwrap().port, 9104);
        assert_eq!(config.log_dirs, [Path::new("/data/node-2/data")]);
        assert_eq!(config.consensus.options.get("consensus.etcd.prefix").map(String::as_str), Some("/a\\b"));
    }

    #[test]
    fn what_dev_decides_itself_cannot_be_set() {
        assert!(plan(1, 9092, &["log.dirs=/x"]).unwrap_err().contains("'dev' sets log.dirs itself"));
    }

    #[test]
    fn ports_that_do_not_fit_are_refused() {
        assert!(plan(3, 65520, &[]).unwrap_err().contains("--port"));
        assert!(plan(1, 65530, &[]).is_ok());
        assert!(plan(1, 65531, &[]).is_err());
    }
}
