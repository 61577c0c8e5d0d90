//! What the tasks of one backend share.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{
    consensus::{Chain, Epoch, Leader, LeaderAnnouncer, LogId, LogIndex, NodeId, Peer, ProposeError, Resume},
    runtime::{Moment, Runtime},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config::EtcdConfig,
    head::{Head, HistoryLost, Known},
    proposal::Leadership,
    queue::Queue,
    storage::{
        Compare, Store, StoreError,
        keys::Keys,
        records::{CandidateRecord, LeaderRecord, Tail},
    },
    watched::Watched,
};

pub(crate) struct Shared {
    pub(crate) node: NodeId,
    /// What it announces itself as.
    pub(crate) candidate: CandidateRecord,
    pub(crate) ttl: Duration,
    pub(crate) keep_entries: u64,
    pub(crate) resume: Resume,
    pub(crate) keys: Keys,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) runtime: Runtime,
    pub(crate) announcer: LeaderAnnouncer,
    pub(crate) queue: Queue,
    /// The newest head. Its tail may be ahead of the rest: a leader knows what it has committed.
    pub(crate) view: Watched<Option<Arc<Head>>>,
    /// This node's leadership, until everything about it is given up.
    pub(crate) leading: Watched<Option<Fence>>,
    /// The newest leadership that is to be given up.
    pub(crate) resigned: Watched<Epoch>,
    /// Wakes the observer.
    pub(crate) refresh: Notify,
    /// Cancelled when the backend has failed for good.
    pub(crate) ended: CancellationToken,
    /// Whether it was said that etcd's leases are longer than configured.
    pub(crate) told_of_ttl: AtomicBool,
    known: Mutex<Known>,
    contact: Mutex<Option<Moment>>,
    namesake: Mutex<Option<Peer>>,
    /// What the leader key holds of a process that has ended.
    gone: Mutex<Option<Bytes>>,
    fatal: Mutex<Option<String>>,
}

/// What a transaction of the current leadership compares with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fence {
    pub(crate) epoch: Epoch,
    pub(crate) compare: Compare,
    pub(crate) token: Uuid,
}

impl Shared {
    pub(crate) fn new(
        config: &EtcdConfig,
        resume: Resume,
        store: Arc<dyn Store>,
        announcer: LeaderAnnouncer,
    ) -> Self {
        Self {
            node: config.node,
            candidate: CandidateRecord { endpoint: config.advertised.clone(), directory: config.directory },
            ttl: config.lease_ttl,
            keep_entries: config.keep_entries,
            resume,
            keys: Keys::new(&config.prefix, config.generation),
            store,
            runtime: config.runtime.clone(),
            announcer,
            queue: Queue::default(),
            view: Watched::new(None),
            leading: Watched::new(None),
            resigned: Watched::new(Epoch(0)),
            refresh: Notify::new(),
            ended: CancellationToken::new(),
            told_of_ttl: AtomicBool::new(false),
            known: Mutex::new(Known { log: resume.log_id, index: resume.applied, chain: resume.chain }),
            contact: Mutex::new(None),
            namesake: Mutex::new(None),
            gone: Mutex::new(None),
            fatal: Mutex::new(None),
        }
    }

    /// The silence after which a leader steps down, and a follower no longer says who leads.
    pub(crate) fn patience(&self) -> Duration {
        self.ttl * 2 / 3
    }

    pub(crate) fn head(&self) -> Option<Arc<Head>> {
        self.view.get()
    }

    /// The process that the leader key names has ended: its place may be taken before its lease runs out.
    pub(crate) fn note_gone(&self, held: Bytes) {
        *self.gone.lock() = Some(held);
        // Whoever campaigns looks again.
        self.view.modify(|_| {});
    }

    /// What the leader key holds of a process that has ended.
    pub(crate) fn gone(&self) -> Option<Bytes> {
        self.gone.lock().clone()
    }

    /// Reads a fresh head and compares it with what was known before.
    pub(crate) async fn read_head(&self) -> Result<Result<Head, HistoryLost>, StoreError> {
        let known = *self.known.lock();
        let reply = self.store.txn(&Head::request(&self.keys)).await?;
        self.contacted();
        let head = match Head::of(&self.keys, &reply) {
            Ok(head) => head,
            Err(damaged) => return Ok(Err(damaged.into())),
        };
        Ok(crate::head::judge(&self.keys, &known, &head).map(|()| head))
    }

    /// Makes a head the view of everybody.
    pub(crate) fn publish(&self, mut head: Head) {
        if let Some(log) = head.id {
            self.known.lock().log.get_or_insert(log);
        }
        self.view.modify(|view| {
            if let Some(old) = view.as_ref().filter(|old| old.tail.index > head.tail.index) {
                (head.tail, head.tail_modified) = (old.tail, old.tail_modified);
            }
            *view = Some(Arc::new(head));
        });
    }

