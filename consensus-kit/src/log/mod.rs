//! A durable log of votes and entries.
//!
//! Votes and entries share one stream of batches in append-only segments. A batch is written, synced once, and only
//! then acknowledged and visible to readers. One thread writes; readers read by index and block nobody.
//!
//! What a disk may do and what follows:
//! - a crash tears the last batch: it was never acknowledged and is ignored;
//! - a bit is flipped before that: [`Log::open`] refuses with the file and the offset, because cutting there would
//!   forget acknowledged entries and votes;
//! - the disk is full: the batch waits and is tried again, [`Log::trouble`] says so, and nothing is lost;
//! - a sync or write fails: every later call fails with the same sentence, and nothing is tried again.

mod format;
mod mark;
mod recover;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorate_core::{
    consensus::{Chain, LogId},
    ids::{Epoch, LogIndex, NodeId},
    runtime::Runtime,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use view::View;
use writer::{Job, Work, Writer};

/// What a node has promised: its newest term, whom it voted for there, and what it knows to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vote {
    /// The newest term this node has seen.
    pub term: u64,
    /// Who got this node's vote in that term.
    pub voted_for: Option<NodeId>,
    /// The last entry known to be committed. May lag behind.
    pub commit: LogIndex,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub index: LogIndex,
    /// The leadership that appended it.
    pub epoch: Epoch,
    /// 0 for what was proposed; any other number is the backend's own kind, of which readers see no data.
    pub engine: u8,
    /// What was proposed, or what the backend keeps in an entry of its own.
    pub data: Bytes,
}

impl Entry {
    /// What readers see, and what the chain covers: nothing of the backend's own entries.
    #[must_use]
    pub fn published(&self) -> &[u8] {
        if self.engine == 0 { &self.data } else { &[] }
    }
}

/// An entry's place in history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// The entry.
    pub index: LogIndex,
    /// Its epoch.
    pub epoch: Epoch,
    /// The history up to and with it.
    pub chain: Chain,
}

impl Point {
    /// Before the first entry of `log`.
    #[must_use]
    pub fn start(log: LogId) -> Self {
        Self { index: LogIndex(0), epoch: Epoch(0), chain: Chain::start(log) }
    }
}

/// What becomes durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Makes every entry after this one void, before anything else.
    pub truncate_after: Option<LogIndex>,
    /// Consecutive entries. The first may replace one that is there, and then everything after it is void.
    pub entries: Vec<Entry>,
    /// The new vote, after the entries.
    pub vote: Option<Vote>,
}

/// Where and what the log is.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The folder, which holds nothing else. Made if it is missing.
    pub folder: PathBuf,
    /// The log's identity; another one in the folder is refused.
    pub log: LogId,
    /// A segment that has reached this size is followed by a new one.
    pub segment_bytes: u64,
    /// The newest durable snapshot. A log that ends before it, or that was about to be replaced by it, begins anew
    /// behind it.
    pub snapshot: Option<Point>,
    /// Whether the folder must hold a log already: a missing one is then a lost one.
    pub must_exist: bool,
}

/// Why the log cannot be used. Every one is final for this process.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LogError {
    /// The disk failed.
    #[error("{0}")]
    Storage(String),
    /// What is on the disk was damaged after it was acknowledged.
    #[error("{0}")]
    Damaged(String),
    /// The folder belongs to another log.
    #[error("{0}")]
    Foreign(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// An open log. Clones are the same log.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

struct Shared {
    view: RwLock<View>,
    trouble: Mutex<Option<String>>,
}

/// Jobs that wait for the writing thread. A backend waits for each, so that more would be a mistake.
const JOBS: usize = 16;

impl Log {
    /// Recovers the log in a folder and starts its writing thread in the scope of `runtime`.
    ///
    /// # Errors
    /// See [`LogError`]; the sentence says which file, where in it, and what to do.
    pub async fn open(config: LogConfig, runtime: &Runtime) -> Result<Self, LogError> {
        let (writer, view) = Writer::open(config, runtime).await?;
        let shared = Arc::new(Shared { view: RwLock::new(view), trouble: Mutex::new(None) });
        let (jobs, queue) = mpsc::channel(JOBS);
        runtime.tasks.spawn_thread("consensus-log", writer.run(shared.clone(), queue));
        Ok(Self { shared, jobs })
    }

    /// The newest durable vote.
    #[must_use]
    pub fn vote(&self) -> Vote {
        self.shared.view.read().vote
    }

    /// The point before the first entry that is kept.
    #[must_use]
    pub fn base(&self) -> Point {
        self.shared.view.read().base
    }

    /// The last entry, or [`Log::base`] where there is none.
    #[must_use]
    pub fn last(&self) -> Point {
        self.shared.view.read().last()
    }

    /// Where in history `index` stands, if the log still knows: from [`Log::base`] to [`Log::last`].
    #[must_use]
    pub fn point(&self, index: LogIndex) -> Option<Point> {
        self.shared.view.read().point(index)
    }

    /// Entries from `from` up to and with `to`, as many as fit into `max_bytes`, but at least one. Empty where `from`
    /// is not kept or does not exist.
    ///
    /// # Errors
    /// The disk failed, or the entry was damaged after it was written.
    pub fn entries(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let slots = self.shared.view.read().slots(from, to, max_bytes);
        slots.iter().map(|(index, slot)| slot.read(*index)).collect()
    }

    /// Makes a batch durable. Returns when it is synced; until then no reader sees it. A full disk makes it wait, see
    /// [`Log::trouble`].
    ///
    /// # Errors
    /// [`LogError::Storage`] after a failed write or sync: whether the batch is there is unknown, and the log can only
    /// be opened again.
    pub async fn write(&self, batch: Batch) -> Result<(), LogError> {
        self.submit(Work::Write(batch)).await
    }

    /// Forgets everything and begins anew behind a durable snapshot that ends at `point`.
    ///
    /// # Errors
    /// As [`Log::write`].
    pub async fn restart(&self, point: Point, vote: Vote) -> Result<(), LogError> {
        self.submit(Work::Restart(point, vote)).await
    }

    /// Lets go of entries up to and with `index`. A durable snapshot must stand for them. Files go by whole segments, so
    /// that some of the entries may be back after a restart.
    ///
    /// # Errors
    /// As [`Log::write`].
    pub async fn forget(&self, index: LogIndex) -> Result<(), LogError> {
        self.submit(Work::Forget(index)).await
    }

    /// Ends the writing thread after what was given to it before.
    ///
    /// # Errors
    /// As [`Log::write`].
    pub async fn close(&self) -> Result<(), LogError> {
        self.submit(Work::Close).await
    }

    /// Why the log makes its writers wait, in a sentence; `None` while it does not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().clone()
    }

    async fn submit(&self, work: Work) -> Result<(), LogError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job { work, done }).await.map_err(|_| LogError::Closed)?;
        answer.await.map_err(|_| LogError::Closed)?
    }
}

type Done = oneshot::Sender<Result<(), LogError>>;
