//! What an in-process backend is given, and the limits that all of them keep.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use quorate_core::{
    consensus::StartError,
    ids::{DirectoryId, NodeId},
    runtime::{Connection, Runtime},
};
use tokio::sync::mpsc;

/// The largest entry, in bytes.
pub const MAX_ENTRY_BYTES: usize = 1 << 20;
/// Proposals that wait for the engine, in number and in bytes. More are refused as busy.
pub const QUEUED_PROPOSALS: usize = 1024;
/// See [`QUEUED_PROPOSALS`].
pub const QUEUED_BYTES: usize = 16 << 20;
/// Entries sent to a peer in one message, in bytes (one entry may be larger by its frame).
pub const MESSAGE_ENTRIES_BYTES: u64 = 1 << 20;
/// The largest message: entries of the size above, or one entry of the largest size, and what is around them.
pub const MESSAGE_BYTES: usize = 4 << 20;
/// Entries kept behind a snapshot for readers and followers that are slow.
pub const TAIL_ENTRIES: u64 = 10_000;
/// A segment of the log. Small enough that letting go of segments lets go of old entries.
pub const SEGMENT_BYTES: u64 = 8 << 20;

/// How fast the backend notices that somebody is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How often a leader says that it leads.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a time between these two asks for votes.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1000),
        }
    }
}

/// Everything the backend needs. Plain data; nothing is touched before the start.
pub struct VoterConfig {
    /// This node.
    pub node: NodeId,
    /// The log directory that votes and entries are kept in. A voter that comes back with another one is refused.
    pub directory_id: DirectoryId,
    /// The backend's folder in that directory. It holds nothing else.
    pub folder: PathBuf,
    /// The voters, and where their controller listeners are reached (`host:port`); all of them at founding.
    pub voters: BTreeMap<NodeId, String>,
    /// Connections of peers that arrive on this node's controller listener: those that begin with
    /// [`crate::transport::PREAMBLE`], of which nothing has been read.
    pub incoming: mpsc::Receiver<(Connection, SocketAddr)>,
    /// How fast.
    pub timings: Timings,
    /// The ports to the world.
    pub runtime: Runtime,
}

impl VoterConfig {
    /// Whether it can be.
    ///
    /// # Errors
    /// [`StartError::Config`], with a sentence that names the key.
    pub fn check(&self) -> Result<(), StartError> {
        let problem = if self.node.0 < 0 {
            format!("node.id is {}; it must be 0 or more", self.node)
        } else if self.voters.is_empty() {
            "controller.quorum.voters lists nobody; name every voter".to_owned()
        } else if let Some(voter) = self.voters.keys().find(|voter| voter.0 < 0) {
            format!("controller.quorum.voters lists the node {voter}; ids are 0 or more")
        } else if let Some((voter, _)) = self.voters.iter().find(|(_, endpoint)| !endpoint.contains(':')) {
            format!("controller.quorum.voters says no host:port for node {voter}")
        } else {
            return self.timings.check();
        };
        Err(StartError::Config(problem))
    }
}

impl Timings {
    /// The usual timings, or those that go with a least election timeout in milliseconds.
    ///
    /// # Errors
    /// [`StartError::Config`] if the text is not a number.
    pub fn with_election_timeout_ms(text: Option<&str>) -> Result<Self, StartError> {
        let usual = Self::default();
        let Some(text) = text else { return Ok(usual) };
        let wrong = |_| StartError::Config(format!("election.timeout.ms: '{text}' is not a number"));
        let election_min = Duration::from_millis(text.parse().map_err(wrong)?);
        let heartbeat = usual.heartbeat.min(election_min / 5);
        Ok(Self { heartbeat, election_min, election_max: election_min.saturating_mul(2) })
    }

    fn check(&self) -> Result<(), StartError> {
        let problem = if self.heartbeat < Duration::from_millis(2) {
            "the heartbeat interval must be 2 ms or more"
        } else if self.election_min < self.heartbeat * 2 {
            "the least election timeout must be twice the heartbeat interval or more"
        } else if self.election_max < self.election_min + self.heartbeat {
            "the election timeouts must lie a heartbeat interval apart or more, or elections collide"
        } else {
            return Ok(());
        };
        Err(StartError::Config(problem.to_owned()))
    }

    /// An engine's unit of time: two make a heartbeat.
    #[must_use]
    pub fn tick(&self) -> Duration {
        self.heartbeat / 2
    }

    /// A duration in ticks, at least one.
    #[must_use]
    pub fn ticks(&self, duration: Duration) -> usize {
        let ticks = duration.as_nanos().div_ceil(self.tick().as_nanos().max(1));
        usize::try_from(ticks).unwrap_or(usize::MAX).max(1)
    }
}
