//! The conformance suite on every backend.

mod memory {
    quorate_conformance::conformance!(quorate_tests::labs::memory::MemoryBackend::instant());
}

mod memory_with_delays {
    quorate_conformance::conformance!(quorate_tests::labs::memory::MemoryBackend::delayed());
}

mod etcd {
    use quorate_tests::{etcd::Release, labs::etcd::EtcdBackend};

    quorate_conformance::conformance!(EtcdBackend(Release::Current));
}

/// Each mutant of the memory backend is found out by exactly the cases of its row; the first is its rule's own.
mod mutants {
    use std::{collections::BTreeSet, time::Duration};

    use quorate_conformance::{CASES, Stop, Verdict, run};
    use quorate_core::runtime::Clock;
    use quorate_tests::labs::{
        memory::MemoryBackend,
        mutants::{Mutant, Mutation},
    };

    macro_rules! mutants {
        ($($name:ident: $mutation:ident => $($case:ident),+;)+) => {
            const FOUND_BY: &[&[&str]] = &[$(&[$(stringify!($case)),+]),+];

            $(
                #[test]
                fn $name() {
                    found_out_by(Mutation::$mutation, &[$(stringify!($case)),+]);
                }
            )+
        };
    }

    mutants! {
        announces_before_start: AnnouncesBeforeStart => no_event_before_a_quorum_has_started;
        announces_before_opening: AnnouncesBeforeOpening => opened_at_separates_epochs;
        reuses_epoch: ReusesEpoch => epochs_strictly_increase_across_restarts_of_all;
        drops_entry: DropsEntry => committed_is_dense_ordered_identical_everywhere, random_faults_then_heal;
        repeats_entry: RepeatsEntry => committed_is_dense_ordered_identical_everywhere, random_faults_then_heal;
        swaps_entries: SwapsEntries => committed_is_dense_ordered_identical_everywhere, random_faults_then_heal;
        acks_before_durable: AcksBeforeDurable => acked_survives_kill_of_all;
        accepts_any_epoch: AcceptsAnyEpoch => propose_with_another_epoch_is_refused;
        hole_after_snapshot: HoleAfterSnapshot => late_reader_gets_snapshot_then_tail, kill_during_snapshot_install_is_all_or_nothing, snapshot_survives_kill_of_all;
        blocks_in_construct: BlocksInConstruct => construct_waits_for_nothing;
        second_leader: SecondLeader => one_me_per_epoch, a_thousand_leader_changes_initialise_once_each, random_faults_then_heal;
        forgets_after_restart: ForgetsAfterRestart => resume_after_applied_repeats_nothing;
        construct_leaves_traces: ConstructLeavesTraces => construct_then_drop_leaves_nothing;
        missing_unnamed: MissingUnnamed => start_returns_without_peers, fresh_nodes_start_in_every_order_with_any_one_missing;
        streams_outlive_shutdown: StreamsOutliveShutdown => shutdown_ends_streams_and_is_idempotent, drop_without_shutdown_is_a_crash_and_recovers;
        crash_forgets: CrashForgets => drop_without_shutdown_is_a_crash_and_recovers, acked_survives_kill_of_all, resume_of_another_history_is_refused;
        no_hand_over: NoHandOver => shutdown_of_leader_hands_over_faster_than_a_kill;
        late_subscriber_waits: LateSubscriberWaits => slow_subscriber_skips_never_reorders, late_subscriber_gets_current_state;
        isolated_stays_leader: IsolatedStaysLeader => suspended_epoch_resumes_only_as_the_same_leadership, isolated_leader_says_unknown_within_bound, three_of_five_down_leads_nobody;
        return_deposes: ReturnDeposes => returning_node_does_not_depose_a_healthy_leader, flapping_link;
        needs_everyone: NeedsEveryone => two_of_five_down_still_leads;
        resumes_elsewhere: ResumesElsewhere => suspended_epoch_resumes_only_as_the_same_leadership, three_of_five_down_leads_nobody, change_during_partition, random_faults_then_heal;
        limit_off_by_one: LimitOffByOne => too_large_is_refused_and_limit_is_exact;
        unbounded_queue: UnboundedQueue => queue_full_is_busy_not_memory;
        unknown_is_refused: UnknownIsRefused => unknown_is_resolved_by_reading, random_faults_then_heal;
        deduplicates: Deduplicates => same_bytes_twice_are_two_entries;
        reorders_proposals: ReordersProposals => concurrent_proposals_keep_first_poll_order;
        follower_forwards: FollowerForwards => propose_on_follower_is_refused, overtaken_leader_is_fenced, random_faults_then_heal;
        barrier_behind: BarrierBehind => read_barrier_covers_every_ack;
        barrier_alone: BarrierAlone => read_barrier_fails_without_quorum;
        any_history: AnyHistory => resume_of_another_history_is_refused;
        snapshot_ahead: SnapshotAhead => compact_never_forgets_unsnapshotted;
        compacts_once: CompactsOnce => compact_behind_newer_is_idempotent, compact_never_forgets_unsnapshotted;
        leads_alone: LeadsAlone => no_event_before_a_quorum_has_started, initialisation_waits_for_leader_event, fresh_nodes_start_in_every_order_with_any_one_missing, one_me_per_epoch;
        falling_epoch: FallingEpoch => epoch_never_decreases_along_the_log;
        alters_data: AltersData => committed_is_dense_ordered_identical_everywhere, proposed_then_read_everywhere, unknown_is_resolved_by_reading, acked_survives_kill_of_all, resume_after_applied_repeats_nothing, restarted_node_gets_snapshot, add_learner_then_promote, change_during_partition, flapping_link, kill_during_snapshot_install_is_all_or_nothing, random_faults_then_heal, snapshot_survives_kill_of_all;
        alters_snapshot: AltersSnapshot => late_reader_gets_snapshot_then_tail, restarted_node_gets_snapshot, kill_during_snapshot_install_is_all_or_nothing, snapshot_survives_kill_of_all;
        ignores_changes: IgnoresChanges => add_learner_then_promote, remove_leader_hands_over, same_change_twice_is_one, change_during_partition;
        removed_disturbs: RemovedDisturbs => removed_node_cannot_disturb;
        silence_holds_up: SilenceHoldsUp => one_silent_peer_holds_nobody_up;
    }

