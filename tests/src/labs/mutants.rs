//! Backends that break one rule each: the suite is only worth what these prove, that each of its cases can fail.

mod running;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use quorate_conformance::{Backend, Capability, Constructor, Lab};
use quorate_core::{
    consensus::{
        Consensus, Epoch, Leader, LeaderAnnouncer, LogIndex, NodeId, Resume, Running, StartError,
        leader_channel,
        memory::{Memory, MemoryCluster},
    },
    runtime::Clock,
};
use running::MutantRunning;

use super::memory::{MemoryBackend, MemoryLab};

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Announces a leader when it is constructed.
    AnnouncesBeforeStart,
    /// Says that an epoch opens one entry before it does.
    AnnouncesBeforeOpening,
    /// Counts epochs anew when all nodes restart.
    ReusesEpoch,
    /// Leaves an entry out.
    DropsEntry,
    /// Yields an entry twice.
    RepeatsEntry,
    /// Yields two entries in the wrong order.
    SwapsEntries,
    /// Acknowledges what no disk has: the last entry is gone when all nodes are killed.
    AcksBeforeDurable,
    /// Commits a proposal of whatever epoch.
    AcceptsAnyEpoch,
    /// Leaves out the entry after a snapshot.
    HoleAfterSnapshot,
    /// Waits a while in the constructor of the first node.
    BlocksInConstruct,
    /// Lets a second node lead an epoch.
    SecondLeader,
    /// Yields entries that the caller has applied, after a restart.
    ForgetsAfterRestart,
    /// Awaits a leader in the constructor.
    ConstructAwaitsLeader,
    /// Awaits a leader in `start()`.
    StartAwaitsLeader,
    /// Never says who leads.
    NeverAnnounces,
    /// Leaves a file behind when it is constructed.
    ConstructLeavesTraces,
    /// Does not say who is missing.
    MissingUnnamed,
    /// Goes on yielding after a shutdown.
    StreamsOutliveShutdown,
    /// Loses everything in a crash of its only node.
    CrashForgets,
    /// A shutdown does not hand over.
    NoHandOver,
    /// Tells a subscriber only of what comes after.
    LateSubscriberWaits,
    /// A leader that is cut off does not notice.
    IsolatedStaysLeader,
    /// A node that returns makes itself the leader.
    ReturnDeposes,
    /// Is down with one node of three.
    NeedsEveryone,
    /// Resumes a suspended epoch under another opening entry.
    ResumesElsewhere,
    /// Takes entries one byte larger than it says.
    LimitOffByOne,
    /// Has no bound on what waits.
    UnboundedQueue,
    /// Answers a proposal of unknown outcome as certainly refused.
    UnknownIsRefused,
    /// Takes the second of two equal entries for a repeat.
    Deduplicates,
    /// Commits the later of two proposals first.
    ReordersProposals,
    /// Commits at a follower.
    FollowerForwards,
    /// A read barrier misses the last entry.
    BarrierBehind,
    /// A read barrier asks nobody.
    BarrierAlone,
    /// Starts on the state of any history.
    AnyHistory,
    /// Refuses a snapshot that it keeps already.
    CompactsOnce,
    /// Leads without anybody, from its start on.
    LeadsAlone,
    /// Yields entries of an older epoch after those of a newer one.
    FallingEpoch,
    /// Yields other bytes at other nodes.
    AltersData,
    /// Yields a snapshot with other bytes.
    AltersSnapshot,
    /// Proposals wait for a silent peer.
    SilenceHoldsUp,
    /// Keeps a snapshot of what is not committed.
    SnapshotAhead,
    /// Says that the voters have changed, and changes nothing.
    IgnoresChanges,
    /// A node that was removed makes the leader give up when it comes back.
    RemovedDisturbs,
}

/// The memory backend with one rule broken.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// The rule.
    pub mutation: Mutation,
    memory: MemoryBackend,
}

impl Mutant {
    /// On paused time.
    #[must_use]
    pub fn new(mutation: Mutation) -> Self {
        let memory = match mutation {
            Mutation::UnknownIsRefused => MemoryBackend::delayed(),
            _ => MemoryBackend::instant(),
        };
        Self { mutation, memory }
    }

    /// On the machine's clock.
    #[must_use]
    pub fn in_real_time(mutation: Mutation) -> Self {
        Self { mutation, memory: MemoryBackend { simulated: false, ..MemoryBackend::instant() } }
    }
}

#[async_trait]
impl Backend for Mutant {
    fn name(&self) -> String {
        format!("the mutant {:?}", self.mutation)
    }

    fn is_simulated(&self) -> bool {
        self.memory.simulated
    }

    fn engine(&self) -> io::Result<tokio::runtime::Runtime> {
        super::engine(self.memory.simulated)
    }

