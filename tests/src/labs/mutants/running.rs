//! The running half of a mutant: the memory backend's, but for the broken rule.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{
        Committed, CompactError, Epoch, Leader, LeaderEvents, LogIndex, MembershipChange, MembershipError,
        NodeId, ProposeError, Resume, Running, Snapshot, Status, Unavailable,
    },
    runtime::TaskScope,
};

use super::{Idle, Mutation};

/// The entry that three of the mutants treat badly.
const UNLUCKY: LogIndex = LogIndex(60);

/// The epoch in which [`Mutation::SecondLeader`] shows.
const CONTESTED: Epoch = Epoch(8);

pub(super) struct MutantRunning {
    mutant: Idle,
    inner: Arc<dyn Running>,
    resume: Resume,
    offset: u64,
    tasks: TaskScope,
    seen: Mutex<BTreeMap<Bytes, LogIndex>>,
    compacted: Mutex<Option<LogIndex>>,
    first: tokio::sync::Mutex<bool>,
}

impl MutantRunning {
    pub(super) fn new(mutant: Idle, inner: Arc<dyn Running>, resume: Resume) -> Self {
        let tasks = TaskScope::threaded();
        let offset = mutant.lives.offset.load(Ordering::SeqCst);
        let relay = Relay {
            mutation: mutant.mutation,
            node: mutant.node,
            offset,
            announcer: mutant.announcer.clone(),
            events: inner.leader_events(),
        };
        tasks.spawn(relay.run());
        let seen = Mutex::new(BTreeMap::new());
        Self {
            mutant,
            inner,
            resume,
            offset,
            tasks,
            seen,
            compacted: Mutex::new(None),
            first: tokio::sync::Mutex::new(true),
        }
    }

    fn mutation(&self) -> Mutation {
        self.mutant.mutation
    }

    /// The inner epoch that an outer one stands for.
    fn inner_epoch(&self, epoch: Epoch) -> Epoch {
        match self.mutation() {
            Mutation::AcceptsAnyEpoch => self.inner.status().epoch,
            _ => Epoch(epoch.0.saturating_add(self.offset)),
        }
    }
}

/// Passes leader events on, but for the broken rule.
struct Relay {
    mutation: Mutation,
    node: NodeId,
    offset: u64,
    announcer: quorate_core::consensus::LeaderAnnouncer,
    events: LeaderEvents,
}

impl Relay {
    async fn run(mut self) {
        let mut suspended = false;
        while let Some(event) = self.events.next().await {
            let mut leader = event.leader;
            match (self.mutation, &mut leader) {
                (Mutation::NeverAnnounces, _) => continue,
                (Mutation::IsolatedStaysLeader, Leader::Unknown) => continue,
                (Mutation::AnnouncesBeforeOpening, Leader::Me { opened_at }) if event.epoch > Epoch(1) => {
                    opened_at.0 -= 1;
                }
                (Mutation::ResumesElsewhere, Leader::Me { opened_at }) if suspended => opened_at.0 += 1,
                (Mutation::SecondLeader, Leader::Other(_))
                    if event.epoch >= CONTESTED && self.node == NodeId(2) =>
                {
                    leader = Leader::Me { opened_at: LogIndex(1) };
                }
                _ => {}
            }
            suspended = leader == Leader::Unknown;
            self.announcer.announce(Epoch(event.epoch.0.saturating_sub(self.offset)), leader);
        }
        self.announcer.stop();
    }
}