    fn found_out_by(mutation: Mutation, cases: &[&str]) {
        let fails = |name: &str| matches!(run(name, &Mutant::new(mutation)), Err(Stop::Failed(_)));
        let failed: BTreeSet<&str> = CASES.iter().map(|case| case.name).filter(|name| fails(name)).collect();
        assert_eq!(failed, cases.iter().copied().collect());
    }

    /// What a backend fails that never says who leads; no narrower mutant is known for these.
    const FOUND_BY_NEVER_ANNOUNCING: [&str; 4] = [
        "leader_event_follows_start",
        "initialisation_waits_for_applied_opening_entry",
        "used_nodes_start_in_every_order_with_any_one_missing",
        "leader_kill_elects_within_bound",
    ];

    #[test]
    fn never_announces() {
        for name in FOUND_BY_NEVER_ANNOUNCING {
            let verdict = run(name, &Mutant::new(Mutation::NeverAnnounces));
            assert!(matches!(verdict, Err(Stop::Failed(_))), "{name}");
        }
    }

    #[test]
    fn every_case_that_runs_on_memory_can_fail() {
        let found: BTreeSet<&str> = FOUND_BY.iter().copied().flatten().copied().collect();
        for case in CASES.iter().filter(|case| !found.contains(case.name)) {
            let skipped = matches!(run(case.name, &MemoryBackend::instant()), Err(Stop::Skipped(_)));
            assert!(
                skipped || FOUND_BY_NEVER_ANNOUNCING.contains(&case.name),
                "no mutant fails {}",
                case.name
            );
        }
    }

    fn failed_within_a_second(name: &str, mutation: Mutation, said: &str) {
        let clock = Clock::system();
        let begun = clock.now();
        let verdict: Verdict = run(name, &Mutant::in_real_time(mutation));
        let took = clock.now().since(begun);
        let Err(Stop::Failed(reason)) = verdict else { panic!("{mutation:?} is not failed: {verdict:?}") };
        assert!(reason.contains(said), "{reason}");
        // The limit is one second; the rest is for threads to be started and joined.
        assert!(took < Duration::from_millis(2500), "failed after {took:?}: {reason}");
    }

    #[test]
    fn new_waits_for_election() {
        failed_within_a_second(
            "construct_waits_for_nothing",
            Mutation::ConstructAwaitsLeader,
            "the constructor has not returned",
        );
        failed_within_a_second(
            "start_returns_without_peers",
            Mutation::StartAwaitsLeader,
            "start() of node 1",
        );
    }
}
