//! The way out after etcd was restored from an old backup: the state that a node has kept becomes the beginning of the
//! next generation of the log. Used by a command, while no node runs.
//!
//! A generation begins as a log that was compacted up to its base: one snapshot, no entries. Its first transaction also
//! writes into every earlier generation that it has ended, so that a node that does not know of the decision stops
//! instead of going on there.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_core::{
    consensus::{Chain, Epoch, LogId, LogIndex, NodeId, Snapshot, SnapshotMeta},
    runtime::Clock,
};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    compaction::Cutter,
    config::EtcdConfig,
    head::{Head, HistoryLost, Known, judge},
    storage::{
        Compare, KeyValue, Op, Range, Revision, Store, StoreError, Txn, TxnReply,
        keys::Keys,
        records::{HistoryRecord, SnapshotRecord, Tail, read_entry, write_ended, write_epoch, write_id},
    },
    transport::Connection,
};

/// How often a request without an answer is repeated.
const ATTEMPTS: u32 = 10;
const RETRY: Duration = Duration::from_millis(300);

/// What the node knows that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The node.
    pub node: NodeId,
    /// Its cluster; `None` on a node that has never been part of one.
    pub cluster: Option<Uuid>,
    /// The generation that its folders are of.
    pub generation: u64,
    /// The last entry in the newest state that it has kept; 0 if it has kept none.
    pub index: LogIndex,
    /// The history at that entry.
    pub chain: Chain,
}

/// What has become of the log that a node knows.
#[derive(Clone, Debug)]
pub enum Finding {
    /// etcd holds all that this node knows, in the newest generation.
    Whole,
    /// Entries that this node knows are gone, and nobody has decided anything; or who has knew less than this node.
    Lost(Box<Loss>),
    /// The next generation has begun, with another node's state or with this node's.
    Decided(Decision),
}

/// What [`Restore::adopt`] decides on, and only while it is so.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The generation that is to begin.
    pub generation: u64,
    /// What was found, for people.
    pub sentence: String,
    /// The furthest point that etcd knows of.
    pub beyond: (LogIndex, Epoch),
    /// The state of a node that knew less, which is to be replaced.
    pub replaces: Option<NodeId>,
    /// Nodes that are still registered as running.
    pub alive: Vec<(NodeId, String)>,
    /// The earlier generations, which end with the decision.
    earlier: Vec<(u64, Head)>,
    /// The revision of the tail of the generation that is to begin; 0: it has none.
    modified: Revision,
}

/// A decision that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The generation that has begun.
    pub generation: u64,
    /// Whose state it began with.
    pub node: NodeId,
    /// The last entry of the generation before that the state contains.
    pub index: LogIndex,
    /// Whether nodes have written to it already.
    pub is_used: bool,
    /// This node knows more, which comes too late.
    pub forgets: Option<LogIndex>,
}

/// Why nothing could be found out, or decided.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RestoreError {
    /// etcd does not answer.
    #[error("etcd does not answer as it should: {0}")]
    Unavailable(String),
    /// There is nothing to decide here.
    #[error("{0}")]
    Refused(String),
}

impl From<HistoryLost> for RestoreError {
    fn from(lost: HistoryLost) -> Self {
        Self::Refused(lost.to_string())
    }
}

/// A connection to the cluster's place in etcd that takes no part in the cluster.
pub struct Restore {
    store: Arc<dyn Store>,
    keys: Keys,
    clock: Clock,
}

impl Restore {
    /// Reads the TLS files, connects nowhere.
    ///
    /// # Errors
    /// A sentence that names the key or file that cannot be as it is.
    pub fn new(config: &EtcdConfig) -> Result<Self, String> {
        config.validate().map_err(|error| error.to_string())?;
        let store = Arc::new(Connection::new(config)?);
        Ok(Self::over(store, &config.prefix, config.runtime.clock.clone()))
    }

    pub(crate) fn over(store: Arc<dyn Store>, prefix: &str, clock: Clock) -> Self {
        Self { store, keys: Keys::new(prefix, 1), clock }
    }

