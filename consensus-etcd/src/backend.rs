//! The two halves of the port: [`Etcd`] before the start, [`Handle`] after it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use quorate_core::{
    consensus::{
        Chain, Committed, CompactError, Consensus, Epoch, Leader, LeaderEvents, LogIndex, MembershipChange,
        MembershipError, ProposeError, Resume, Running, Snapshot, StartError, Status, Unavailable,
        leader_channel,
    },
    runtime::TaskScope,
};
use tokio::sync::oneshot;

use crate::{
    compaction,
    config::{ConfigError, EtcdConfig},
    head::HistoryLost,
    observer,
    proposal::BATCH_BYTES,
    queue::Proposal,
    reader::{Page, Position, Step},
    session,
    shared::Shared,
    storage::{
        Refusal, Store, StoreError,
        keys::Keys,
        records::{Entry, Tail},
    },
    transport::{Connection, probe},
    vigil,
};

/// Entries in a page of a reader, where they are small.
const PAGE_ENTRIES: i64 = 500;
/// Between attempts while etcd does not answer.
const RETRY: Duration = Duration::from_millis(100);

/// A configured backend.
#[derive(Debug)]
pub struct Etcd {
    config: EtcdConfig,
}

impl Etcd {
    /// Checks the settings. Touches neither disk nor network.
    ///
    /// # Errors
    /// [`ConfigError`] names the key that cannot be as it is.
    pub fn new(config: EtcdConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config })
    }
}

#[async_trait]
impl Consensus for Etcd {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        let mut config = self.config;
        config.runtime.tasks = config.runtime.tasks.child();
        let connection = Arc::new(Connection::new(&config).map_err(StartError::Config)?);
        let handle = start(&config, resume, connection.clone());
        let shared = handle.shared.clone();
        config.runtime.tasks.spawn(async move {
            tokio::select! { biased;
                () = shared.stopping() => {}
                unusable = probe(connection) => shared.fail(&unusable),
            }
        });
        Ok(Arc::new(handle))
    }
}

/// Spawns the engine over any store.
pub(crate) fn start(config: &EtcdConfig, resume: Resume, store: Arc<dyn Store>) -> Handle {
    let (announcer, _) = leader_channel();
    let shared = Arc::new(Shared::new(config, resume, store, announcer));
    let tasks = &config.runtime.tasks;
    tasks.spawn(observer::run(shared.clone()));
    if config.campaigns {
        tasks.spawn(session::run(shared.clone()));
        tasks.spawn(vigil::run(shared.clone()));
    }
    Handle { shared, compacting: tokio::sync::Mutex::new(()) }
}

/// A running backend.
pub(crate) struct Handle {
    shared: Arc<Shared>,
    /// One compaction at a time.
    compacting: tokio::sync::Mutex<()>,
}

impl Handle {
    fn tasks(&self) -> &TaskScope {
        &self.shared.runtime.tasks
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end();
        self.tasks().kill();
    }
}

