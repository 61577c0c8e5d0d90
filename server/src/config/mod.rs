//! Configuration: Kafka's names in Kafka's syntax, laid over environment and flags, as one typed struct.

mod broker;
pub(crate) mod check;
pub(crate) mod endpoints;
mod keys;
pub(crate) mod properties;
pub(crate) mod settings;
mod unserved;

use std::{collections::BTreeMap, path::PathBuf};

use quorate_core::{
    broker::config::ListenerPurpose,
    ids::NodeId,
    metadata::{
        configs,
        image::{Configs, Roles},
    },
};

use endpoints::{Endpoint, items};
use settings::{ConfigError, ConfigErrors, Settings};

/// A server's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerConfig {
    /// Who this node is.
    pub(crate) node: NodeId,
    /// Whether it serves clients, and whether it may vote on the metadata.
    pub(crate) roles: Roles,
    /// Where it listens.
    pub(crate) listeners: Vec<ListenerConfig>,
    /// The listener by which brokers reach each other; empty on a mere controller.
    pub(crate) inter_broker_listener: String,
    /// The controllers, this node among them where it is one.
    pub(crate) voters: BTreeMap<NodeId, Endpoint>,
    /// Folders for the partitions' files; at least one.
    pub(crate) log_dirs: Vec<PathBuf>,
    /// Folder for the metadata log.
    pub(crate) metadata_dir: PathBuf,
    /// Where the broker stands.
    pub(crate) rack: Option<String>,
    /// The backend that keeps the metadata log.
    pub(crate) consensus: ConsensusConfig,
    /// Where health and metrics are served.
    pub(crate) http: Option<Endpoint>,
    /// Event loops that serve connections; `None` for one a core.
    pub(crate) shards: Option<usize>,
    /// Whether log lines are JSON.
    pub(crate) json_logs: bool,
    /// Everything that was set, under the names that topics follow.
    pub(crate) file: Configs,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerConfig {
    /// Its name, in upper case.
    pub(crate) name: String,
    /// Where it binds.
    pub(crate) bind: Endpoint,
    /// What clients are told; port 0 stands for the port that was bound.
    pub(crate) advertised: Endpoint,
    /// Who speaks on it.
    pub(crate) purpose: ListenerPurpose,
}

/// The backend's name and its own keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsensusConfig {
    /// As `consensus` names it.
    pub(crate) name: String,
    /// `consensus.*` as it was set, under the full names.
    pub(crate) options: BTreeMap<String, String>,
}

impl ServerConfig {
    /// Makes sense of what was set.
    ///
    /// # Errors
    /// Everything that is missing or contradicts itself.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Self, ConfigErrors> {
        let mut reader = Reader { settings, errors: Vec::new() };
        let config = reader.read();
        if reader.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(reader.errors)) }
    }

    /// Where other nodes reach this one's controller, `host:port`; `None` on a mere broker.
    pub(crate) fn controller_endpoint(&self) -> Option<String> {
        let own = self.voters.get(&self.node);
        let listener =
            self.listeners.iter().find(|listener| listener.purpose == ListenerPurpose::Controller)?;
        Some(own.unwrap_or(&listener.advertised).to_string())
    }
}

