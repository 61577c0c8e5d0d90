//! `consensus=plugin:/path`: a backend out of a shared library.

use std::{collections::BTreeMap, path::Path, sync::Arc};

pub(crate) use quorate_consensus_plugin::Library;
use quorate_consensus_plugin::PluginConfig;
use quorate_core::{
    consensus::Consensus,
    ids::{DirectoryId, NodeId},
};

use crate::config::{
    ServerConfig,
    endpoints::{Endpoint, parse_voters},
};

/// What the name of such a backend begins with; the path follows.
pub(crate) const PREFIX: &str = "plugin:";

const LISTENER: &str = "consensus.listener";
const PEERS: &str = "consensus.peers";
const OPTIONS: &str = "consensus.plugin.";

/// Loads the library.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn open(path: &str) -> Result<Arc<Library>, String> {
    Library::open(Path::new(path)).map_err(|error| format!("consensus={PREFIX}{path}: {error}"))
}

/// A node of the library, not started.
///
/// # Errors
/// A sentence that names the key whose value cannot be.
pub(crate) fn construct(
    library: &Arc<Library>,
    config: &ServerConfig,
    directory: DirectoryId,
) -> Result<Box<dyn Consensus>, String> {
    let text = plugin_config(library.name(), config, directory)?.to_json();
    library.construct(&text).map_err(|error| format!("consensus={}: {error}", config.consensus.name))
}

fn plugin_config(name: &str, config: &ServerConfig, directory: DirectoryId) -> Result<PluginConfig, String> {
    let set =
        |key: &str| config.consensus.options.get(key).map(String::as_str).filter(|text| !text.is_empty());
    let listener = set(LISTENER).map(Endpoint::parse).transpose();
    let listener = listener.map_err(|problem| format!("{LISTENER}: {problem}"))?;
    let peers = set(PEERS).map(parse_voters).transpose().map_err(|problem| format!("{PEERS}: {problem}"))?;
    if listener.is_some() != peers.is_some() {
        return Err(format!("{LISTENER} and {PEERS} are set together, or neither is"));
    }
    let same = |peers: &BTreeMap<NodeId, Endpoint>| peers.keys().eq(config.voters.keys());
    if !peers.as_ref().is_none_or(same) {
        return Err(format!("{PEERS} must name the same nodes as controller.quorum.voters"));
    }
    let folder = config.metadata_dir.join("consensus").join(format!("plugin-{name}-1"));
    let folder = std::path::absolute(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let options = config.consensus.options.iter().filter_map(|(key, value)| {
        key.strip_prefix(OPTIONS).map(|option| (option.to_owned(), value.clone()))
    });
    Ok(PluginConfig {
        node: config.node,
        directory_id: directory,
        folder,
        listener: listener.map(|endpoint| endpoint.to_string()),
        // Where the library's nodes do not speak to each other, it is at least told who they are.
        peers: peers
            .as_ref()
            .unwrap_or(&config.voters)
            .iter()
            .map(|(id, at)| (*id, at.to_string()))
            .collect(),
        options: options.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{Settings, Sources};

    const NODE: &str = "node.id=1\nprocess.roles=broker,controller\nlog.dirs=/d\ncontroller.listener.names=C\n\
        listeners=PLAINTEXT://h:1,C://h:2\ncontroller.quorum.voters=1@h:2,2@i:2\n";

    fn made(text: &str) -> Result<PluginConfig, String> {
        let text = format!("{NODE}{text}");
        let sources = Sources { file: Some((Path::new("f"), &text)), ..Sources::default() };
        let settings = Settings::gather(&sources).map_err(|error| error.to_string())?;
        let config = ServerConfig::from_settings(&settings).map_err(|error| error.to_string())?;
        plugin_config("x", &config, DirectoryId::default())
    }

    #[test]
    fn a_library_is_told_its_folder_its_peers_and_its_own_options() {
        let config = made(
            "consensus.listener=h:3\nconsensus.peers=1@h:3,2@i:3\nconsensus.plugin.a.b=c\n\
             consensus.plugin.secret.key=s",
        );
        let config = config.unwrap();
        assert_eq!((config.node, config.listener.as_deref()), (NodeId(1), Some("h:3")));
        assert_eq!(config.folder, Path::new("/d/consensus/plugin-x-1"));
        assert_eq!(config.peers.get(&NodeId(2)).map(String::as_str), Some("i:3"));
        assert_eq!((config.option("a.b"), config.option("secret.key")), (Some("c"), Some("s")));
    }

    #[test]
    fn without_addresses_of_its_own_it_is_told_the_voters() {
        let config = made("").unwrap();
        assert_eq!((config.listener, config.peers.len()), (None, 2));
    }

    #[test]
    fn addresses_that_contradict_each_other_are_refused() {
        for (text, sentence) in [
            ("consensus.listener=h:3", "are set together"),
            ("consensus.listener=h\nconsensus.peers=1@h:3,2@i:3", "consensus.listener: 'h' is not host:port"),
            ("consensus.listener=h:3\nconsensus.peers=1@h:3", "the same nodes"),
            ("consensus.listener=h:3\nconsensus.peers=1", "consensus.peers: '1' is not id@host:port"),
        ] {
            let error = made(text).unwrap_err();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
