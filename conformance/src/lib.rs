//! The conformance suite: the definition of the consensus port, as cases that any backend must pass.
//!
//! A [`Backend`] says how to make a [`Lab`]: a small cluster whose nodes the suite constructs, starts, kills and cuts
//! off. One file a group of cases; [`CASES`] lists them, and [`conformance!`](macro@crate::conformance) makes a `#[test]` of
//! each. What a lab cannot do is a [`Capability`] that it refuses with a reason, which the skipped case prints.

mod cluster;
mod compaction;
mod durability;
mod leadership;
mod lifecycle;
mod log;
pub mod proxy;

use std::{fmt, io, time::Duration};

use async_trait::async_trait;
use futures_util::future::LocalBoxFuture;
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

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// A sentence.
    pub name: &'static str,
    /// The file it stands in.
    pub group: &'static str,
    run: for<'a> fn(&'a dyn Backend) -> LocalBoxFuture<'a, Verdict>,
}

/// Lists every case for `$apply!`, which is given the other tokens and then `group name;` for each.
#[macro_export]
#[doc(hidden)]
macro_rules! conformance_cases {
    ($apply:ident, $($with:tt)*) => {
        $crate::$apply! { ($($with)*)
            lifecycle construct_waits_for_nothing;
            lifecycle construct_then_drop_leaves_nothing;
            lifecycle start_returns_without_peers;
            lifecycle start_returns_without_the_external_quorum;
            lifecycle no_event_before_a_quorum_has_started;
            lifecycle leader_event_follows_start;
            lifecycle initialisation_waits_for_leader_event;
            lifecycle initialisation_waits_for_applied_opening_entry;
            lifecycle bad_config_fails_in_construct;
            lifecycle unwritable_folder_fails_in_start;
            lifecycle shutdown_ends_streams_and_is_idempotent;
            lifecycle drop_without_shutdown_is_a_crash_and_recovers;
            lifecycle shutdown_of_leader_hands_over_faster_than_a_kill;
            lifecycle fresh_nodes_start_in_every_order_with_any_one_missing;
            lifecycle used_nodes_start_in_every_order_with_any_one_missing;
            leadership one_me_per_epoch;
            leadership epochs_strictly_increase_across_restarts_of_all;
            leadership opened_at_separates_epochs;
            leadership slow_subscriber_skips_never_reorders;
            leadership late_subscriber_gets_current_state;
            leadership suspended_epoch_resumes_only_as_the_same_leadership;
            leadership leader_kill_elects_within_bound;
            leadership isolated_leader_says_unknown_within_bound;
            leadership returning_node_does_not_depose_a_healthy_leader;
            leadership two_of_five_down_still_leads;
            leadership three_of_five_down_leads_nobody;
            leadership a_thousand_leader_changes_initialise_once_each;
            leadership one_silent_peer_holds_nobody_up;
            log committed_is_dense_ordered_identical_everywhere;
            log epoch_never_decreases_along_the_log;
            log proposed_then_read_everywhere;
            log propose_on_follower_is_refused;
            log propose_with_another_epoch_is_refused;
            log overtaken_leader_is_fenced;
            log too_large_is_refused_and_limit_is_exact;
            log queue_full_is_busy_not_memory;
            log unknown_is_resolved_by_reading;
            log same_bytes_twice_are_two_entries;
            log concurrent_proposals_keep_first_poll_order;
            log read_barrier_covers_every_ack;
            log read_barrier_fails_without_quorum;
            durability acked_survives_kill_of_all;
            durability resume_after_applied_repeats_nothing;
            durability resume_of_another_history_is_refused;
            durability slow_sync_keeps_leadership_or_loses_it_cleanly;
            durability failed_sync_is_fatal_not_retried;
            durability torn_last_record_is_cut;
            durability flipped_bit_in_the_middle_refuses_start;
            durability disk_full_is_reported_and_recovers;
            compaction late_reader_gets_snapshot_then_tail;
            compaction restarted_node_gets_snapshot;
            compaction compact_behind_newer_is_idempotent;
            compaction compact_never_forgets_unsnapshotted;
        }
    };
}

#[macro_export]
#[doc(hidden)]
macro_rules! conformance_list {
    (() $($group:ident $name:ident;)+) => {
        /// Every case.
        pub const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            group: stringify!($group),
            run: |backend| Box::pin($group::$name(backend)),
        }),+];
    };
}
/// Runs one case by name and prints why it was skipped, if it was.
///
/// # Panics
/// If the backend fails the case.
pub fn check(name: &str, backend: &dyn Backend) {
    match run(name, backend) {
        Ok(()) => {}
        Err(Stop::Skipped(reason)) => println!("SKIPPED {name} on {}: {reason}", backend.name()),
        Err(Stop::Failed(reason)) => panic!("{} fails {name}: {reason}", backend.name()),
    }
}

/// Runs one case by name, on a runtime of its own.
///
/// # Errors
/// Why it ended early.
///
/// # Panics
/// If there is no such case or the system has no runtime to give.
pub fn run(name: &str, backend: &dyn Backend) -> Verdict {
    let case = CASES.iter().find(|case| case.name == name).expect("a case of the list");
    let runtime = backend.engine().expect("a runtime");
    let verdict = runtime.block_on((case.run)(backend));
    runtime.shutdown_timeout(Duration::from_secs(1));
    verdict
}

conformance_cases! { conformance_list, }

/// Makes one `#[test]` of each case, for the backend that an expression makes.
#[macro_export]
macro_rules! conformance {
    ($backend:expr) => {
        $crate::conformance_cases! { conformance_tests, $backend }
    };
}

#[macro_export]
#[doc(hidden)]
macro_rules! conformance_tests {
    (($backend:expr) $($group:ident $name:ident;)+) => {
        $(
            #[test]
            fn $name() {
                $crate::check(stringify!($name), &$backend);
            }
        )+
    };
}