/// The process's environment, but for what is not UTF-8. The only place that reads it.
pub(crate) fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Reads values and keeps what is wrong with them, so that everything is reported at once.
struct Reader<'a> {
    settings: &'a Settings,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn read(&mut self) -> ServerConfig {
        let node = self.node();
        let roles = self.roles();
        let (listeners, inter_broker_listener) = self.listeners(roles);
        let voters = self.voters(node, roles, &listeners);
        let log_dirs = self.log_dirs();
        let metadata_dir = self.text("metadata.log.dir").map(PathBuf::from);
        let metadata_dir = metadata_dir.or_else(|| log_dirs.first().cloned()).unwrap_or_default();
        ServerConfig {
            node,
            roles,
            listeners,
            inter_broker_listener,
            voters,
            log_dirs,
            metadata_dir,
            rack: self.text("broker.rack"),
            consensus: self.consensus(),
            http: self.http(),
            shards: self.text("quorate.shards").and_then(|text| text.parse().ok()),
            json_logs: self.text("quorate.log.format").as_deref() == Some("json"),
            file: self.file(),
        }
    }

    /// The value, unless it is missing or empty.
    fn text(&self, key: &str) -> Option<String> {
        self.settings.get(key).map(|setting| setting.value).filter(|value| !value.is_empty())
    }

    /// The value read by `parse`, or its kind's empty value and an error.
    fn parsed<T: Default>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let text = self.text(key).unwrap_or_default();
        parse(&text).unwrap_or_else(|problem| {
            self.errors.push(self.settings.blame(key, problem));
            T::default()
        })
    }

    fn fail(&mut self, key: &str, problem: impl Into<String>) {
        let problem: String = problem.into();
        self.errors.push(self.settings.blame(key, problem));
    }

    fn node(&mut self) -> NodeId {
        let set = self.text("node.id").or_else(|| self.text("broker.id"));
        if set.is_none() {
            self.errors
                .push(ConfigError::general("node.id is not set: give each node a number of its own, from 0"));
        }
        NodeId(set.and_then(|text| text.parse().ok()).unwrap_or_default())
    }

    fn roles(&mut self) -> Roles {
        let text = self.text("process.roles").unwrap_or_default();
        let roles: Vec<&str> = items(&text).collect();
        if roles.is_empty() {
            self.fail("process.roles", "names no role: broker, controller or both");
        }
        Roles { broker: roles.contains(&"broker"), controller: roles.contains(&"controller") }
    }

    fn listeners(&mut self, roles: Roles) -> (Vec<ListenerConfig>, String) {
        let Roles { broker, controller } = roles;
        let mut named = self.parsed("listeners", endpoints::parse_listeners);
        let advertised = self.parsed("advertised.listeners", endpoints::parse_listeners);
        let controllers: Vec<String> = items(&self.text("controller.listener.names").unwrap_or_default())
            .map(str::to_uppercase)
            .collect();
        if self.settings.explicit("listeners").is_none() {
            named.retain(|(name, _)| if controllers.contains(name) { controller } else { broker });
        }
        self.refuse_protocols(&named);
        for (name, endpoint) in &advertised {
            if endpoint.is_wildcard() {
                self.fail("advertised.listeners", format!("{name} needs a host that clients can reach"));
            }
            if !named.iter().any(|(listener, _)| listener == name) {
                self.fail("advertised.listeners", format!("{name} is not among the listeners"));
            }
        }
        let inter_broker = self.inter_broker(broker, &named, &controllers);
        let listeners: Vec<ListenerConfig> = named
            .into_iter()
            .map(|(name, bind)| {
                let purpose = match () {
                    () if controllers.contains(&name) => ListenerPurpose::Controller,
                    () if name == inter_broker => ListenerPurpose::InterBroker,
                    () => ListenerPurpose::Client,
                };
                let advertised = advertised.iter().find(|(listener, _)| *listener == name);
                let advertised =
                    advertised.map_or_else(|| reachable(&bind), |(_, endpoint)| endpoint.clone());
                ListenerConfig { name, bind, advertised, purpose }
            })
            .collect();
        let controls = listeners.iter().any(|listener| listener.purpose == ListenerPurpose::Controller);
        if controller && !controls {
            self.fail(
                "controller.listener.names",
                "names none of the listeners, but this node is a controller",
            );
        }
        if !controller && controls {
            self.fail("listeners", "has a controller's listener, but this node is no controller");
        }
        (listeners, inter_broker)
    }

    fn refuse_protocols(&mut self, named: &[(String, Endpoint)]) {
        let protocols = self.parsed("listener.security.protocol.map", endpoints::parse_protocols);
        for (name, _) in named {
            let protocol = protocols.get(name).map_or_else(
                || {
                    if ["SSL", "SASL_PLAINTEXT", "SASL_SSL"].contains(&name.as_str()) {
                        name
                    } else {
                        "PLAINTEXT"
                    }
                },
                String::as_str,
            );
            if protocol != "PLAINTEXT" {
                let problem = format!(
                    "the listener {name} asks for {protocol}, which is not served yet: only PLAINTEXT is; keep it \
                     on a network that you trust"
                );
                self.fail("listeners", problem);
            }
        }
    }

    fn inter_broker(&mut self, broker: bool, named: &[(String, Endpoint)], controllers: &[String]) -> String {
        let set = self.text("inter.broker.listener.name").map(|name| name.to_uppercase());
        if !broker {
            return String::new();
        }
        let clients: Vec<&String> =
            named.iter().map(|(name, _)| name).filter(|name| !controllers.contains(name)).collect();
        if let Some(name) = set {
            if controllers.contains(&name) {
                self.fail("inter.broker.listener.name", format!("{name} is a controller's listener"));
            } else if !clients.contains(&&name) {
                self.fail("inter.broker.listener.name", format!("{name} is not among the listeners"));
            }
            return name;
        }
        let plain = clients.iter().find(|name| name.as_str() == "PLAINTEXT");
        let Some(name) = plain.or(clients.first()) else {
            self.fail("listeners", "has none for clients, but this node is a broker");
            return String::new();
        };
        (*name).clone()
    }

    fn voters(
        &mut self,
        node: NodeId,
        roles: Roles,
        listeners: &[ListenerConfig],
    ) -> BTreeMap<NodeId, Endpoint> {
        const VOTERS: &str = "controller.quorum.voters";
        const SERVERS: &str = "controller.quorum.bootstrap.servers";
        let voters = self.parsed(VOTERS, endpoints::parse_voters);
        let servers = self.parsed(SERVERS, endpoints::parse_servers);
        let own = listeners.iter().find(|listener| listener.purpose == ListenerPurpose::Controller);
        if !voters.is_empty() {
            let listed = voters.contains_key(&node);
            if roles.controller && !listed {
                self.fail(VOTERS, format!("does not list node {node}, which is a controller"));
            } else if !roles.controller && listed {
                self.fail(VOTERS, format!("lists node {node}, which is no controller"));
            }
            return voters;
        }
        match (servers.as_slice(), own) {
            ([], Some(own)) => BTreeMap::from([(node, own.advertised.clone())]),
            // A lone controller that names itself, as Kafka's own file does.
            ([server], Some(own)) if server.port == own.bind.port => BTreeMap::from([(node, server.clone())]),
            // Without a listener for it, a controller cannot be; that is reported already.
            (_, None) if roles.controller || !roles.broker => BTreeMap::new(),
            ([], None) => {
                let problem = format!("{VOTERS} is not set: a broker needs to know its controllers");
                self.errors.push(ConfigError::general(problem));
                BTreeMap::new()
            }
            _ => {
                let problem =
                    format!("the ids of the controllers are needed too: set {VOTERS}=id@host:port,… instead");
                self.fail(SERVERS, problem);
                BTreeMap::new()
            }
        }
    }

    fn log_dirs(&mut self) -> Vec<PathBuf> {
        let key = if self.text("log.dirs").is_some() { "log.dirs" } else { "log.dir" };
        let text = self.text(key).unwrap_or_default();
        let mut dirs: Vec<PathBuf> = items(&text).map(PathBuf::from).collect();
        let given = dirs.len();
        dirs.sort();
        dirs.dedup();
        if dirs.len() < given {
            self.fail(key, "names a folder twice");
        } else if dirs.is_empty() {
            self.fail(key, "names no folder");
        }
        items(&text).map(PathBuf::from).collect()
    }

    fn consensus(&self) -> ConsensusConfig {
        let options = self.settings.all_set().filter(|(key, _)| key.starts_with(keys::BACKEND_PREFIX));
        ConsensusConfig {
            name: self.text("consensus").unwrap_or_default(),
            options: options.map(|(key, setting)| (key.to_owned(), setting.value.clone())).collect(),
        }
    }

    fn file(&self) -> Configs {
        let own = self.settings.all_set().filter(|(key, _)| !key.starts_with(keys::BACKEND_PREFIX));
        configs::with_unit_synonyms(
            own.map(|(key, setting)| (key.to_owned(), setting.value.clone())).collect(),
        )
    }

    fn http(&mut self) -> Option<Endpoint> {
        let text = self.text("quorate.http.listener").filter(|text| text != "none")?;
        Endpoint::parse(&text).map_err(|problem| self.fail("quorate.http.listener", problem)).ok()
    }
}

/// What clients are told where nothing is advertised: the listener's own host, or the machine's name.
fn reachable(bind: &Endpoint) -> Endpoint {
    if !bind.is_wildcard() {
        return bind.clone();
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Endpoint { host, port: bind.port }
}

#[cfg(test)]
mod config_test;