#[async_trait]
impl Running for Handle {
    fn leader_events(&self) -> LeaderEvents {
        self.shared.announcer.subscribe()
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        let reader = Reader::new(self.shared.clone(), after);
        stream::unfold(reader, |mut reader| async move { reader.next().await.map(|item| (item, reader)) })
            .boxed()
    }

    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError> {
        if self.shared.is_stopping() {
            return Err(ProposeError::Stopped);
        }
        if entry.is_empty() || entry.len() > BATCH_BYTES {
            return Err(ProposeError::TooLarge);
        }
        let (answer, answered) = oneshot::channel();
        self.shared.queue.push(epoch, Proposal { data: entry, answer }, self.shared.hint())?;
        answered.await.unwrap_or(Err(ProposeError::Unknown))
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        let shared = &self.shared;
        let known = shared.known();
        let range = Keys::one(shared.keys.tail());
        let mut last = None;
        for _ in 0..3 {
            if shared.is_stopping() {
                return Err(Unavailable("the backend has stopped".to_owned()));
            }
            match shared.store.range(&range).await {
                Ok(page) => {
                    shared.contacted();
                    let tail = page.entries.first().map(Tail::read).transpose();
                    let tail = tail.map_err(|damaged| Unavailable(damaged.to_string()))?.unwrap_or_default();
                    if tail.index < known.index || tail.index == LogIndex(0) {
                        shared.refresh.notify_one();
                        return Err(Unavailable(format!("the log in etcd ends at {}", tail.index)));
                    }
                    return Ok(tail.index);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(Unavailable(last.map_or_else(String::new, |error| error.to_string())))
    }

    async fn compact(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        let _one = self.compacting.lock().await;
        if self.shared.is_stopping() {
            return Err(CompactError::Unavailable("the backend has stopped".to_owned()));
        }
        tokio::select! { biased;
            () = self.shared.stopping() => Err(CompactError::Unavailable("the backend has stopped".to_owned())),
            compacted = compaction::compact(&self.shared, snapshot) => compacted,
        }
    }

    async fn change_membership(&self, _change: MembershipChange) -> Result<(), MembershipError> {
        Err(MembershipError::Unsupported)
    }

    async fn resign(&self, epoch: Epoch) {
        let leads =
            |fence: &Option<crate::shared::Fence>| fence.as_ref().is_some_and(|fence| fence.epoch == epoch);
        let mut leading = self.shared.leading.watch();
        if !leads(&leading.look()) {
            return;
        }
        self.shared.resigned.modify(|resigned| *resigned = (*resigned).max(epoch));
        tokio::select! { biased;
            () = self.shared.ended.cancelled() => {}
            _ = leading.wait_for(|fence| !leads(fence)) => {}
        }
    }

    fn status(&self) -> Status {
        let shared = &self.shared;
        let head = shared.head();
        let last = shared.announcer.last();
        let mut status = Status {
            backend: "etcd",
            log_id: shared.known().log,
            epoch: last.map_or(Epoch(0), |event| event.epoch),
            quorum_contact_age: shared.contact_age(),
            peers: shared.store.peers().into_iter().chain(shared.namesake()).collect(),
            max_entry_bytes: BATCH_BYTES,
            fatal: shared.fatal(),
            ..Status::default()
        };
        if let Some(head) = head {
            status.epoch = status.epoch.max(head.epoch);
            status.committed = head.tail.index;
            status.first = head.first;
            let candidates = head.candidates.iter();
            status.voters = candidates.map(|(node, found)| (*node, found.endpoint.clone())).collect();
            if let Some((leader, _)) = &head.leader {
                status.voters.insert(leader.node, leader.endpoint.clone());
            }
        }
        if matches!(last.map(|event| event.leader), Some(Leader::Me { .. })) {
            status.voters.insert(shared.node, shared.candidate.endpoint.clone());
        }
        status
    }

    async fn shutdown(&self) {
        self.tasks().stop().await;
        self.shared.end();
    }
}

/// A reader of the log by index.
struct Reader {
    shared: Arc<Shared>,
    position: Position,
    /// Whether `position` is known to be of this node's log, and not only of the one in etcd.
    trusted: bool,
    ready: VecDeque<Entry>,
    limit: i64,
    /// Pages in a row that did not begin where they should.
    stale: u32,
}

/// More than one page that does not begin where the head says is no race with a compaction.
const STALE_PAGES: u32 = 3;

impl Reader {
    fn new(shared: Arc<Shared>, after: LogIndex) -> Self {
        let known = shared.known();
        let chain = if after == LogIndex(0) {
            None
        } else if after == shared.resume.applied {
            Some(shared.resume.chain)
        } else {
            Some(known.chain).filter(|_| known.index == after)
        };
        let trusted = chain.is_some() || after == LogIndex(0);
        let position = Position { index: after, chain };
        Self { shared, position, trusted, ready: VecDeque::new(), limit: PAGE_ENTRIES, stale: 0 }
    }

    async fn next(&mut self) -> Option<Committed> {
        let shared = self.shared.clone();
        loop {
            if shared.is_stopping() {
                return None;
            }
            if let Some(Entry { index, epoch, data, .. }) = self.ready.pop_front() {
                return Some(Committed::Entry { index, epoch, data });
            }
            let filled = tokio::select! { biased;
                () = shared.stopping() => return None,
                filled = self.fill() => filled,
            };
            match filled {
                Ok(None) => {}
                Ok(snapshot) => return snapshot.map(Committed::Snapshot),
                Err(lost) => {
                    shared.fail(&lost.to_string());
                    return None;
                }
            }
        }
    }

    /// Makes one step: fills `ready`, or waits, or returns a snapshot to be installed.
    async fn fill(&mut self) -> Result<Option<Snapshot>, HistoryLost> {
        let shared = self.shared.clone();
        let mut view = shared.view.watch();
        let Some(head) = view.look() else {
            view.changed().await;
            return Ok(None);
        };
        match self.position.step(&shared.keys, &head, self.limit)? {
            Step::Wait => {
                view.changed().await;
            }
            Step::Install(record) => {
                self.position = Position { index: record.index, chain: Some(record.chain) };
                self.note(record.index, record.chain);
                return Ok(Some(compaction::read(&shared, record, head.revision)));
            }
            Step::Read(range) => match shared.store.range(&range).await {
                Ok(page) => {
                    self.limit = self.limit.saturating_mul(2).min(PAGE_ENTRIES);
                    match self.position.accept(&shared.keys, &page.entries, &head)? {
                        Page::Entries(entries) => self.take(entries),
                        Page::Stale => self.catch_up(page.revision).await?,
                    }
                }
                Err(StoreError::Refused(Refusal::PageTooLarge, _)) => self.limit = (self.limit / 4).max(1),
                Err(_) => shared.runtime.clock.sleep(RETRY).await,
            },
        }
        Ok(None)
    }

    fn take(&mut self, entries: Vec<Entry>) {
        self.stale = 0;
        if let Some(last) = entries.last() {
            self.note(last.index, last.chain);
        }
        self.ready = entries.into();
    }

    fn note(&self, index: LogIndex, chain: Chain) {
        if self.trusted {
            self.shared.verified(index, chain);
        }
    }

    /// Waits for a head that is as new as the page that did not fit the old one.
    async fn catch_up(&mut self, revision: i64) -> Result<(), HistoryLost> {
        self.stale += 1;
        if self.stale > STALE_PAGES {
            let head = self.shared.head().unwrap_or_default();
            let (root, index) = (self.shared.keys.root(), self.position.index.next());
            return Err(HistoryLost::Hole { root, index, first: head.first, tail: head.tail.index });
        }
        let mut view = self.shared.view.watch();
        self.shared.refresh.notify_one();
        view.wait_for(|head| head.as_ref().is_some_and(|head| head.revision >= revision)).await;
        Ok(())
    }
}
