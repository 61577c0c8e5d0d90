//! The conformance suite: the definition of the consensus port, as cases that any backend must pass.
//!
//! A [`Backend`] says how to make a [`Lab`]: a small cluster whose nodes the suite constructs, starts, kills and cuts
//! off. One file a group of cases; [`CASES`] lists them, and [`conformance!`](macro@crate::conformance) makes a `#[test]` of
//! each. What a lab cannot do is a [`Capability`] that it refuses with a reason, which the skipped case prints; there is
//! no list of failures that are borne.
//!
//! A lab may be inside one process, with a clock of its own, or of real processes ([`process`]), which is what the
//! command `quorate conformance` makes of a plugin that it knows nothing of.
//!
//! Two rules of the port are kept by the compiler, and their cases are the examples that must not compile in
//! [`quorate_core::consensus`]: a backend starts once, and has no leader events before.
#![forbid(unsafe_code)]

mod cases;
mod cluster;
mod compaction;
mod durability;
mod external;
mod leadership;
mod lifecycle;
mod log;
mod membership;
mod partitions;
pub mod process;
pub mod proxy;
pub mod report;
pub mod runner;
mod time;

use std::{fmt, io, time::Duration};

use async_trait::async_trait;
pub use cases::{CASES, Case, check, run, run_case};
use quorate_core::{
    consensus::{Consensus, NodeId, StartError},
    runtime::Clock,
};

/// Constructs a backend, off any runtime.
pub type Constructor = Box<dyn FnOnce() -> Result<Box<dyn Consensus>, StartError> + Send>;

/// What not every lab can do, or not every backend claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// A fresh cluster is founded by all its voters.
    Founders,
    /// The nodes vote, so that their majority is what a leader needs.
    Votes,
    /// A node can be cut off from the others.
    Cut,
    /// A node can be made to accept connections and never answer.
    Silence,
    /// A leader that shuts down or resigns hands over.
    HandOver,
    /// A node that was cut off does not disturb a healthy leader when it returns.
    PreVote,
    /// A lab can make the backend keep no tail behind a snapshot.
    ShortTail,
    /// A configuration can be wrong on its face.
    BadConfig,
    /// A node has a folder, which can be made unwritable.
    Folder,
    /// A node's disk can be made to fail and to lose what was not synced.
    Disk,
    /// The quorum outside of the nodes can be stopped.
    External,
    /// Answers of the quorum outside can be lost on their way.
    LostReplies,
    /// One direction between two nodes can be cut.
    Links,
    /// What passes between nodes can be delayed.
    Delay,
    /// A node can be stopped as a whole, and continued.
    Pause,
    /// A node's disk can forget what it has acknowledged.
    LyingDisk,
    /// A node's wall clock can jump.
    WallClock,
    /// A node's clock can run at another speed.
    ClockRate,
    /// The most memory that a node has used can be told.
    Memory,
    /// The voters can be changed.
    Membership,
}

impl Capability {
    /// Every one.
    pub const ALL: &[Self] = &[
        Self::Founders,
        Self::Votes,
        Self::Cut,
        Self::Silence,
        Self::HandOver,
        Self::PreVote,
        Self::ShortTail,
        Self::BadConfig,
        Self::Folder,
        Self::Disk,
        Self::External,
        Self::LostReplies,
        Self::Links,
        Self::Delay,
        Self::Pause,
        Self::LyingDisk,
        Self::WallClock,
        Self::ClockRate,
        Self::Memory,
        Self::Membership,
    ];
}

/// As a configuration file names it: `hand-over`.
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Founders => "founders",
            Self::Votes => "votes",
            Self::Cut => "cut",
            Self::Silence => "silence",
            Self::HandOver => "hand-over",
            Self::PreVote => "pre-vote",
            Self::ShortTail => "short-tail",
            Self::BadConfig => "bad-config",
            Self::Folder => "folder",
            Self::Disk => "disk",
            Self::External => "external",
            Self::LostReplies => "lost-replies",
            Self::Links => "links",
            Self::Delay => "delay",
            Self::Pause => "pause",
            Self::LyingDisk => "lying-disk",
            Self::WallClock => "wall-clock",
            Self::ClockRate => "clock-rate",
            Self::Memory => "memory",
            Self::Membership => "membership",
        })
    }
}

/// How a disk goes wrong, see [`Lab::spoil_disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The next sync fails.
    FailSync,
    /// Syncs take a second.
    Slow,
    /// There is no space.
    Full,
    /// Syncs are acknowledged, and what they should keep is gone at the next crash ([`Capability::LyingDisk`]).
    LoseSyncs,
    /// The node being down: its last record is torn.
    TornTail,
    /// The node being down: a bit in the middle of its log has flipped.
    FlippedBit,
    /// All is well again.
    Healed,
}