    /// A fault that needs an hour to show is not what these are for.
    fn thorough(&self) -> bool {
        false
    }

    fn can(&self, capability: Capability) -> Result<(), String> {
        self.memory.can(capability)
    }

    async fn lab(&self, nodes: usize) -> Box<dyn Lab> {
        let unbounded = self.mutation == Mutation::UnboundedQueue;
        let inner = self.memory.lab_with(nodes, |config| {
            if unbounded {
                config.max_waiting = usize::MAX;
            }
        });
        let lives = Arc::new(Lives::default());
        Box::new(MutantLab { mutation: self.mutation, inner, nodes, lives })
    }
}

/// What the nodes of a lab have in common.
#[derive(Default)]
struct Lives {
    /// Nodes that run.
    running: AtomicUsize,
    /// Starts so far.
    started: AtomicUsize,
    /// The epoch in which all nodes were last down.
    offset: AtomicU64,
    /// A node was silenced.
    silenced: AtomicBool,
    /// The node that was removed last.
    removed: AtomicI32,
}

struct MutantLab {
    mutation: Mutation,
    inner: MemoryLab,
    nodes: usize,
    lives: Arc<Lives>,
}

#[async_trait]
impl Lab for MutantLab {
    fn clock(&self) -> Clock {
        self.inner.clock()
    }

    fn patience(&self) -> Duration {
        self.inner.patience()
    }

    fn quiet(&self) -> Duration {
        self.inner.quiet()
    }

    fn traces(&self, _node: NodeId) -> Option<String> {
        (self.mutation == Mutation::ConstructLeavesTraces).then(|| "a file".to_owned())
    }

    fn constructor(&mut self, node: NodeId) -> Constructor {
        let (mutation, cluster, lives) = (self.mutation, self.inner.cluster.clone(), self.lives.clone());
        Box::new(move || {
            if mutation == Mutation::BlocksInConstruct && lives.started.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(150));
            }
            while mutation == Mutation::ConstructAwaitsLeader && cluster.leader().is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
            let (announcer, _) = leader_channel();
            if mutation == Mutation::LeadsAlone {
                announcer.announce(Epoch(0), Leader::Me { opened_at: LogIndex(1) });
            }
            if mutation == Mutation::AnnouncesBeforeStart {
                announcer.announce(Epoch(0), Leader::Other(NodeId(99)));
            }
            Ok::<Box<dyn Consensus>, StartError>(Box::new(Idle { mutation, cluster, node, lives, announcer }))
        })
    }

    async fn crashed(&mut self, node: NodeId) {
        self.inner.crashed(node).await;
        if self.lives.running.load(Ordering::SeqCst) > 0 {
            return;
        }
        match (self.mutation, self.nodes) {
            (Mutation::AcksBeforeDurable, 3..) => self.inner.cluster.forget(1),
            (Mutation::CrashForgets, 1) => self.inner.cluster.forget(u64::MAX),
            _ => {}
        }
    }

    async fn cut(&mut self, node: NodeId) {
        self.inner.cut(node).await;
    }

    async fn heal(&mut self, node: NodeId) {
        self.inner.heal(node).await;
        if self.mutation == Mutation::ReturnDeposes {
            self.inner.cluster.elect(node);
        }
    }

    async fn silence(&mut self, node: NodeId) {
        self.lives.silenced.store(true, Ordering::SeqCst);
        self.inner.silence(node).await;
    }

    async fn newcomer(&mut self) -> Option<NodeId> {
        self.inner.newcomer().await
    }

    fn endpoint(&self, node: NodeId) -> String {
        self.inner.endpoint(node)
    }
}

/// A mutant that does not run.
struct Idle {
    mutation: Mutation,
    cluster: MemoryCluster,
    node: NodeId,
    lives: Arc<Lives>,
    announcer: LeaderAnnouncer,
}

#[async_trait]
impl Consensus for Idle {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        let given = match self.mutation {
            Mutation::AnyHistory => Resume::default(),
            _ => resume,
        };
        let inner = Box::new(Memory::new(&self.cluster, self.node)).start(given).await?;
        if self.lives.running.fetch_add(1, Ordering::SeqCst) == 0 && self.mutation == Mutation::ReusesEpoch {
            let newest = self.cluster.newest_epoch();
            self.lives.offset.store(newest.0, Ordering::SeqCst);
        }
        self.lives.started.fetch_add(1, Ordering::SeqCst);
        let removed = self.lives.removed.load(Ordering::SeqCst) == self.node.0;
        if self.mutation == Mutation::RemovedDisturbs && removed {
            self.cluster.depose();
        }
        if self.mutation == Mutation::StartAwaitsLeader {
            let _ = inner.leader_events().next().await;
        }
        Ok(Arc::new(MutantRunning::new(*self, inner, resume)))
    }
}
