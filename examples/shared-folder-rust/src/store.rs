//! The shared folder: one transaction at a time, each under the lock.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::consensus::{Chain, CompactError, LogId, LogIndex, NodeId, Resume, StartError};
use rustix::fs::{FlockOperation, flock};

use crate::{
    lease::{Leadership, Lease, Token},
    log::{Log, Point},
    snapshot::{self, Staged},
};

/// Milliseconds for which a start waits for the lock.
const START_TRIES: u32 = 5_000;

/// The folder, opened by one process.
pub(crate) struct Store {
    folder: PathBuf,
    lock: File,
    lease: Lease,
    /// What has been read of the log, for the engine and for whoever follows it.
    pub(crate) log: Arc<Mutex<Log>>,
}

/// The lock. Whoever has it is alone; the system takes it back when the process dies.
pub(crate) struct Locked<'a>(&'a Store);

/// A leadership of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Led {
    pub(crate) leadership: Leadership,
    pub(crate) opened_at: LogIndex,
}

impl Store {
    /// Opens the folder, making what is missing, and checks that the caller's state is of its log.
    pub(crate) fn open(folder: &Path, fresh: LogId, resume: Resume) -> Result<Self, StartError> {
        let storage = |error: io::Error| StartError::Storage(format!("{}: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(storage)?;
        let lock = File::create(folder.join("lock")).map_err(storage)?;
        wait_for_lock(&lock).map_err(storage)?;
        let log = match Log::open(folder).map_err(storage)? {
            Some(log) => log,
            None if resume.log_id.is_some() => {
                let sentence =
                    format!("{}: there is no log, but this node has been part of one", folder.display());
                return Err(StartError::Foreign(sentence));
            }
            None => {
                let before = Point { chain: Chain::start(fresh), ..Point::default() };
                Log::create(folder, fresh, before, &[]).map_err(storage)?;
                Log::open(folder).map_err(storage)?.ok_or_else(|| storage(io::ErrorKind::NotFound.into()))?
            }
        };
        snapshot::newest(folder).map_err(storage)?;
        check_history(&log, resume)
            .map_err(|why| StartError::Foreign(format!("{}: {why}", folder.display())))?;
        let lease = Lease::open(folder).map_err(storage)?;
        flock(&lock, FlockOperation::Unlock).map_err(|error| storage(error.into()))?;
        Ok(Self { folder: folder.to_owned(), lock, lease, log: Arc::new(Mutex::new(log)) })
    }

    /// Takes the lock if nobody has it, and reads what has happened since.
    pub(crate) fn lock(&self) -> io::Result<Option<Locked<'_>>> {
        match flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let locked = Locked(self);
        let mut log = self.log.lock();
        if log.is_replaced(&self.folder)? {
            let gone = || io::Error::other("the file 'log' has gone");
            *log = Log::open(&self.folder)?.ok_or_else(gone)?;
        } else {
            log.refresh()?;
        }
        drop(log);
        Ok(Some(locked))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Waits for whoever writes just now, which is not long, unless it was stopped in the middle.
fn wait_for_lock(lock: &File) -> io::Result<()> {
    for _ in 0..START_TRIES {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds the lock and does not go on"))
}

fn check_history(log: &Log, resume: Resume) -> Result<(), String> {
    if let Some(id) = resume.log_id.filter(|id| *id != log.id) {
        return Err(format!("this is the log {}, and this node's metadata is of {id}", log.id));
    }
    let last = log.last().index;
    if resume.applied > last {
        return Err(format!("the log ends at {last}, and this node has applied {}", resume.applied));
    }
    match log.point(resume.applied) {
        Some(point) if resume.applied > LogIndex(0) && point.chain != resume.chain => {
            Err(format!("the log has another history at {} than this node", resume.applied))
        }
        _ => Ok(()),
    }
}

impl Locked<'_> {
    /// The newest leadership, and whether nobody is to replace it yet.
    pub(crate) fn leadership(&self, now: Duration) -> io::Result<(Leadership, bool)> {
        let leadership = Leadership::read(&self.0.folder)?;
        Ok((leadership, self.0.lease.lasts(leadership.token, now)?))
    }

    /// Replaces the leadership `before`: a new epoch, opened by an entry.
    pub(crate) fn campaign(&self, before: Leadership, node: NodeId, token: Token) -> io::Result<Led> {
        let mut log = self.0.log.lock();
        let epoch = before.epoch.max(log.last().epoch).0 + 1;
        let leadership = Leadership { epoch: epoch.into(), node, token };
        leadership.write(&self.0.folder)?;
        log.append(leadership.epoch, &[Bytes::new()])?;
        Ok(Led { leadership, opened_at: log.last().index })
    }

    /// Whether the leadership is still the newest.
    pub(crate) fn is_led_by(&self, led: &Led) -> io::Result<bool> {
        Ok(Leadership::read(&self.0.folder)? == led.leadership)
    }

    /// Commits entries of a leadership that is the newest; the index before the first.
    pub(crate) fn append(&self, led: &Led, entries: &[Bytes]) -> io::Result<LogIndex> {
        let mut log = self.0.log.lock();
        let before = log.last().index;
        log.append(led.leadership.epoch, entries)?;
        Ok(before)
    }

    /// Lets a leadership last until then.
    pub(crate) fn extend(&self, led: &Led, until: Duration) -> io::Result<()> {
        self.0.lease.write(led.leadership.token, until)
    }

    /// Keeps a snapshot, and forgets entries that it contains but for the last `tail` of them.
    pub(crate) fn keep(&self, staged: &Staged, tail: u64) -> Result<(), CompactError> {
        let storage = |error: io::Error| CompactError::Storage(error.to_string());
        let mut log = self.0.log.lock();
        let meta = staged.meta;
        let kept = snapshot::newest(&self.0.folder).map_err(storage)?;
        if kept.is_some_and(|(kept, _)| kept.index >= meta.index) {
            return Ok(());
        }
        if log.point(meta.index).is_none_or(|point| (point.epoch, point.chain) != (meta.epoch, meta.chain)) {
            return Err(CompactError::Foreign);
        }
        staged.publish(&self.0.folder).map_err(storage)?;
        let behind = LogIndex(meta.index.0.saturating_sub(tail));
        if behind >= log.first() {
            log.forget(&self.0.folder, behind).map_err(storage)?;
            *log = Log::open(&self.0.folder).map_err(storage)?.ok_or(CompactError::Foreign)?;
        }
        Ok(())
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Without the lock the next transaction of this process would not begin either.
        let _ = flock(&self.0.lock, FlockOperation::Unlock);
    }
}
