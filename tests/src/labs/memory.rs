//! The memory backend's lab.

use std::{io, time::Duration};

use async_trait::async_trait;
use quorate_core::{
    consensus::{
        Consensus, NodeId, StartError,
        memory::{Memory, MemoryCluster, MemoryConfig},
    },
    runtime::{Clock, Rng},
};

use quorate_conformance::{Backend, Capability, Constructor, Lab};

/// How long a node waits for a leader before it campaigns.
const ELECTION: Duration = Duration::from_millis(100);

/// The memory backend, electing by itself, on paused time or on the machine's.
#[derive(Clone, Copy, Debug)]
pub struct MemoryBackend {
    /// Chooses the delays.
    pub seed: u64,
    /// How long entries take at most.
    pub delay: Duration,
    /// Whether time is paused.
    pub simulated: bool,
}

impl MemoryBackend {
    /// Entries take no time.
    #[must_use]
    pub fn instant() -> Self {
        Self { seed: 1, delay: Duration::ZERO, simulated: true }
    }

    /// Entries take up to 5 ms.
    #[must_use]
    pub fn delayed() -> Self {
        Self { seed: 2, delay: Duration::from_millis(5), simulated: true }
    }

    /// The lab itself, of a cluster that is changed before it begins.
    #[must_use]
    pub fn lab_with(&self, nodes: usize, change: impl FnOnce(&mut MemoryConfig)) -> MemoryLab {
        let clock = if self.simulated { Clock::simulated(0).0 } else { Clock::system() };
        let mut config = MemoryConfig::timed(i32::try_from(nodes).unwrap_or(i32::MAX), ELECTION);
        config.kept_tail = 0;
        config.delay = Duration::ZERO..self.delay;
        change(&mut config);
        let cluster = MemoryCluster::new(config, clock.clone(), Rng::seeded(self.seed));
        MemoryLab { cluster, clock, newest: NodeId(i32::try_from(nodes).unwrap_or(i32::MAX)) }
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn is_simulated(&self) -> bool {
        self.simulated
    }

    fn engine(&self) -> io::Result<tokio::runtime::Runtime> {
        super::engine(self.simulated)
    }

    fn can(&self, capability: Capability) -> Result<(), String> {
        match capability {
            Capability::BadConfig => Err("its configuration is a value that cannot be wrong".to_owned()),
            Capability::Folder | Capability::Disk => Err("it has no disk".to_owned()),
            Capability::Links
            | Capability::Delay
            | Capability::Pause
            | Capability::LyingDisk
            | Capability::WallClock
            | Capability::ClockRate
            | Capability::Memory => {
                Err("its nodes share a process; processes of their own can do it".to_owned())
            }
            Capability::External | Capability::LostReplies => {
                Err("it has no quorum outside of its nodes".to_owned())
            }
            Capability::Founders
            | Capability::Votes
            | Capability::Cut
            | Capability::Silence
            | Capability::HandOver
            | Capability::PreVote
            | Capability::ShortTail
            | Capability::Membership => Ok(()),
        }
    }

    async fn lab(&self, nodes: usize) -> Box<dyn Lab> {
        Box::new(self.lab_with(nodes, |_| {}))
    }
}

/// A memory cluster under the suite's hands.
pub struct MemoryLab {
    /// The cluster.
    pub cluster: MemoryCluster,
    clock: Clock,
    newest: NodeId,
}

#[async_trait]
impl Lab for MemoryLab {
    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn patience(&self) -> Duration {
        ELECTION * 100
    }

    fn quiet(&self) -> Duration {
        ELECTION * 10
    }

    fn constructor(&mut self, node: NodeId) -> Constructor {
        let cluster = self.cluster.clone();
        Box::new(move || Ok::<Box<dyn Consensus>, StartError>(Box::new(Memory::new(&cluster, node))))
    }

    async fn crashed(&mut self, node: NodeId) {
        self.cluster.kill(node);
    }

    async fn cut(&mut self, node: NodeId) {
        self.cluster.cut(node);
    }

    async fn heal(&mut self, node: NodeId) {
        self.cluster.heal(node);
    }

    async fn silence(&mut self, node: NodeId) {
        self.cluster.cut(node);
    }
    async fn newcomer(&mut self) -> Option<NodeId> {
        self.newest.0 += 1;
        Some(self.newest)
    }

    fn endpoint(&self, node: NodeId) -> String {
        format!("memory:{node}")
    }
}
