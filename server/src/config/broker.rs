//! What the broker is told, out of the server's configuration.

use std::time::Duration;

use quorate_core::{
    broker::config::{BrokerConfig, FoundingConfig, ListenerConfig, Timings},
    metadata::{command::SecurityProtocol, image::DurabilityLevel},
};

use super::ServerConfig;

const DURABILITY: &str = "quorate.durability";

/// What decides on elections is the same on every node, so it is written into the metadata when the cluster is founded.
/// Everything else a topic follows is its broker's own file, until somebody sets it for the cluster.
const OBEYED_BY_ALL: [&str; 2] = ["min.insync.replicas", "unclean.leader.election.enable"];

impl ServerConfig {
    /// What the broker is told.
    pub(crate) fn broker_config(&self) -> BrokerConfig {
        let listeners = self.listeners.iter().map(|listener| ListenerConfig {
            name: listener.name.clone(),
            // The only one that the configuration lets through.
            protocol: SecurityProtocol::Plaintext,
            purpose: listener.purpose,
        });
        let voters = self.voters.iter().map(|(node, endpoint)| (*node, endpoint.to_string()));
        BrokerConfig {
            node: self.node,
            roles: self.roles,
            listeners: listeners.collect(),
            inter_broker_listener: self.inter_broker_listener.clone(),
            voters: voters.collect(),
            rack: self.rack.clone(),
            log_dirs: self.log_dirs.clone(),
            metadata_dir: self.metadata_dir.clone(),
            backend: self.consensus.name.clone(),
            founding: self.founding(),
            file: self.file.clone(),
            timings: self.timings(),
        }
    }

    fn founding(&self) -> FoundingConfig {
        let replicated = self.file.get(DURABILITY).is_some_and(|level| level == "replicated");
        let defaults = self.file.iter().filter(|(name, _)| OBEYED_BY_ALL.contains(&name.as_str()));
        FoundingConfig {
            durability: if replicated { DurabilityLevel::Replicated } else { DurabilityLevel::Synced },
            defaults: defaults.map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }

    fn timings(&self) -> Timings {
        let usual = Timings::default();
        let number = |key: &str| self.file.get(key).and_then(|text| text.parse::<u64>().ok());
        let millis = |key, usual| number(key).map_or(usual, Duration::from_millis);
        let rebalance = number("leader.imbalance.check.interval.seconds").map(Duration::from_secs);
        let hands_over = self.file.get("controlled.shutdown.enable").is_none_or(|text| text != "false");
        Timings {
            heartbeat: millis("broker.heartbeat.interval.ms", usual.heartbeat),
            session: millis("broker.session.timeout.ms", usual.session),
            request: millis("request.timeout.ms", usual.request),
            rebalance: rebalance.unwrap_or(usual.rebalance),
            controlled_shutdown: if hands_over { usual.controlled_shutdown } else { Duration::ZERO },
            ..usual
        }
    }
}
