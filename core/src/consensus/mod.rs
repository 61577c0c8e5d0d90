//! The port to a consensus backend: one ordered, durable log of metadata commands, and who may append to it.
//!
//! A backend is constructed ([`Consensus`]), then started ([`Consensus::start`]), and only the running half
//! ([`Running`]) has leader events. Nobody can wait for a leader before the engine that elects one runs, because
//! there is nothing to wait on. What a leader event permits is decided in [`activation`].
//!
//! What stands in the wrong order does not compile. A backend starts once:
//! ```compile_fail,E0382
//! # use quorate_core::consensus::{Consensus, Resume, StartError};
//! async fn start_twice(backend: Box<dyn Consensus>) -> Result<(), StartError> {
//!     backend.start(Resume::default()).await?;
//!     backend.start(Resume::default()).await?;
//!     Ok(())
//! }
//! ```
//! Nobody can subscribe to the events of a backend that was not started:
//! ```compile_fail,E0599
//! # use quorate_core::consensus::{Consensus, LeaderEvents};
//! fn subscribe_before_start(backend: &dyn Consensus) -> LeaderEvents {
//!     backend.leader_events()
//! }
//! ```
//! Nobody leads who was not told so, and applied what came before:
//! ```compile_fail,E0451
//! # use quorate_core::{consensus::activation::Leading, ids::Epoch};
//! fn lead_by_wish() -> Leading {
//!     Leading { epoch: Epoch(1) }
//! }
//! ```
//! And this is the order in which it does:
//! ```
//! # use quorate_core::consensus::{Consensus, LeaderEvents, Resume, StartError};
//! async fn subscribe(backend: Box<dyn Consensus>) -> Result<LeaderEvents, StartError> {
//!     let running = backend.start(Resume::default()).await?;
//!     Ok(running.leader_events())
//! }
//! ```

pub mod activation;
mod history;
mod leader;
pub mod memory;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use thiserror::Error;

pub use history::{Chain, LogId};
pub use leader::{LeaderAnnouncer, LeaderEvents, leader_channel};

pub use crate::ids::{Epoch, LogIndex, NodeId};

/// The largest chunk of a snapshot, in bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// A configured backend that does not run. Constructing one parses configuration: no disk, no network, no task, no
/// waiting.
#[async_trait]
pub trait Consensus: Send + 'static {
    /// Recovers local state, spawns the engine, returns. **Waits for no peer, no quorum, no leader**: with every peer
    /// dead it still returns, and [`Running::status`] says who is missing.
    ///
    /// Must be called on a tokio runtime; it is the first await of the backend's life.
    ///
    /// # Errors
    /// Only what is local and final: bad configuration, a failed disk, a log of another history.
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError>;
}

/// Where the caller stands in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The log that the caller's state came from; `None` on a fresh node, which learns it from [`Status::log_id`].
    pub log_id: Option<LogId>,
    /// Durable at the caller: entries up to here are never asked for again.
    pub applied: LogIndex,
    /// The history at `applied`. A backend whose log disagrees answers [`StartError::Foreign`], or, where it can see
    /// its log only later, becomes fatal ([`Status::fatal`]).
    pub chain: Chain,
}