/// A backend under test.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Its name.
    fn name(&self) -> String;
    /// Whether the cases run on one thread with paused time.
    fn is_simulated(&self) -> bool;
    /// The runtime that a case runs on; a simulated backend's is of one thread, with paused time.
    ///
    /// # Errors
    /// If the system has none to give.
    fn engine(&self) -> io::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()
    }
    /// Whether cases may take their time: the thousand changes, the quarter of a gigabyte.
    fn thorough(&self) -> bool {
        true
    }
    /// What random choices come from.
    fn seed(&self) -> u64 {
        1
    }
    /// Whether its labs have a capability; if not, why.
    ///
    /// # Errors
    /// The reason.
    fn can(&self, capability: Capability) -> Result<(), String>;
    /// A fresh cluster with voters 1 to `nodes`, none of them started.
    async fn lab(&self, nodes: usize) -> Box<dyn Lab>;
}

/// A small cluster of one backend.
#[async_trait]
pub trait Lab: Send {
    /// The clock of the lab.
    fn clock(&self) -> Clock;
    /// By when a cluster with a quorum has elected a leader and its nodes have settled. A generous bound.
    fn patience(&self) -> Duration;
    /// How long nothing must happen for a case to believe that nothing will: several elections' time.
    fn quiet(&self) -> Duration;
    /// The constructor of a node's next life.
    fn constructor(&mut self, node: NodeId) -> Constructor;
    /// A constructor with a wrong configuration.
    fn bad_constructor(&mut self) -> Option<Constructor> {
        None
    }
    /// What keeps a node's files, in words, if a constructor has made any. `None` if there is nothing.
    fn traces(&self, _node: NodeId) -> Option<String> {
        None
    }
    /// How a node's process ended, where it has by itself and that is not plain from its answers.
    fn last_words(&self, _node: NodeId) -> Option<String> {
        None
    }
    /// The suite has dropped the running node, as a crash does. Waits until it is gone, and loses what a crash loses.
    async fn crashed(&mut self, node: NodeId);
    /// Ends the waiting for an election where elections are not the backend's own.
    fn encourage_election(&mut self) {}
    /// Cuts a node off from all others ([`Capability::Cut`]).
    async fn cut(&mut self, _node: NodeId) {}
    /// Joins it again.
    async fn heal(&mut self, _node: NodeId) {}
    /// Puts in a node's place one that accepts and never answers ([`Capability::Silence`]); the node is down.
    async fn silence(&mut self, _node: NodeId) {}
    /// Makes a node's folder unwritable ([`Capability::Folder`]).
    async fn forbid_folder(&mut self, _node: NodeId) {}
    /// Spoils a node's disk ([`Capability::Disk`]).
    async fn spoil_disk(&mut self, _node: NodeId, _fault: DiskFault) {}
    /// Stops or continues the quorum outside ([`Capability::External`]).
    async fn stop_external(&mut self, _stopped: bool) {}
    /// Loses the answers of the quorum outside to a node from now on, or no more ([`Capability::LostReplies`]).
    async fn lose_replies(&mut self, _node: NodeId, _lost: bool) {}
    /// Cuts or joins one direction ([`Capability::Links`]).
    async fn cut_link(&mut self, _from: NodeId, _to: NodeId, _cut: bool) {}
    /// Delays what passes between a node and the others, in both directions; zero ends it ([`Capability::Delay`]).
    async fn delay(&mut self, _node: NodeId, _delay: Duration) {}
    /// Stops a node as a whole, or continues it ([`Capability::Pause`]).
    async fn pause(&mut self, _node: NodeId, _paused: bool) {}
    /// Moves a node's wall clock by so many seconds from the machine's ([`Capability::WallClock`]).
    async fn set_wall_clock(&mut self, _node: NodeId, _ahead_s: i64) {}
    /// Makes a node's monotonic clock twice as fast until its process ends ([`Capability::ClockRate`]).
    async fn double_clock_rate(&mut self, _node: NodeId) {}
    /// The most memory that the node's present life has used, in bytes ([`Capability::Memory`]).
    fn memory_peak(&self, _node: NodeId) -> Option<u64> {
        None
    }
    /// Makes room for one node more, which lists the voters and is none yet ([`Capability::Membership`]).
    async fn newcomer(&mut self) -> Option<NodeId> {
        None
    }
    /// Where a node is reached by the others, `host:port` ([`Capability::Membership`]).
    fn endpoint(&self, _node: NodeId) -> String {
        String::new()
    }
    /// Empties a node's folder; the node is down ([`Capability::Membership`]).
    async fn wipe(&mut self, _node: NodeId) {}
}

/// Why a case ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The backend breaks the contract.
    Failed(String),
    /// The case does not apply.
    Skipped(String),
}

/// The result of a case.
pub type Verdict = Result<(), Stop>;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => f.write_str(reason),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

/// Ends a case unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::Stop::Failed(format!($($reason)+)));
        }
    };
}
pub(crate) use ensure;
