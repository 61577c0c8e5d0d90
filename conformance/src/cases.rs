//! The list of cases, and how one is run.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use quorate_core::runtime::Clock;

use crate::{
    Backend, Stop, Verdict, compaction, durability, external, leadership, lifecycle, log, membership,
    partitions, time,
};

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// A sentence.
    pub name: &'static str,
    /// The file it stands in.
    pub group: &'static str,
    /// The sizes of cluster that it is run on.
    pub nodes: &'static [usize],
    /// Those of the short list.
    pub short: &'static [usize],
    /// Whether it needs so much of the machine that others would be disturbed.
    pub heavy: bool,
    run: for<'a> fn(&'a dyn Backend, usize) -> LocalBoxFuture<'a, Verdict>,
}

/// Lists every case for `$apply!`, which is given the other tokens and then, for each, its group, its name, the sizes
/// of cluster that the short list has, and those that only the full one has.
#[macro_export]
#[doc(hidden)]
macro_rules! conformance_cases {
    ($apply:ident, $($with:tt)*) => {
        $crate::$apply! { ($($with)*)
            lifecycle construct_waits_for_nothing [3] [];
            lifecycle construct_then_drop_leaves_nothing [1] [];
            lifecycle start_returns_without_peers [3] [5];
            lifecycle start_returns_without_the_external_quorum [3] [1 5];
            lifecycle no_event_before_a_quorum_has_started [3] [5];
            lifecycle leader_event_follows_start [1 3 5] [];
            lifecycle initialisation_waits_for_leader_event [3] [5];
            lifecycle initialisation_waits_for_applied_opening_entry [1] [];
            lifecycle bad_config_fails_in_construct [1] [];
            lifecycle unwritable_folder_fails_in_start [1] [];
            lifecycle shutdown_ends_streams_and_is_idempotent [1] [3];
            lifecycle drop_without_shutdown_is_a_crash_and_recovers [1] [];
            lifecycle shutdown_of_leader_hands_over_faster_than_a_kill [3] [5];
            lifecycle fresh_nodes_start_in_every_order_with_any_one_missing [3] [];
            lifecycle used_nodes_start_in_every_order_with_any_one_missing [3] [];
            leadership one_me_per_epoch [1 3] [5];
            leadership epochs_strictly_increase_across_restarts_of_all [1 3] [5];
            leadership opened_at_separates_epochs [3] [1 5];
            leadership slow_subscriber_skips_never_reorders [3] [];
            leadership late_subscriber_gets_current_state [3] [1 5];
            leadership suspended_epoch_resumes_only_as_the_same_leadership [3] [5];
            leadership leader_kill_elects_within_bound [3] [5];
            leadership isolated_leader_says_unknown_within_bound [3] [5];
            leadership returning_node_does_not_depose_a_healthy_leader [3] [5];
            leadership two_of_five_down_still_leads [5] [];
            leadership three_of_five_down_leads_nobody [5] [];
            leadership a_thousand_leader_changes_initialise_once_each [3] [] heavy;
            leadership one_silent_peer_holds_nobody_up [3] [5];
            log committed_is_dense_ordered_identical_everywhere [1 3 5] [];
            log epoch_never_decreases_along_the_log [3] [1 5];
            log proposed_then_read_everywhere [1 3 5] [];
            log propose_on_follower_is_refused [3] [5];
            log propose_with_another_epoch_is_refused [1] [3];
            log overtaken_leader_is_fenced [3] [5];
            log paused_leader_wakes_and_is_fenced [3] [5];
            log too_large_is_refused_and_limit_is_exact [1] [3];
            log queue_full_is_busy_not_memory [3] [] heavy;
            log unknown_is_resolved_by_reading [3] [5];
            log same_bytes_twice_are_two_entries [1] [3];
            log retry_inside_backend_commits_once [3] [5];
            log concurrent_proposals_keep_first_poll_order [3] [1 5];
            log read_barrier_covers_every_ack [3] [1 5];
            log read_barrier_fails_without_quorum [3] [5];
            durability acked_survives_kill_of_all [1 3] [5];
            durability resume_after_applied_repeats_nothing [3] [1];
            durability resume_of_another_history_is_refused [1] [];
            durability slow_sync_keeps_leadership_or_loses_it_cleanly [3] [1];
            durability failed_sync_is_fatal_not_retried [3] [1];
            durability lost_sync_on_a_minority_loses_no_ack [3] [5];
            durability lost_sync_on_one_node_is_detected [1] [3];
            durability torn_last_record_is_cut [3] [1];
            durability flipped_bit_in_the_middle_refuses_start [3] [1];
            durability disk_full_is_reported_and_recovers [3] [1];
            time wall_clock_jump_changes_nothing [3] [1];
            time pause_longer_than_lease [3] [5];
            time clock_rate_2x_on_one_node [3] [5];
            time slow_links_keep_the_leader [3] [5];
            compaction late_reader_gets_snapshot_then_tail [1] [];
            compaction restarted_node_gets_snapshot [3] [5];
            compaction compact_behind_newer_is_idempotent [1] [];
            compaction compact_never_forgets_unsnapshotted [1] [];
            compaction snapshot_survives_kill_of_all [1 3] [];
            compaction kill_during_snapshot_install_is_all_or_nothing [3] [];
            compaction large_snapshot_256_mib_streams_in_bounded_memory [] [3] heavy;
            membership add_learner_then_promote [1] [3];
            membership remove_leader_hands_over [3] [5];
            membership removed_node_cannot_disturb [3] [5];
            membership same_change_twice_is_one [3] [];
            membership change_during_partition [3] [];
            membership wiped_node_rejoins_only_as_learner [3] [];
            membership voters_that_are_not_ours_do_not_change [3] [];
            partitions random_faults_then_heal [3] [5];
            partitions asymmetric_cut [3] [5];
            partitions flapping_link [3] [5];
            partitions the_larger_side_leads [5] [];
            external outage_of_the_external_quorum_heals [3] [1];
            external two_clusters_share_one_external_store [3] [];
        }
    };
}

