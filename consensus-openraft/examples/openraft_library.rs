//! The openraft backend as a shared library, `plugin:…/libopenraft_library.so`: the same code as in the broker, with a
//! runtime, a thread and a listener of its own.

use quorate_consensus_kit::listening::Listening;
use quorate_consensus_openraft::{Openraft, OpenraftConfig, Timings};
use quorate_consensus_plugin::{PluginConfig, export_consensus};
use quorate_core::{consensus::StartError, runtime::Runtime};

export_consensus! {
    name: "openraft",
    version: env!("CARGO_PKG_VERSION"),
    capabilities: [Founders, Votes, HandOver, PreVote, Folder, Membership],
    new: new,
}

fn new(config: PluginConfig) -> Result<Listening<Openraft>, StartError> {
    let runtime = Runtime::real();
    let timings = Timings::with_election_timeout_ms(config.option("election.timeout.ms"))?;
    let tail = config.option("tail").map(|text| {
        let wrong = |_| StartError::Config(format!("consensus.plugin.tail: '{text}' is not a number"));
        text.parse().map_err(wrong)
    });
    let tail = tail.transpose()?;
    Listening::new(config.listener.clone().as_deref(), &runtime.clone(), |incoming| {
        let openraft = Openraft::new(OpenraftConfig {
            node: config.node,
            directory_id: config.directory_id,
            folder: config.folder,
            voters: config.peers,
            incoming,
            timings,
            runtime,
        })?;
        Ok(match tail {
            Some(tail) => openraft.with_tail(tail),
            None => openraft,
        })
    })
}
