//! What a library's node is configured with: the JSON text that `create` is given, and its Rust form.

use std::{collections::BTreeMap, path::PathBuf};

use quorate_core::{
    consensus::{NodeId, StartError},
    ids::DirectoryId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A node's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct PluginConfig {
    /// This node; 0 or more.
    pub node: NodeId,
    /// The identity of the log directory that `folder` is in.
    pub directory_id: DirectoryId,
    /// A folder of the backend's own, absolute. It need not exist, and nobody else uses it.
    pub folder: PathBuf,
    /// Where this node's peers reach it, `host:port`; `None` where the operator sets none.
    pub listener: Option<String>,
    /// The voters and where they are reached, this node among them.
    pub peers: BTreeMap<NodeId, String>,
    /// The backend's own settings: of `consensus.plugin.NAME=VALUE`, the NAME and the VALUE.
    pub options: BTreeMap<String, String>,
}

impl PluginConfig {
    /// Reads the text that `create` is given.
    ///
    /// # Errors
    /// [`StartError::Config`], if it is not what the header says.
    pub fn parse(text: &str) -> Result<Self, StartError> {
        serde_json::from_str(text)
            .map_err(|error| StartError::Config(format!("the library's configuration is malformed: {error}")))
    }

    /// The text that `create` is given.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A struct of texts and numbers has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// An option's value, unless it is missing or empty.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

#[derive(Serialize, Deserialize)]
struct Text {
    node: i32,
    directory_id: Uuid,
    folder: PathBuf,
    #[serde(default)]
    listener: Option<String>,
    #[serde(default)]
    peers: BTreeMap<i32, String>,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

impl From<PluginConfig> for Text {
    fn from(config: PluginConfig) -> Self {
        Self {
            node: config.node.0,
            directory_id: config.directory_id.0,
            folder: config.folder,
            listener: config.listener,
            peers: config.peers.into_iter().map(|(node, endpoint)| (node.0, endpoint)).collect(),
            options: config.options,
        }
    }
}

impl TryFrom<Text> for PluginConfig {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        if text.node < 0 {
            return Err(format!("node is {}; it must be 0 or more", text.node));
        }
        if let Some(peer) = text.peers.keys().find(|peer| **peer < 0) {
            return Err(format!("peers lists the node {peer}; ids are 0 or more"));
        }
        if !text.folder.is_absolute() {
            return Err(format!("folder is '{}'; it must be absolute", text.folder.display()));
        }
        Ok(Self {
            node: NodeId(text.node),
            directory_id: DirectoryId(text.directory_id),
            folder: text.folder,
            listener: text.listener.filter(|listener| !listener.is_empty()),
            peers: text.peers.into_iter().map(|(node, endpoint)| (NodeId(node), endpoint)).collect(),
            options: text.options,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"node":1,"directory_id":"67e55044-10b1-426f-9247-bb680e5fe0c8","folder":"/f",
        "listener":"127.0.0.1:7001","peers":{"1":"127.0.0.1:7001","2":"127.0.0.1:7002"},"options":{"a":"b"}}"#;

    #[test]
    fn the_text_of_the_header_is_read_and_written() {
        let config = PluginConfig::parse(TEXT).unwrap();
        assert_eq!((config.node, config.peers.len(), config.option("a")), (NodeId(1), 2, Some("b")));
        assert_eq!(PluginConfig::parse(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        for (from, to, named) in [
            ("\"node\":1", "\"node\":-1", "node is -1"),
            ("\"/f\"", "\"f\"", "folder is 'f'"),
            ("\"2\":", "\"two\":", "malformed"),
            ("\"2\":", "\"-2\":", "peers lists"),
            ("67e5", "zzzz", "malformed"),
        ] {
            let error = PluginConfig::parse(&TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