    /// This node has won a campaign.
    pub(crate) fn won(&self, log: LogId, leadership: &Leadership, record: LeaderRecord) {
        self.known.lock().log.get_or_insert(log);
        self.view.modify(|view| {
            let head = Arc::make_mut(view.get_or_insert_default());
            head.id = Some(log);
            head.epoch = leadership.epoch;
            head.leader = Some((record, leadership.leader.clone()));
        });
        self.committed(leadership);
    }

    /// This leadership's tail is committed.
    pub(crate) fn committed(&self, leadership: &Leadership) {
        let Tail { index, chain, .. } = leadership.tail;
        self.verified(index, chain);
        self.view.modify(|view| {
            let head = Arc::make_mut(view.get_or_insert_default());
            if head.tail.index < index {
                (head.tail, head.tail_modified) = (leadership.tail, leadership.tail_modified);
            }
            head.revision = head.revision.max(leadership.tail_modified);
            head.first = head.first.max(LogIndex(1));
        });
    }

    /// The log is known to be this one up to `index`.
    pub(crate) fn verified(&self, index: LogIndex, chain: Chain) {
        let mut known = self.known.lock();
        if index > known.index {
            (known.index, known.chain) = (index, chain);
        }
    }

    /// Whether this node is fresh and has not found a log yet.
    pub(crate) fn knows_nothing(&self) -> bool {
        *self.known.lock() == Known::default()
    }

    pub(crate) fn known(&self) -> Known {
        *self.known.lock()
    }

    /// etcd has answered.
    pub(crate) fn contacted(&self) {
        *self.contact.lock() = Some(self.runtime.clock.now());
    }

    /// Time since etcd last answered; `None` where it never has.
    pub(crate) fn contact_age(&self) -> Option<Duration> {
        self.contact.lock().map(|contact| self.runtime.clock.now().since(contact))
    }

    /// The node that leads, if it is another one.
    pub(crate) fn hint(&self) -> Option<NodeId> {
        match self.announcer.last()?.leader {
            Leader::Other(node) => Some(node),
            Leader::Unknown | Leader::Me { .. } => None,
        }
    }

    /// The backend has failed for good: streams end, calls answer `Stopped`, the process must exit.
    pub(crate) fn fail(&self, sentence: &str) {
        {
            let mut fatal = self.fatal.lock();
            if fatal.is_some() {
                return;
            }
            *fatal = Some(sentence.to_owned());
        }
        tracing::error!(node = %self.node, "{sentence}");
        self.end();
    }

    /// Ends everything that waits, after a failure or at a shutdown.
    pub(crate) fn end(&self) {
        self.queue.close(ProposeError::Stopped);
        self.announcer.stop();
        self.ended.cancel();
    }

    pub(crate) fn fatal(&self) -> Option<String> {
        self.fatal.lock().clone()
    }

    /// Resolves when the backend stops, for whatever reason.
    pub(crate) async fn stopping(&self) {
        tokio::select! { biased;
            () = self.ended.cancelled() => {}
            () = self.runtime.tasks.stopping() => {}
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.ended.is_cancelled() || self.runtime.tasks.is_stopping()
    }

    /// The value of the leader key that this node's former life has left behind, at the first look.
    pub(crate) fn former_life(&self, head: &Head) -> Option<Bytes> {
        let (record, value) = head.leader.as_ref()?;
        let other = head.candidates.get(&self.node).is_some_and(|found| !found.is_same(&self.candidate));
        (record.node == self.node && !other).then(|| value.clone())
    }

    /// Takes note of another process that is alive under this node's id, or that there is none. Says so once.
    pub(crate) fn note_namesake(&self, found: Option<CandidateRecord>) {
        let problem = found.map(|found| {
            let problem = format!(
                "node {} is alive at {} with another data folder: two clusters have one consensus.etcd.prefix ({}), or \
                 two nodes one node.id; give each its own (after a change of the folder, wait until the lease of the \
                 old process has ended)",
                self.node,
                found.endpoint,
                self.keys.root()
            );
            Peer { node: Some(self.node), endpoint: found.endpoint, problem: Some(problem), ..Peer::default() }
        });
        let mut namesake = self.namesake.lock();
        if *namesake != problem
            && let Some(Peer { problem: Some(problem), .. }) = &problem
        {
            tracing::error!(node = %self.node, "this node does not campaign: {problem}");
        }
        *namesake = problem;
    }

    /// The other process that is alive under this node's id.
    pub(crate) fn namesake(&self) -> Option<Peer> {
        self.namesake.lock().clone()
    }
}