#[macro_export]
#[doc(hidden)]
macro_rules! conformance_list {
    (() $($group:ident $name:ident [$($short:literal)*] [$($further:literal)*] $($heavy:ident)?;)+) => {
        /// Every case.
        pub const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            group: stringify!($group),
            nodes: &[$($short,)* $($further,)*],
            short: &[$($short,)*],
            heavy: !stringify!($($heavy)?).is_empty(),
            run: |backend, nodes| Box::pin($group::$name(backend, nodes)),
        }),+];
    };
}

conformance_cases! { conformance_list, }

/// The most that a case may take on real time. It is a bug of the suite to need it: each wait has a bound of its own.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs one case by name on each size of cluster, and prints why it was skipped, if it was.
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

/// Runs one case by name on each size of cluster.
///
/// # Errors
/// The first failure; else, why it was skipped.
///
/// # Panics
/// If there is no such case or the system has no runtime to give.
pub fn run(name: &str, backend: &dyn Backend) -> Verdict {
    let case = CASES.iter().find(|case| case.name == name).expect("a case of the list");
    let mut skipped = None;
    let sizes = if backend.thorough() { case.nodes } else { case.short };
    for &nodes in sizes {
        match run_case(case, backend, nodes) {
            Ok(()) => {}
            Err(Stop::Failed(reason)) => return Err(Stop::Failed(format!("on {nodes} nodes: {reason}"))),
            Err(Stop::Skipped(reason)) => skipped = Some(Stop::Skipped(reason)),
        }
    }
    skipped.map_or(Ok(()), Err)
}

/// Runs one case on a cluster of `nodes`, on a runtime of its own.
///
/// # Errors
/// Why it ended early.
///
/// # Panics
/// If the system has no runtime to give.
pub fn run_case(case: &Case, backend: &dyn Backend, nodes: usize) -> Verdict {
    let runtime = backend.engine().expect("a runtime");
    let body = (case.run)(backend, nodes);
    let verdict = match backend.is_simulated() {
        true => runtime.block_on(body),
        false => runtime
            .block_on(async { Clock::system().timeout(LIMIT, body).await })
            .unwrap_or_else(|_| Err(Stop::Failed(format!("not done within {LIMIT:?}")))),
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    verdict
}

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
    (($backend:expr) $($group:ident $name:ident [$($short:literal)*] [$($further:literal)*] $($heavy:ident)?;)+) => {
        $(
            #[test]
            fn $name() {
                $crate::check(stringify!($name), &$backend);
            }
        )+
    };
}
