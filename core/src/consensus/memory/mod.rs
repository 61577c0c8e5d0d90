//! The reference backend: a cluster in one process's memory, to the letter of the port.
//!
//! All nodes share one [`MemoryCluster`], which stands for their disks and for the network between them; each node has
//! a [`Memory`]. Leadership is under the control of whoever holds the cluster ([`Elections::Driven`]) or comes about by
//! itself ([`Elections::Timed`]). Tests, the simulator and the conformance suite run on it.

mod cluster;
mod engine;
#[cfg(test)]
mod memory_test;
mod nodes;
mod running;
mod state;

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
pub use cluster::MemoryCluster;

use super::{Consensus, LogId, NodeId, Resume, Running, StartError};

/// How leaders come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elections {
    /// Only by [`MemoryCluster::elect`].
    Driven,
    /// By themselves, once a node has heard of no leader for one to two times this long.
    Timed(Duration),
}

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// The voters and their endpoints.
    pub voters: BTreeMap<NodeId, String>,
    /// The log's name, known to the nodes once the cluster is founded.
    pub log_id: LogId,
    /// Whether the log exists already. If not, it comes about when all voters run at once.
    pub founded: bool,
    /// How leaders come about.
    pub elections: Elections,
    /// How long an entry takes to be committed, and then to be known to each other node.
    pub delay: Range<Duration>,
    /// Entries kept behind a snapshot, for slow readers.
    pub kept_tail: u64,
    /// The largest entry, in bytes.
    pub max_entry_bytes: usize,
    /// Entries that may wait to be committed; the next proposal is answered with `Busy`.
    pub max_waiting: usize,
}

impl MemoryConfig {
    /// Nodes 1 to `nodes` as voters of a founded cluster whose leaders are driven and whose entries take no time.
    #[must_use]
    pub fn driven(nodes: i32) -> Self {
        Self {
            voters: (1..=nodes).map(|node| (NodeId(node), format!("memory:{node}"))).collect(),
            log_id: LogId([0x51; 16]),
            founded: true,
            elections: Elections::Driven,
            delay: Duration::ZERO..Duration::ZERO,
            kept_tail: 10_000,
            max_entry_bytes: 1 << 20,
            max_waiting: 1024,
        }
    }

    /// As [`MemoryConfig::driven`], but electing by itself and not founded yet.
    #[must_use]
    pub fn timed(nodes: i32, election: Duration) -> Self {
        Self { founded: false, elections: Elections::Timed(election), ..Self::driven(nodes) }
    }
}

/// One node's backend, not started.
#[derive(Clone, Debug)]
pub struct Memory {
    cluster: MemoryCluster,
    node: NodeId,
}

impl Memory {
    /// The backend of `node` in `cluster`. A node that is no voter follows and never leads.
    #[must_use]
    pub fn new(cluster: &MemoryCluster, node: NodeId) -> Self {
        Self { cluster: cluster.clone(), node }
    }
}

#[async_trait]
impl Consensus for Memory {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        let running = running::MemoryRunning::start(&self.cluster, self.node, resume)?;
        Ok(Arc::new(running))
    }
}