impl Drop for MutantRunning {
    fn drop(&mut self) {
        self.tasks.kill();
        self.mutant.announcer.stop();
        self.mutant.lives.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The committed entries, but for the broken rule.
fn mangle(
    mutation: Mutation,
    node: NodeId,
    inner: BoxStream<'static, Committed>,
) -> BoxStream<'static, Committed> {
    let mut after_snapshot = false;
    let mut held: Option<Committed> = None;
    let mangled = inner.flat_map(move |item| {
        let index = match &item {
            Committed::Entry { index, .. } => *index,
            Committed::Snapshot(snapshot) => snapshot.meta.index,
        };
        let hole = std::mem::replace(&mut after_snapshot, matches!(item, Committed::Snapshot(_)));
        let items = match mutation {
            Mutation::DropsEntry if index == UNLUCKY => vec![],
            Mutation::HoleAfterSnapshot if hole => vec![],
            Mutation::RepeatsEntry if index == UNLUCKY => match item {
                Committed::Entry { index, epoch, data } => {
                    let again = Committed::Entry { index, epoch, data: data.clone() };
                    vec![again, Committed::Entry { index, epoch, data }]
                }
                other @ Committed::Snapshot(_) => vec![other],
            },
            Mutation::FallingEpoch | Mutation::AltersData | Mutation::AltersSnapshot => {
                vec![alter(mutation, node, item)]
            }
            Mutation::SwapsEntries if index == UNLUCKY => {
                held = Some(item);
                vec![]
            }
            _ => std::iter::once(item).chain(held.take()).collect(),
        };
        stream::iter(items)
    });
    mangled.boxed()
}

/// An item with one thing changed.
fn alter(mutation: Mutation, node: NodeId, item: Committed) -> Committed {
    match (mutation, item) {
        (Mutation::FallingEpoch, Committed::Entry { index, epoch: Epoch(5), data }) => {
            Committed::Entry { index, epoch: Epoch(2), data }
        }
        (Mutation::AltersData, Committed::Entry { index, epoch, data })
            if node > NodeId(1) && !data.is_empty() =>
        {
            Committed::Entry { index, epoch, data: data.slice(1..) }
        }
        (Mutation::AltersSnapshot, Committed::Snapshot(Snapshot { meta, .. })) => {
            let zeros = Bytes::from(vec![0; usize::try_from(meta.bytes).unwrap_or(0)]);
            Committed::Snapshot(Snapshot { meta, chunks: stream::iter([Ok(zeros)]).boxed() })
        }
        (_, item) => item,
    }
}

#[async_trait]
impl Running for MutantRunning {
    fn leader_events(&self) -> LeaderEvents {
        let mut events = self.mutant.announcer.subscribe();
        if self.mutation() == Mutation::LateSubscriberWaits {
            // Takes what is there out of the subscription.
            let _ = futures_util::FutureExt::now_or_never(events.next());
        }
        events
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        let repeats = self.mutation() == Mutation::ForgetsAfterRestart && self.resume.applied > LogIndex(0);
        let stream = self.inner.committed(if repeats { LogIndex(0) } else { after });
        match self.mutation() {
            Mutation::StreamsOutliveShutdown => stream.chain(stream::pending()).boxed(),
            mutation => mangle(mutation, self.mutant.node, stream),
        }
    }

    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError> {
        let limit = self.inner.status().max_entry_bytes;
        let entry = match self.mutation() {
            Mutation::LimitOffByOne if entry.len() == limit + 1 => entry.slice(..limit),
            _ => entry,
        };
        match self.mutation() {
            Mutation::Deduplicates => {
                if let Some(&index) = self.seen.lock().get(&entry) {
                    return Ok(index);
                }
            }
            // The first of many waits for the second.
            Mutation::ReordersProposals if entry.starts_with(b"entry 0") => {
                let mut first = self.first.lock().await;
                if std::mem::take(&mut *first) {
                    self.mutant.cluster.clock().sleep(Duration::from_millis(1)).await;
                }
            }
            Mutation::SilenceHoldsUp if self.mutant.lives.silenced.load(Ordering::SeqCst) => {
                self.mutant.cluster.clock().sleep(Duration::from_millis(200)).await;
            }
            Mutation::NeedsEveryone => {
                let missing = self.inner.status().peers.iter().filter(|peer| peer.problem.is_some()).count();
                if missing > 1 {
                    return Err(ProposeError::Busy);
                }
            }
            _ => {}
        }
        let result = self.inner.propose(self.inner_epoch(epoch), entry.clone()).await;
        match (self.mutation(), result) {
            (Mutation::Deduplicates, Ok(index)) => {
                self.seen.lock().insert(entry, index);
                Ok(index)
            }
            (Mutation::UnknownIsRefused, Err(ProposeError::Unknown)) => {
                Err(ProposeError::NotLeader { hint: None })
            }
            (Mutation::FollowerForwards, Err(ProposeError::NotLeader { hint: Some(_) })) => {
                Ok(self.mutant.cluster.committed())
            }
            (_, result) => result,
        }
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        match self.mutation() {
            Mutation::BarrierBehind => self.inner.read_barrier().await.map(|index| LogIndex(index.0 - 1)),
            Mutation::BarrierAlone => Ok(self.mutant.cluster.committed()),
            _ => self.inner.read_barrier().await,
        }
    }

    async fn compact(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        match self.mutation() {
            Mutation::CompactsOnce if self.compacted.lock().replace(snapshot.meta.index).is_some() => {
                Err(CompactError::Foreign)
            }
            Mutation::SnapshotAhead if snapshot.meta.index > self.inner.status().committed => Ok(()),
            _ => self.inner.compact(snapshot).await,
        }
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<(), MembershipError> {
        if self.mutation() == Mutation::IgnoresChanges {
            return Ok(());
        }
        if let MembershipChange::Remove(node) = change {
            self.mutant.lives.removed.store(node.0, Ordering::SeqCst);
        }
        self.inner.change_membership(change).await
    }

    async fn resign(&self, epoch: Epoch) {
        self.inner.resign(self.inner_epoch(epoch)).await;
    }

    fn status(&self) -> Status {
        let mut status = self.inner.status();
        status.epoch.0 = status.epoch.0.saturating_sub(self.offset);
        if self.mutation() == Mutation::MissingUnnamed {
            status.peers.iter_mut().for_each(|peer| peer.problem = None);
            status.founding.iter_mut().for_each(|founding| founding.awaited.clear());
        }
        status
    }

    async fn shutdown(&self) {
        if self.mutation() == Mutation::NoHandOver {
            self.mutant.cluster.kill(self.mutant.node);
        }
        self.inner.shutdown().await;
    }
}
