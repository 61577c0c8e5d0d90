//! A consensus backend for processes of one machine, whose quorum is a folder that they share.
//!
//! Every transaction takes an exclusive lock on the file `lock`, so that transactions come one after the other. A
//! leader is whoever last wrote its random token into the file `leader`; each of its transactions first looks whether
//! the token is still there, and that is what fences a leader that was paused. The file `lease` says until when the
//! leader is not to be replaced; it makes elections calm, and nothing depends on it being right. Entries are in the
//! file `log`, synced before they are confirmed.
//!
//! What it lacks: a process that is stopped in the middle of a transaction keeps the lock until it goes on or dies, and
//! whoever loses the disk loses everything.
#![forbid(unsafe_code)]

mod engine;
mod files;
mod lease;
mod log;
mod running;
mod snapshot;
mod store;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use quorate_consensus_plugin::{PluginConfig, export_consensus};
use quorate_core::{
    consensus::{Consensus, Resume, Running, StartError},
    runtime::Runtime,
};

export_consensus! {
    name: "shared-folder",
    version: env!("CARGO_PKG_VERSION"),
    capabilities: [HandOver, PreVote],
    new: SharedFolder::new,
}

/// The configured backend.
pub struct SharedFolder {
    settings: Settings,
    runtime: Runtime,
}

/// What the operator sets.
struct Settings {
    config: PluginConfig,
    /// `store`: the folder that all nodes share.
    store: PathBuf,
    /// `lease.ms`: how long a leader that has fallen silent keeps its leadership.
    lease: Duration,
    /// `tail`: entries that are kept behind a snapshot.
    tail: u64,
}

impl SharedFolder {
    /// Reads the options. Touches nothing. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`StartError::Config`], with a sentence that names the option.
    pub fn new(config: PluginConfig) -> Result<Self, StartError> {
        let wrong =
            |option: &str, problem: &str| StartError::Config(format!("consensus.plugin.{option} {problem}"));
        let store = config.option("store").map(PathBuf::from).filter(|store| store.is_absolute());
        let store =
            store.ok_or_else(|| wrong("store", "must name a folder that all nodes share, absolute"))?;
        let number = |option: &str, usual: u64| match config.option(option) {
            Some(text) => text.parse().map_err(|_| wrong(option, "must be a number")),
            None => Ok(usual),
        };
        let (lease, tail) = (number("lease.ms", 1500)?, number("tail", 10_000)?);
        if !(100..=60_000).contains(&lease) {
            return Err(wrong("lease.ms", "must be 100 to 60000"));
        }
        let settings = Settings { store, lease: Duration::from_millis(lease), tail, config };
        Ok(Self { settings, runtime: Runtime::real() })
    }
}

#[async_trait]
impl Consensus for SharedFolder {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        running::start(self.settings, self.runtime, resume).await
    }
}