    /// Finds out what has become of the log.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn look(&self, witness: &Witness) -> Result<Finding, RestoreError> {
        let head = self.head(witness.generation).await?;
        match head.ended {
            Some(next) => self.decided(witness, &head, next).await,
            None => self.undecided(witness, head).await,
        }
    }

    /// Nobody has begun another generation.
    async fn undecided(&self, witness: &Witness, head: Head) -> Result<Finding, RestoreError> {
        let lost = self.compare(witness, &head).await;
        let mut earlier = Vec::new();
        for generation in 1..witness.generation {
            earlier.push((generation, self.head(generation).await?));
        }
        let sentence = match lost {
            Ok(()) => return Ok(Finding::Whole),
            Err(Problem::Lost(lost @ (HistoryLost::Rewound { .. } | HistoryLost::Diverged { .. }))) => {
                lost.to_string()
            }
            // The backup is older than this generation, and the one before is there.
            Err(Problem::Lost(absent @ HistoryLost::Absent { .. }))
                if earlier.iter().any(|(generation, head)| {
                    witness.cluster.is_some_and(|cluster| head.id == Some(LogId::of(cluster, *generation)))
                }) =>
            {
                absent.to_string()
            }
            Err(Problem::Lost(lost)) => return Err(lost.into()),
            Err(Problem::Unavailable(error)) => return Err(error),
        };
        earlier.push((witness.generation, head));
        Ok(Finding::Lost(Box::new(Loss::new(witness.generation + 1, sentence, earlier))))
    }

    /// Another generation has begun: `next`, or one that came after it.
    async fn decided(&self, witness: &Witness, head: &Head, next: u64) -> Result<Finding, RestoreError> {
        let mut generation = next;
        let mut newest = self.head(generation).await?;
        while let Some(next) = newest.ended.filter(|next| *next > generation) {
            generation = next;
            newest = self.head(generation).await?;
        }
        let keys = self.keys.of(generation);
        if let (Some(cluster), found) = (witness.cluster, newest.id)
            && found != Some(LogId::of(cluster, generation))
        {
            let known = LogId::of(cluster, generation);
            let root = keys.root();
            return Err(found.map_or_else(
                || HistoryLost::Absent { root: root.clone(), known },
                |found| HistoryLost::Foreign { root: root.clone(), found, known },
            ))?;
        }
        let Some(history) = newest.history else {
            let root = keys.root();
            return Err(RestoreError::Refused(format!("{root} in etcd does not say what it began with")));
        };
        let is_used = newest.tail.index > history.base;
        let knows_more = witness.generation == history.generation && witness.index > history.index;
        if knows_more
            && !is_used
            && self.compare(witness, &Head { ended: None, ..head.clone() }).await.is_err()
        {
            let mut earlier = Vec::new();
            for generation in 1..generation {
                earlier.push((generation, self.head(generation).await?));
            }
            let sentence = format!(
                "generation {generation} was begun with the state of node {}, up to entry {}; this node knows more, \
                 up to entry {}, and nobody has used the generation yet",
                history.node, history.index, witness.index
            );
            let loss = Loss::new(generation, sentence, earlier);
            let (replaces, modified) = (Some(history.node), newest.tail_modified);
            // Beyond the state that is replaced, so that no chunk takes the place of one of its chunks.
            let beyond = (loss.beyond.0.max(newest.tail.index), loss.beyond.1.max(newest.epoch));
            return Ok(Finding::Lost(Box::new(Loss { replaces, modified, beyond, ..loss })));
        }
        let forgets = knows_more.then_some(witness.index);
        let HistoryRecord { node, index, .. } = history;
        Ok(Finding::Decided(Decision { generation, node, index, is_used, forgets }))
    }

    /// Whether `head` contains what the node knows.
    async fn compare(&self, witness: &Witness, head: &Head) -> Result<(), Problem> {
        let keys = self.keys.of(witness.generation);
        let log = witness.cluster.map(|cluster| LogId::of(cluster, witness.generation));
        judge(&keys, &Known { log, index: witness.index, chain: witness.chain }, head)?;
        if witness.index == LogIndex(0) || head.tail.index == witness.index {
            return Ok(());
        }
        let range = Keys::one(keys.entry(witness.index));
        let page = self.persist(|| self.store.range(&range)).await.map_err(Problem::Unavailable)?;
        // Where that entry was compacted away, the log is longer than a restore leaves it.
        let Some(kv) = page.entries.first() else { return Ok(()) };
        let entry = read_entry(&keys, kv).map_err(HistoryLost::from)?;
        match entry.chain == witness.chain {
            true => Ok(()),
            false => Err(HistoryLost::Diverged { root: keys.root(), index: witness.index }.into()),
        }
    }

    /// Begins the generation with a state, if the loss is still as it was found. False: something has changed, look
    /// again. Doing it again does no harm.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn adopt(
        &self,
        witness: &Witness,
        loss: &Loss,
        log: LogId,
        state: Snapshot,
    ) -> Result<bool, RestoreError> {
        let keys = self.keys.of(loss.generation);
        let meta = state.meta;
        let unchanged = Compare::Unmoved(keys.tail(), loss.modified);
        let mut cutter = Cutter::new(state);
        while let Some((number, chunk)) =
            cutter.next().await.map_err(|error| RestoreError::Refused(error.to_string()))?
        {
            let put = Op::Put { key: keys.chunk(meta.index, number), value: chunk, lease: None };
            let txn = Txn { when: vec![unchanged.clone()], then: vec![put], otherwise: Vec::new() };
            if !self.txn(&txn).await?.succeeded {
                return Ok(false);
            }
        }
        let record = cutter.record();
        Ok(self.txn(&self.beginning(witness, loss, log, &record, unchanged)).await?.succeeded)
    }

    /// The transaction that decides.
    fn beginning(
        &self,
        witness: &Witness,
        loss: &Loss,
        log: LogId,
        record: &SnapshotRecord,
        unchanged: Compare,
    ) -> Txn {
        let keys = self.keys.of(loss.generation);
        let put = |key: String, value: Bytes| Op::Put { key, value, lease: None };
        let SnapshotRecord { index, epoch, chain, chunks, .. } = *record;
        let history = HistoryRecord {
            generation: witness.generation,
            index: witness.index,
            chain: witness.chain,
            node: witness.node,
            base: index,
        };
        let mut when = vec![unchanged];
        let mut then = vec![
            put(keys.id(), write_id(log)),
            put(keys.epoch(), write_epoch(epoch)),
            put(keys.tail(), Tail { index, epoch, chain }.write()),
            put(keys.snapshot(), record.write()),
            put(keys.history(), history.write()),
        ];
        then.extend(keys.other_chunks(index, chunks).map(|(from, to)| Op::Delete { from, to }));
        for (generation, head) in &loss.earlier {
            let earlier = self.keys.of(*generation);
            when.push(Compare::Unmoved(earlier.tail(), head.tail_modified));
            when.push(Compare::Unmoved(earlier.leader(), 0));
            then.push(put(earlier.ended(), write_ended(loss.generation)));
            if head.epoch_modified > 0 {
                // A campaign that was on its way compares when this was written.
                then.push(put(earlier.epoch(), write_epoch(head.epoch)));
            }
        }
        Txn { when, then, otherwise: Vec::new() }
    }

    /// Reads the newest state that a generation keeps, chunk by chunk.
    ///
    /// # Errors
    /// [`RestoreError`]; also what `take` answers.
    pub async fn read(
        &self,
        generation: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<SnapshotMeta, RestoreError> {
        let keys = self.keys.of(generation);
        let head = self.head(generation).await?;
        let missing = || RestoreError::Refused(format!("{} in etcd holds no whole state", keys.root()));
        let record = head.snapshot.ok_or_else(missing)?;
        for number in 0..record.chunks {
            let one = Keys::one(keys.chunk(record.index, number));
            let range = Range { revision: head.revision, ..one };
            let page = self.persist(|| self.store.range(&range)).await?;
            let KeyValue { value, .. } = page.entries.into_iter().next().ok_or_else(missing)?;
            take(&value).map_err(RestoreError::Refused)?;
        }
        Ok(record.meta())
    }

    async fn head(&self, generation: u64) -> Result<Head, RestoreError> {
        let keys = self.keys.of(generation);
        let reply = self.txn(&Head::request(&keys)).await?;
        Head::of(&keys, &reply).map_err(|damaged| RestoreError::Refused(damaged.to_string()))
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnReply, RestoreError> {
        self.persist(|| self.store.txn(txn)).await
    }

    /// Asks until there is an answer, a few times.
    async fn persist<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, RestoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut tries = 0;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(StoreError::Unknown(_)) if tries < ATTEMPTS => {
                    tries += 1;
                    self.clock.sleep(RETRY).await;
                }
                Err(error) => return Err(RestoreError::Unavailable(error.to_string())),
            }
        }
    }
}

impl Loss {
    fn new(generation: u64, sentence: String, earlier: Vec<(u64, Head)>) -> Self {
        let mut beyond = (LogIndex(0), Epoch(0));
        let mut alive = Vec::new();
        for (_, head) in &earlier {
            beyond = (beyond.0.max(head.tail.index), beyond.1.max(head.epoch));
            let candidates = head.candidates.iter();
            alive.extend(candidates.map(|(node, candidate)| (*node, candidate.endpoint.clone())));
            alive.extend(head.leader.iter().map(|(leader, _)| (leader.node, leader.endpoint.clone())));
        }
        alive.sort();
        alive.dedup();
        Self { generation, sentence, beyond, replaces: None, alive, earlier, modified: 0 }
    }
}

/// Why a head is not as a node knows it.
enum Problem {
    Lost(HistoryLost),
    Unavailable(RestoreError),
}

impl From<HistoryLost> for Problem {
    fn from(lost: HistoryLost) -> Self {
        Self::Lost(lost)
    }
}