/// The running half of a backend.
#[async_trait]
pub trait Running: Send + Sync + 'static {
    /// The newest event not yet seen by this subscriber, then each newer one. May skip, never repeats, never reorders.
    /// `seq` and `epoch` never decrease; one epoch has one leader in the whole cluster. A leader that is cut off says
    /// [`Leader::Unknown`] and may resume the same epoch with the same `opened_at`; anything else needs a new epoch.
    /// A slow subscriber costs no memory. Ends when the backend has stopped.
    fn leader_events(&self) -> LeaderEvents;

    /// Every committed entry after `after`, once, in order, without holes; a snapshot first if the log begins later.
    /// Reads the log by index: no queue, so a slow reader blocks nobody. Entries are durable on a quorum when yielded.
    /// Ends when the backend has stopped.
    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed>;

    /// Appends `entry` if and only if this node leads `epoch` when the entry commits, and returns its index then.
    /// Dropping the future leaves the outcome unknown. The order of concurrent calls is the order of their first
    /// poll. A backend repeats a proposal by itself only where the repeat is provably the same entry. `entry` must
    /// not be empty: empty entries are the engine's own.
    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError>;

    /// An index at or above every entry whose `propose` returned, anywhere, before this call. Costs a round trip to a
    /// quorum; no lease and no clock is trusted.
    async fn read_barrier(&self) -> Result<LogIndex, Unavailable>;

    /// Durably keeps `snapshot`, then may forget entries up to its index, keeping a tail for slow readers. Idempotent;
    /// one that is older than the kept one changes nothing.
    async fn compact(&self, snapshot: Snapshot) -> Result<(), CompactError>;

    /// Changes one voter at a time (KIP-853); leader only, idempotent.
    async fn change_membership(&self, change: MembershipChange) -> Result<(), MembershipError>;

    /// Gives up the leadership of `epoch` if it is held, and does not campaign again for a while; hands it over where
    /// the engine can. Idempotent.
    async fn resign(&self, epoch: Epoch);

    /// Cheap, synchronous, never waits.
    fn status(&self) -> Status;

    /// Gives up leadership if held, stops all tasks, flushes, closes; streams end. Idempotent. Dropping the handle
    /// instead is a crash, and as safe as one.
    async fn shutdown(&self);
}

/// One step in the history of leaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderEvent {
    /// Grows by one with each event that the backend announces.
    pub seq: u64,
    /// The newest epoch that the backend knows of.
    pub epoch: Epoch,
    /// Who leads it.
    pub leader: Leader,
}

/// Who leads, as far as this node can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leader {
    /// Nobody, or this node is cut off from whoever does.
    Unknown,
    /// Another node.
    Other(NodeId),
    /// This node.
    Me {
        /// The entry that opens the epoch: every entry of an earlier epoch has a smaller index.
        opened_at: LogIndex,
    },
}

/// One item of the committed log.
#[derive(Debug)]
pub enum Committed {
    /// The next entry. `data` is empty for the engine's own entries (the opening of an epoch, a change of voters).
    Entry {
        /// Its position.
        index: LogIndex,
        /// The leadership that appended it; never decreases along the log.
        epoch: Epoch,
        /// What was proposed.
        data: Bytes,
    },
    /// Replaces all state; the next entry is the one after [`SnapshotMeta::index`].
    Snapshot(Snapshot),
}

/// What a snapshot stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry that the state contains.
    pub index: LogIndex,
    /// That entry's epoch.
    pub epoch: Epoch,
    /// The history at that entry.
    pub chain: Chain,
    /// The length of all chunks together.
    pub bytes: u64,
}

/// State at an index, as a stream of chunks of at most [`SNAPSHOT_CHUNK_BYTES`].
pub struct Snapshot {
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The state. An error ends the stream; whoever reads it keeps nothing of a stream that did not end well.
    pub chunks: BoxStream<'static, Result<Bytes, SnapshotError>>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.meta.fmt(f)
    }
}

/// A snapshot's chunks could not be read to their end.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("snapshot unreadable: {0}")]
pub struct SnapshotError(pub String);

/// Why a backend did not start.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StartError {
    /// The configuration contradicts the machine or the folder.
    #[error("{0}")]
    Config(String),
    /// The disk failed, or its contents are damaged.
    #[error("{0}")]
    Storage(String),
    /// The folder, or the log behind it, belongs to another history.
    #[error("{0}")]
    Foreign(String),
}

/// What became of a proposal that was not confirmed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProposeError {
    /// Not committed and never will be: this node does not lead the epoch.
    #[error("this node does not lead the epoch")]
    NotLeader {
        /// Who may.
        hint: Option<NodeId>,
    },
    /// Not committed: the entry is empty, or larger than [`Status::max_entry_bytes`].
    #[error("the entry is empty or larger than the backend takes")]
    TooLarge,
    /// Not committed: the queue of proposals is full. Worth a retry.
    #[error("the queue of proposals is full")]
    Busy,
    /// May be committed or not; if it is, it arrives through [`Running::committed`].
    #[error("the outcome is unknown")]
    Unknown,
    /// Not committed: the backend has stopped for good.
    #[error("the backend has stopped")]
    Stopped,
}

