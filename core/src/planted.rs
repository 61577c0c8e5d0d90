//! Bugs on purpose: each breaks one rule, and the simulator must find it. Who only looks for bugs that are not there
//! does not know whether he would see them.
//!
//! The switches exist in builds with the feature `planted-bugs` alone, which the tests ask for; without it every
//! question for one is `false` when it is compiled. A bug is planted in one thread, which is a whole simulation.

/// A broken rule. What each breaks stands where it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// Any live replica is elected, in sync or not.
    ElectsAnybody,
    /// A new leader has the epoch of the one before.
    LeaderEpochStays,
    /// A leader that is fenced stays the leader.
    FencedStaysLeader,
    /// A broker that is fenced stays in the ISR.
    FencedStaysInIsr,
    /// A clean election counts as unclean.
    RecoversAlways,
    /// Another process of a broker gets the registration of the one before.
    BrokerEpochStays,
    /// A node leaves out entries of the metadata log.
    SkipsEntries,
    /// The metadata log yields what is not committed.
    YieldsUncommitted,
    /// A node leads before it has registered.
    LeadsUnregistered,
    /// A follower joins the ISR before it has caught up.
    JoinsBehind,
    /// A follower that is unfenced waits for a fetch that does not come.
    UnfencedStaysOut,
    /// The high watermark falls to the slowest follower.
    HighWatermarkFalls,
    /// A replica that was asked into the ISR does not count before the leader has the answer.
    IgnoresJoining,
    /// A replica that was asked out of the ISR does not count any more.
    ShrinksAtOnce,
    /// What is in the page cache counts as durable.
    CountsUnsynced,
    /// Consumers read past the high watermark.
    ServesInvisible,
    /// Consumers read past the high watermark, and are told that it is visible.
    CallsAllVisible,
    /// acks=all is answered by the leader alone.
    AcksAtOnce,
    /// Epochs of what was cut from a log stay.
    EpochsSurviveCut,
    /// A log notes its first epoch alone.
    ForgetsEpochs,
    /// A follower does not say which epoch it has come to, so that nobody sees where histories part.
    HidesLastEpoch,
    /// A follower takes what it is sent without looking at the checksum, and a bit has flipped.
    SkipsChecksum,
    /// A follower cuts its log to the high watermark, as before KIP-101.
    FollowerCutsToHighWatermark,
    /// A leader cuts its log to the high watermark when its ISR has changed.
    LeaderCutsToHighWatermark,
    /// A leader leaves offsets out.
    LeavesGaps,
    /// A follower keeps no state of producers.
    ForgetsProducers,
    /// A log that is opened loses its last batch.
    OpensShort,
    /// A leader takes a follower's offset for what it has, whatever epoch that ends in.
    BelievesOffsets,
    /// A broker that has lost its page cache, or had a sync fail, registers as if it had lost nothing.
    ForgetsLosses,
    /// A broker is replaced by a process in other folders before its session has ended.
    ReplacesAtOnce,
    /// A log that is opened is cut to the high watermark of the checkpoint.
    CutsToCheckpoint,
    /// A replica that may lack records is elected, whether the topic permits it or not.
    ElectsUncleanly,
    /// A partition's folder is found by the topic's name alone.
    FindsByName,
    /// A batch of an old epoch of a producer is the next one.
    TakesOldEpochs,
    /// Retention deletes what is not visible yet.
    DeletesInvisible,
    /// What is read is not checked.
    VerifiesNothing,
    /// A sync that has failed counts as one that has not.
    IgnoresFailedSyncs,
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, or takes it out.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

/// Whether any bug is planted: what a debug build would stop at is left to the simulator to find.
pub(crate) fn any() -> bool {
    #[cfg(feature = "planted-bugs")]
    return PLANTED.get().is_some();
    #[cfg(not(feature = "planted-bugs"))]
    false
}
