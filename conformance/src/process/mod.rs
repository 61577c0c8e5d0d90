//! Labs of real processes: each node is a process of its own, which the lab kills, stops, cuts off and starves.
//!
//! The suite speaks with a node through the pipes of its process; behind them stands any backend that the program can
//! construct. So every case that runs inside one process runs on processes too, unchanged.

mod config;
mod front;
mod lab;
mod link;
mod machine;
mod remote;
mod serve;
mod shim;
mod wire;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

pub use config::{ConfigError, ProcessConfig};
pub use machine::Program;
pub use serve::{Prepared, serve_node};

use crate::{Backend, Capability, Lab};

/// A backend that a program can construct.
#[derive(Clone, Debug)]
pub struct ProcessBackend {
    /// Its name.
    pub name: &'static str,
    /// The program that is a node of it.
    pub program: Program,
    /// What the suite must know of it.
    pub config: Arc<ProcessConfig>,
    /// Where labs keep their files.
    pub folder: PathBuf,
    /// Whether cases may take their time.
    pub thorough: bool,
    /// What random choices come from.
    pub seed: u64,
}

impl ProcessBackend {
    /// Whether disks and clocks can be made to go wrong.
    fn spoils(&self) -> bool {
        shim::Shim::is_there()
    }
}

#[async_trait]
impl Backend for ProcessBackend {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn is_simulated(&self) -> bool {
        false
    }

    fn thorough(&self) -> bool {
        self.thorough
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn can(&self, capability: Capability) -> Result<(), String> {
        if let Some(reason) = self.config.lacks.get(&capability.to_string()) {
            return Err(reason.clone());
        }
        let lacks = |other: Capability| match self.config.lacks.contains_key(&other.to_string()) {
            true => Err(()),
            false => Ok(()),
        };
        let spoils = || if self.spoils() { Ok(()) } else { Err("only Linux has the means".to_owned()) };
        match capability {
            Capability::External | Capability::LostReplies if self.config.external.is_none() => {
                Err("it has no quorum outside of its nodes".to_owned())
            }
            Capability::Silence | Capability::Links | Capability::Delay => {
                lacks(Capability::Votes).map_err(|()| "the nodes do not connect to each other".to_owned())
            }
            Capability::Disk | Capability::LyingDisk => lacks(Capability::Folder)
                .map_err(|()| "it keeps nothing on the node's disk".to_owned())
                .and_then(|()| spoils()),
            Capability::WallClock | Capability::ClockRate => spoils(),
            Capability::BadConfig if self.config.bad_options.is_empty() => {
                Err("the configuration file has no bad_options".to_owned())
            }
            Capability::ShortTail if !self.config.short_tail => {
                Err("the configuration file has no short_tail".to_owned())
            }
            Capability::Memory if !cfg!(target_os = "linux") => Err("only Linux tells".to_owned()),
            _ => Ok(()),
        }
    }

    async fn lab(&self, nodes: usize) -> Box<dyn Lab> {
        let lab = lab::ProcessLab::new(self, nodes).await;
        Box::new(lab.unwrap_or_else(|error| panic!("no lab in {}: {error}", self.folder.display())))
    }
}