/// No quorum answered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("no quorum: {0}")]
pub struct Unavailable(pub String);

/// Why a snapshot was not kept.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CompactError {
    /// The backend cannot write now. Worth a retry.
    #[error("no quorum: {0}")]
    Unavailable(String),
    /// The snapshot is ahead of what is committed, or its history differs.
    #[error("the snapshot is not of this log")]
    Foreign,
    /// The chunks could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The disk failed.
    #[error("{0}")]
    Storage(String),
}

/// One change of the voters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// Makes a node a voter, after it has caught up.
    Add {
        /// The node.
        node: NodeId,
        /// Its controller listener, `host:port`.
        endpoint: String,
    },
    /// Takes a voter out.
    Remove(NodeId),
}

/// Why the voters did not change.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MembershipError {
    /// The voters of this backend are not ours to change.
    #[error("this backend's voters are managed outside of Quorate")]
    Unsupported,
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader,
    /// Another change is under way.
    #[error("another change of voters is under way")]
    InProgress,
    /// No quorum answered; the change may still come about.
    #[error("no quorum: {0}")]
    Unavailable(String),
}

/// What a backend says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The backend's name, as the flag `--consensus` takes it.
    pub backend: &'static str,
    /// The log; `None` until the cluster is founded.
    pub log_id: Option<LogId>,
    /// The newest known epoch.
    pub epoch: Epoch,
    /// The last entry known to be committed.
    pub committed: LogIndex,
    /// The first entry that is still kept.
    pub first: LogIndex,
    /// Time since a quorum last answered; `None` where it never has.
    pub quorum_contact_age: Option<Duration>,
    /// Who may lead: node and endpoint.
    pub voters: BTreeMap<NodeId, String>,
    /// The other voters, or the external store's members, and how they are.
    pub peers: Vec<Peer>,
    /// Set while the cluster is not founded yet.
    pub founding: Option<Founding>,
    /// The largest entry that `propose` takes, in bytes.
    pub max_entry_bytes: usize,
    /// Why the backend has failed for good. The process must exit non-zero.
    pub fatal: Option<String>,
}

impl Status {
    /// The sentence an operator needs while nobody leads: what is awaited and who is missing.
    #[must_use]
    pub fn awaited(&self) -> String {
        if let Some(fatal) = &self.fatal {
            return fatal.clone();
        }
        if let Some(founding) = &self.founding {
            return founding.to_string();
        }
        let silent: Vec<String> =
            self.peers.iter().filter(|peer| peer.problem.is_some()).map(Peer::to_string).collect();
        if silent.is_empty() {
            return "an election".to_owned();
        }
        format!("an election; missing: {}", silent.join(", "))
    }
}

/// Another voter, or a member of the external store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The node, where it is one of ours.
    pub node: Option<NodeId>,
    /// Where it is reached.
    pub endpoint: String,
    /// Time since it last answered; `None` where it never has.
    pub contact_age: Option<Duration>,
    /// Entries known to be durable there, where the engine knows.
    pub matched: Option<LogIndex>,
    /// Why it does not take part, in a few words; `None` while it does.
    pub problem: Option<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(node) => write!(f, "node {node} at {}", self.endpoint)?,
            None => f.write_str(&self.endpoint)?,
        }
        match &self.problem {
            Some(problem) => write!(f, " ({problem})"),
            None => Ok(()),
        }
    }
}

/// How far the founding of a cluster has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Founding {
    /// Founders that have answered and agree, this node among them.
    pub have: Vec<NodeId>,
    /// Founders that are awaited, with endpoint and reason.
    pub awaited: Vec<Peer>,
}

impl fmt::Display for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let awaited: Vec<String> = self.awaited.iter().map(Peer::to_string).collect();
        if awaited.is_empty() {
            return f.write_str("founding the cluster");
        }
        write!(f, "founding the cluster needs every voter; awaited: {}", awaited.join(", "))
    }
}
