//! What a broker is told when it is made: plain data, read nowhere else and changed by nobody.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    ids::NodeId,
    metadata::{
        command::SecurityProtocol,
        image::{Configs, DurabilityLevel, Roles},
    },
};

/// What a broker is told when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Who this node is.
    pub node: NodeId,
    /// What it is.
    pub roles: Roles,
    /// Its listeners.
    pub listeners: Vec<ListenerConfig>,
    /// The listener by which brokers reach each other; empty on a mere controller.
    pub inter_broker_listener: String,
    /// The controllers and where their controller listeners are, as `controller.quorum.voters` says. An observer streams
    /// the log from them.
    pub voters: BTreeMap<NodeId, String>,
    /// Where the broker stands; replicas are spread over racks.
    pub rack: Option<String>,
    /// The folders of the records; at least one.
    pub log_dirs: Vec<PathBuf>,
    /// The folder of the metadata: the durable image lies here.
    pub metadata_dir: PathBuf,
    /// The backend's name, which the folders remember.
    pub backend: String,
    /// What this node proposes when it is the one that founds the cluster.
    pub founding: FoundingConfig,
    /// The keys of the broker's file, by their names: what DescribeConfigs shows and topics follow.
    pub file: Configs,
    /// How long things take.
    pub timings: Timings,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name.
    pub name: String,
    /// What is spoken on it.
    pub protocol: SecurityProtocol,
    /// Who speaks on it.
    pub purpose: ListenerPurpose,
}

/// Who speaks on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerPurpose {
    /// Clients.
    Client,
    /// Brokers, and clients too.
    InterBroker,
    /// Controllers, brokers that send requests to the controller, and the consensus backend's peers.
    Controller,
}

/// What the founder of a cluster writes into the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundingConfig {
    /// The durability of topics that do not choose one.
    pub durability: DurabilityLevel,
    /// Cluster-wide configs to begin with: what the file says of the keys that only a cluster has as a whole.
    pub defaults: Configs,
}

/// How long things take. The smallest values that work are a matter of the network: an interval must be a few round
/// trips, a session a few intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How often a broker reports to the controller.
    pub heartbeat: Duration,
    /// How long a broker may be silent before it is fenced.
    pub session: Duration,
    /// How long a request to the controller may take.
    pub request: Duration,
    /// How long one attempt to reach another node may take.
    pub connect: Duration,
    /// How often the controller looks whether leadership should go back to first replicas.
    pub rebalance: Duration,
    /// How long a broker waits for its leaderships to move when it stops.
    pub controlled_shutdown: Duration,
    /// The image is written to the disk when nothing has changed for so long: a node that is started while nobody leads
    /// has something to say, and one that dies knows how far the log had come, should what keeps the log come back from
    /// an older backup.
    pub image: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            session: Duration::from_millis(1500),
            request: Duration::from_secs(30),
            connect: Duration::from_millis(500),
            rebalance: Duration::from_secs(300),
            controlled_shutdown: Duration::from_secs(30),
            image: Duration::from_secs(5),
        }
    }
}

impl BrokerConfig {
    /// The listener of this name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&ListenerConfig> {
        self.listeners.iter().find(|listener| listener.name == name)
    }

    /// The name of the controller listener, on a node that has one.
    #[must_use]
    pub fn controller_listener(&self) -> Option<&str> {
        let mut listeners = self.listeners.iter();
        let controller = listeners.find(|listener| listener.purpose == ListenerPurpose::Controller)?;
        Some(&controller.name)
    }
}
