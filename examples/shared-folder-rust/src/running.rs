//! The port's calls.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use quorate_core::{
    consensus::{
        Committed, CompactError, Epoch, LeaderAnnouncer, LeaderEvents, LogId, LogIndex, MembershipChange,
        MembershipError, NodeId, Peer, ProposeError, Resume, Running, Snapshot, SnapshotError, StartError,
        Status, Unavailable, leader_channel,
    },
    runtime::{Runtime, TaskScope, watch},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Settings,
    engine::{Command, Engine, Progress},
    lease::monotonic,
    log::ENTRY_BYTES,
    snapshot::{self, Staged},
    store::Store,
};

/// Commands that wait for the engine. More proposals are refused as busy.
const QUEUE: usize = 256;

pub(crate) async fn start(
    settings: Settings,
    runtime: Runtime,
    resume: Resume,
) -> Result<Arc<dyn Running>, StartError> {
    let fresh = LogId(*runtime.rng.uuid().as_bytes());
    let store = Arc::new(Store::open(&settings.store, fresh, resume)?);
    let (announcer, _) = leader_channel();
    let (progress, _) = watch::channel(Progress::default());
    let (sender, commands) = mpsc::channel(QUEUE);
    let tasks = runtime.tasks.child();
    let engine = Engine {
        node: settings.config.node,
        store: store.clone(),
        lease: settings.lease,
        tail: settings.tail,
        clock: runtime.clock.clone(),
        rng: runtime.rng.clone(),
        announcer: announcer.clone(),
        progress: progress.clone(),
        led: None,
        campaign_at: None,
    };
    engine.publish();
    tasks.spawn_thread("shared-folder", engine.run(commands));
    Ok(Arc::new(Handle {
        settings,
        store,
        announcer,
        progress,
        commands: Mutex::new(Some(sender)),
        runtime,
        tasks,
    }))
}

/// A running node. Dropping it is a crash.
struct Handle {
    settings: Settings,
    store: Arc<Store>,
    announcer: LeaderAnnouncer,
    progress: watch::Sender<Progress>,
    /// `None` once the node was shut down; the engine ends when the sender has gone.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    runtime: Runtime,
    tasks: TaskScope,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tasks.kill();
        self.announcer.stop();
        self.progress.send_modify(|progress| progress.stopped = true);
    }
}

impl Handle {
    fn commands(&self) -> Option<mpsc::Sender<Command>> {
        self.commands.lock().clone()
    }

    /// Tells the engine something and waits for what it answers; `None` if it has stopped.
    async fn tell<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (done, outcome) = oneshot::channel();
        self.commands()?.send(command(done)).await.ok()?;
        outcome.await.ok()
    }

    async fn stage(&self, snapshot: Snapshot) -> Result<Staged, CompactError> {
        let storage = |error: std::io::Error| CompactError::Storage(error.to_string());
        let folder = self.store.folder();
        let name = format!("{}-{:016x}", self.settings.config.node, self.runtime.rng.next_u64());
        let id = self.store.log.lock().id;
        let mut staged = Staged::begin(folder, &name, id, snapshot.meta).map_err(storage)?;
        let mut chunks = snapshot.chunks;
        while let Some(chunk) = chunks.next().await {
            if !staged.push(&chunk?).map_err(storage)? {
                return Err(SnapshotError("larger than it says".to_owned()).into());
            }
        }
        if !staged.finish().map_err(storage)? {
            return Err(SnapshotError("shorter than it says".to_owned()).into());
        }
        Ok(staged)
    }
}

#[async_trait]
impl Running for Handle {
    fn leader_events(&self) -> LeaderEvents {
        self.announcer.subscribe()
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        let (store, progress) = (self.store.clone(), self.progress.clone());
        let reader = Reader { store, progress, after };
        stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) }).boxed()
    }

    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError> {
        if entry.is_empty() || entry.len() > ENTRY_BYTES {
            return Err(ProposeError::TooLarge);
        }
        let (done, outcome) = oneshot::channel();
        let commands = self.commands().ok_or(ProposeError::Stopped)?;
        match commands.try_send(Command::Propose(epoch, entry, done)) {
            Ok(()) => drop(commands),
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ProposeError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ProposeError::Stopped),
        }
        outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        let stopped = || Err(Unavailable("the backend has stopped".to_owned()));
        self.tell(Command::Read).await.unwrap_or_else(stopped)
    }

    async fn compact(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        let staged = self.stage(snapshot).await?;
        let stopped = || Err(CompactError::Unavailable("the backend has stopped".to_owned()));
        self.tell(|done| Command::Keep(Box::new(staged), done)).await.unwrap_or_else(stopped)
    }

    async fn change_membership(&self, _: MembershipChange) -> Result<(), MembershipError> {
        Err(MembershipError::Unsupported)
    }

    async fn resign(&self, epoch: Epoch) {
        self.tell(|done| Command::Resign(Some(epoch), done)).await;
    }

    fn status(&self) -> Status {
        let progress = self.progress.borrow().clone();
        let age = monotonic().saturating_sub(progress.reached);
        let peer = |(node, endpoint): (&NodeId, &String)| Peer {
            node: Some(*node),
            endpoint: endpoint.clone(),
            ..Peer::default()
        };
        let config = &self.settings.config;
        Status {
            backend: "shared-folder",
            log_id: Some(self.store.log.lock().id),
            epoch: self.announcer.last().map_or(Epoch(0), |last| last.epoch),
            committed: progress.last.index,
            first: progress.first,
            quorum_contact_age: Some(if age < Duration::from_millis(100) { Duration::ZERO } else { age }),
            voters: config.peers.clone(),
            peers: config.peers.iter().filter(|(node, _)| **node != config.node).map(peer).collect(),
            founding: None,
            max_entry_bytes: ENTRY_BYTES,
            fatal: progress.fatal,
        }
    }

    async fn shutdown(&self) {
        self.tell(|done| Command::Resign(None, done)).await;
        drop(self.commands.lock().take());
        self.tasks.stop().await;
    }
}

/// A reader of the log at its own place.
struct Reader {
    store: Arc<Store>,
    progress: watch::Sender<Progress>,
    after: LogIndex,
}

impl Reader {
    async fn next(&mut self) -> Option<Committed> {
        let mut changes = self.progress.subscribe();
        loop {
            if changes.borrow_and_update().stopped {
                return None;
            }
            match self.read() {
                Ok(Some(item)) => return Some(item),
                Ok(None) => changes.changed().await.ok()?,
                Err(error) => {
                    let sentence = format!("{}: {error}", self.store.folder().display());
                    self.progress.send_modify(|progress| {
                        progress.fatal.get_or_insert(sentence);
                        progress.stopped = true;
                    });
                }
            }
        }
    }

    /// The next item, if there is one yet. Whatever this process has read of the log was synced before.
    fn read(&mut self) -> std::io::Result<Option<Committed>> {
        let index = self.after.next();
        let (first, place, file) = {
            let log = self.store.log.lock();
            (log.first(), log.place(index), log.file())
        };
        if index < first {
            let Some((meta, file)) = snapshot::newest(self.store.folder())? else { return Ok(None) };
            self.after = meta.index;
            return Ok(Some(Committed::Snapshot(snapshot::read(meta, file))));
        }
        let Some(place) = place else { return Ok(None) };
        let data = place.read(&file)?;
        self.after = index;
        Ok(Some(Committed::Entry { index, epoch: place.point.epoch, data }))
    }
}
