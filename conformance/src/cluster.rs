//! What the cases have in common: nodes that are constructed, started, killed, asked and read.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use quorate_core::{
    consensus::{
        Chain, Committed, Consensus, Epoch, Leader, LeaderEvent, LogIndex, NodeId, ProposeError, Resume,
        Running, SnapshotMeta, StartError,
    },
    runtime::{Clock, TaskScope},
};
use tokio::sync::oneshot;

use super::{Backend, Capability, Constructor, Lab, Stop, ensure};

/// A constructor, and a start, may take this long.
pub(super) const START_LIMIT: Duration = Duration::from_secs(1);

/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// A leadership that a node has announced as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) node: NodeId,
    pub(super) epoch: Epoch,
    pub(super) opened_at: LogIndex,
}

/// What a reader has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Entry(LogIndex, Epoch, Bytes),
    Snapshot(SnapshotMeta, Bytes),
}

impl Item {
    pub(super) fn index(&self) -> LogIndex {
        match self {
            Self::Entry(index, ..) => *index,
            Self::Snapshot(meta, _) => meta.index,
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        match self {
            Self::Entry(_, epoch, _) => *epoch,
            Self::Snapshot(meta, _) => meta.epoch,
        }
    }

    pub(super) fn data(&self) -> &Bytes {
        match self {
            Self::Entry(.., data) | Self::Snapshot(_, data) => data,
        }
    }
}

/// The cluster of a case.
pub(super) struct Cluster {
    pub(super) lab: Box<dyn Lab>,
    pub(super) clock: Clock,
    size: usize,
    simulated: bool,
    running: BTreeMap<NodeId, Arc<dyn Running>>,
}

pub(super) fn needs(backend: &dyn Backend, capability: Capability) -> Result<(), Stop> {
    backend.can(capability).map_err(Stop::Skipped)
}

impl Cluster {
    /// `size` nodes, none started.
    pub(super) async fn idle(backend: &dyn Backend, size: usize) -> Self {
        let lab = backend.lab(size).await;
        let clock = lab.clock();
        Self { lab, clock, size, simulated: backend.is_simulated(), running: BTreeMap::new() }
    }

    /// `size` nodes, all started.
    pub(super) async fn started(backend: &dyn Backend, size: usize) -> Result<Self, Stop> {
        let mut cluster = Self::idle(backend, size).await;
        cluster.start_all().await?;
        Ok(cluster)
    }

    pub(super) fn voters(&self) -> Vec<NodeId> {
        (1..=self.size).filter_map(|node| i32::try_from(node).ok()).map(NodeId).collect()
    }

    /// The nodes that run.
    pub(super) fn living(&self) -> Vec<NodeId> {
        self.running.keys().copied().collect()
    }

    pub(super) fn node(&self, node: NodeId) -> Result<&Arc<dyn Running>, Stop> {
        self.running.get(&node).ok_or_else(|| Stop::Failed(format!("node {node} does not run")))
    }

    pub(super) fn construct(&mut self, node: NodeId) -> Result<Box<dyn Consensus>, Stop> {
        let (backend, _) = construct(self.lab.constructor(node))?;
        backend.map_err(|error| Stop::Failed(format!("constructing node {node}: {error}")))
    }

    pub(super) async fn start_all(&mut self) -> Result<(), Stop> {
        for node in self.voters() {
            if !self.running.contains_key(&node) {
                self.start(node).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn start(&mut self, node: NodeId) -> Result<(), Stop> {
        self.start_from(node, Resume::default()).await
    }

    pub(super) async fn start_from(&mut self, node: NodeId, resume: Resume) -> Result<(), Stop> {
        let started = self.try_start(node, resume).await?;
        let running = started.map_err(|error| Stop::Failed(format!("starting node {node}: {error}")))?;
        self.running.insert(node, running);
        Ok(())
    }

    /// Starts a node within the limit; the inner error is the backend's.
    pub(super) async fn try_start(
        &mut self,
        node: NodeId,
        resume: Resume,
    ) -> Result<Result<Arc<dyn Running>, StartError>, Stop> {
        let backend = self.construct(node)?;
        let late = || Stop::Failed(format!("start() of node {node} did not return within {START_LIMIT:?}"));
        if self.simulated {
            let start = self.clock.timeout(START_LIMIT, backend.start(resume));
            return start.await.map_err(|_| late());
        }
        // On a task of its own, so that a start that blocks its thread is found out too.
        let (done, result) = oneshot::channel();
        TaskScope::threaded().spawn(async move {
            let _ = done.send(backend.start(resume).await);
        });
        match self.clock.timeout(START_LIMIT, result).await {
            Ok(Ok(started)) => Ok(started),
            Ok(Err(_)) => Err(Stop::Failed(format!("start() of node {node} panicked"))),
            Err(_) => Err(late()),
        }
    }

    /// Keeps a node that [`Cluster::try_start`] has started.
    pub(super) fn adopt(&mut self, node: NodeId, running: Arc<dyn Running>) {
        self.running.insert(node, running);
    }

    pub(super) async fn kill(&mut self, node: NodeId) {
        drop(self.running.remove(&node));
        self.lab.crashed(node).await;
    }

    pub(super) async fn kill_all(&mut self) {
        for node in self.living() {
            drop(self.running.remove(&node));
        }
        for node in self.voters() {
            self.lab.crashed(node).await;
        }
    }

    /// Stops a node in order.
    pub(super) async fn shut_down(&mut self, node: NodeId) {
        if let Some(running) = self.running.remove(&node) {
            running.shutdown().await;
            drop(running);
        }
        self.lab.crashed(node).await;
    }

    // --- leaders

    pub(super) fn last_event(&self, node: NodeId) -> Option<LeaderEvent> {
        self.running.get(&node)?.leader_events().last()
    }

    /// The newest leadership that a running node announces as its own.
    pub(super) fn announced(&self) -> Option<Led> {
        let mine = |node: &NodeId| match self.last_event(*node)? {
            LeaderEvent { epoch, leader: Leader::Me { opened_at }, .. } => {
                Some(Led { node: *node, epoch, opened_at })
            }
            _ => None,
        };
        self.running.keys().filter_map(mine).max_by_key(|led| led.epoch)
    }

    /// The running nodes that do not lead as `led` says.
    pub(super) fn followers(&self, led: Led) -> Vec<NodeId> {
        self.living().into_iter().filter(|&node| node != led.node).collect()
    }

    /// One of them.
    pub(super) fn follower(&self, led: Led) -> Result<NodeId, Stop> {
        self.followers(led).first().copied().ok_or_else(|| Stop::Failed("no follower".to_owned()))
    }

    /// Waits for a leadership of an epoch above `epoch`.
    pub(super) async fn leader_after(&mut self, epoch: Epoch) -> Result<Led, Stop> {
        self.lab.encourage_election();
        let patience = self.lab.patience();
        let newer = || self.announced().filter(|led| led.epoch > epoch);
        self.wait(patience, newer).await.ok_or_else(|| {
            let said = |&node: &NodeId| {
                let words = self.lab.last_words(node).map_or_else(String::new, |words| format!(" ({words})"));
                let awaited = self.running.get(&node).map(|running| running.status().awaited());
                format!(
                    "node {node}: {:?}, awaits {}{words}",
                    self.last_event(node),
                    awaited.unwrap_or_default()
                )
            };
            let said: Vec<String> = self.running.keys().map(said).collect();
            let said = said.join("; ");
            Stop::Failed(format!("no leader of an epoch after {epoch} within {patience:?}: {said}"))
        })
    }

    pub(super) async fn leader(&mut self) -> Result<Led, Stop> {
        self.leader_after(Epoch(0)).await
    }

    /// Makes the leader resign, and waits for the next leadership.
    pub(super) async fn change_leader(&mut self) -> Result<Led, Stop> {
        let led = self.leader().await?;
        self.node(led.node)?.resign(led.epoch).await;
        self.leader_after(led.epoch).await
    }

    /// Looks at a condition until it holds, for `limit` at most.
    pub(super) async fn wait<T>(&self, limit: Duration, condition: impl Fn() -> Option<T>) -> Option<T> {
        let deadline = self.clock.now().plus(limit);
        loop {
            if let Some(met) = condition() {
                return Some(met);
            }
            if self.clock.now() >= deadline {
                return None;
            }
            self.clock.sleep(GLANCE).await;
        }
    }

    // --- entries

    /// Commits an entry, whoever leads meanwhile: a refusal is followed by another try, an unknown outcome too, so
    /// that the entry may be there twice.
    pub(super) async fn commit(&mut self, data: impl Into<Bytes>) -> Result<LogIndex, Stop> {
        let data = data.into();
        let mut last = String::new();
        for _ in 0..50 {
            let led = self.leader().await?;
            let proposed = self.node(led.node)?.propose(led.epoch, data.clone());
            match self.within_patience("a proposal", proposed).await? {
                Ok(index) => return Ok(index),
                Err(ProposeError::TooLarge) => {
                    return Err(Stop::Failed("a small entry is too large".to_owned()));
                }
                Err(error) => last = error.to_string(),
            }
            self.clock.sleep(GLANCE * 4).await;
        }
        Err(Stop::Failed(format!("no proposal was committed in 50 tries, the last: {last}")))
    }

    /// Reads at one node what comes after `after`, up to `until`.
    pub(super) async fn read(
        &self,
        node: NodeId,
        after: LogIndex,
        until: LogIndex,
    ) -> Result<Vec<Item>, Stop> {
        let mut items = Vec::new();
        let mut stream = self.node(node)?.committed(after);
        while items.last().map_or(after, Item::index) < until {
            let next = self.clock.timeout(self.lab.patience(), stream.next()).await;
            let last = items.last().map(Item::index);
            let Ok(next) = next else {
                let reason = format!(
                    "node {node} yields nothing after {last:?} (from {after}), up to {until} is there"
                );
                return Err(Stop::Failed(reason));
            };
            let Some(committed) = next else {
                return Err(Stop::Failed(format!("the stream of node {node} ended after {last:?}")));
            };
            items.push(item(committed).await?);
        }
        Ok(items)
    }

    /// Reads the whole log at every running node, up to `until`: all must be the same, without holes.
    pub(super) async fn same_everywhere(&self, until: LogIndex) -> Result<Vec<Item>, Stop> {
        let mut first: Option<Vec<Item>> = None;
        for node in self.living() {
            let items = self.read(node, LogIndex(0), until).await?;
            // What stands behind a snapshot is dense too.
            let begin = items.first().map_or(0, |item| item.index().0);
            for (item, expected) in items.iter().zip(begin..) {
                let index = item.index();
                ensure!(index == LogIndex(expected), "node {node} yields {index} where {expected} was due");
            }
            let same = first.get_or_insert_with(|| items.clone());
            // Another node may keep more of what a snapshot stands for here.
            let (one, other) = (behind(same, &items), behind(&items, same));
            let differs = one.iter().zip(other).find(|(one, other)| one != other);
            ensure!(differs.is_none(), "node {node} differs: {differs:?}");
        }
        Ok(first.unwrap_or_default())
    }

    pub(super) async fn within_patience<F: Future>(&self, what: &str, future: F) -> Result<F::Output, Stop> {
        let patience = self.lab.patience();
        let late = |_| Stop::Failed(format!("{what} did not end within {patience:?}"));
        self.clock.timeout(patience, future).await.map_err(late)
    }

    /// Where a caller stands that has applied everything up to `index` at `node`.
    pub(super) async fn resume_at(&self, node: NodeId, index: LogIndex) -> Result<Resume, Stop> {
        let log_id = self.node(node)?.status().log_id;
        let Some(log_id) = log_id else { return Err(Stop::Failed("a leader, and no log id".to_owned())) };
        let mut chain = Chain::start(log_id);
        for item in self.read(node, LogIndex(0), index).await? {
            chain = match item {
                Item::Entry(at, epoch, data) if at <= index => chain.link(epoch, &data),
                Item::Entry(..) => chain,
                Item::Snapshot(meta, _) => meta.chain,
            };
        }
        Ok(Resume { log_id: Some(log_id), applied: index, chain })
    }
}

/// The entries of `items` that `other` has as entries too.
fn behind<'a>(items: &'a [Item], other: &[Item]) -> &'a [Item] {
    let entry = |item: &&Item| matches!(item, Item::Entry(..));
    let first = |items: &[Item]| items.iter().find(entry).map_or(LogIndex(u64::MAX), Item::index);
    let from = first(items).max(first(other));
    let begin = items.iter().position(|item| item.index() >= from && matches!(item, Item::Entry(..)));
    items.get(begin.unwrap_or(items.len())..).unwrap_or_default()
}

async fn item(committed: Committed) -> Result<Item, Stop> {
    match committed {
        Committed::Entry { index, epoch, data } => Ok(Item::Entry(index, epoch, data)),
        Committed::Snapshot(mut snapshot) => {
            let mut data = Vec::new();
            while let Some(chunk) = snapshot.chunks.next().await {
                data.extend_from_slice(&chunk.map_err(|error| Stop::Failed(error.to_string()))?);
            }
            ensure!(data.len() as u64 == snapshot.meta.bytes, "a snapshot of another length than it says");
            Ok(Item::Snapshot(snapshot.meta, data.into()))
        }
    }
}

/// What a constructor returns.
type Constructed = Result<Box<dyn Consensus>, StartError>;

/// Runs a constructor on a bare thread: no runtime, no waiting. Says how long it took.
pub(super) fn construct(constructor: Constructor) -> Result<(Constructed, Duration), Stop> {
    let (done, result) = mpsc::channel();
    let clock = Clock::system();
    let begun = clock.now();
    let body = move || {
        let clock = Clock::system();
        let begun = clock.now();
        let constructed = constructor();
        let _ = done.send((constructed, clock.now().since(begun)));
    };
    let thread = std::thread::Builder::new().name("construct".to_owned()).spawn(body);
    if let Err(error) = thread {
        return Err(Stop::Failed(format!("no thread: {error}")));
    }
    match result.recv_timeout(START_LIMIT) {
        Ok((constructed, took)) => Ok((constructed, took)),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let waited = clock.now().since(begun).as_millis();
            Err(Stop::Failed(format!(
                "the constructor has not returned after {waited} ms: it waits for something"
            )))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(Stop::Failed("the constructor panicked: it needs a runtime, or something else".to_owned()))
        }
    }
}
