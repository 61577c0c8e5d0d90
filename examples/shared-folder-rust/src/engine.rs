//! The one task that makes transactions: it looks at the folder, leads, follows, and carries out what it is told.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_core::{
    consensus::{CompactError, Epoch, Leader, LeaderAnnouncer, LogIndex, NodeId, ProposeError, Unavailable},
    runtime::{Clock, Rng, watch},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    lease::monotonic,
    log::Point,
    snapshot::Staged,
    store::{Led, Locked, Store},
};

/// How often a follower looks, at most; more often where the lease is short.
const LOOK: Duration = Duration::from_millis(20);
/// Entries of one transaction.
const BATCH: usize = 120;

/// Where the outcome of a proposal goes.
type Proposed = oneshot::Sender<Result<LogIndex, ProposeError>>;

/// What the engine is told to do.
pub(crate) enum Command {
    Propose(Epoch, Bytes, Proposed),
    Read(oneshot::Sender<Result<LogIndex, Unavailable>>),
    Keep(Box<Staged>, oneshot::Sender<Result<(), CompactError>>),
    Resign(Option<Epoch>, oneshot::Sender<()>),
}

/// What is known outside of the engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) last: Point,
    pub(crate) first: LogIndex,
    /// When the folder was last reached, by the clock of the machine.
    pub(crate) reached: Duration,
    pub(crate) fatal: Option<String>,
    pub(crate) stopped: bool,
}

pub(crate) struct Engine {
    pub(crate) node: NodeId,
    pub(crate) store: Arc<Store>,
    pub(crate) lease: Duration,
    pub(crate) tail: u64,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) announcer: LeaderAnnouncer,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) led: Option<Led>,
    /// When it may campaign again after it has resigned.
    pub(crate) campaign_at: Option<Duration>,
}

/// Why there was no transaction.
enum NotDone {
    /// Somebody else has held the lock for too long.
    Busy,
    Failed(io::Error),
}

impl From<io::Error> for NotDone {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Engine {
    /// Runs until the sender of commands has gone, or the folder has failed.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let store = self.store.clone();
        loop {
            match self.look(&store).await {
                Ok(()) => {}
                Err(NotDone::Busy) => self.lost_sight(),
                Err(NotDone::Failed(error)) => return self.fail(&error),
            }
            let pause = if self.led.is_some() { self.lease / 4 } else { LOOK.min(self.lease / 30) };
            let command = tokio::select! { biased;
                command = commands.recv() => match command {
                    Some(command) => command,
                    None => return self.stop(),
                },
                () = self.clock.sleep(pause) => continue,
            };
            if let Err(error) = self.carry_out(&store, command, &mut commands).await {
                return self.fail(&error);
            }
        }
    }

    /// Waits for the lock, but not for longer than a leader may be silent.
    async fn lock<'a>(&self, store: &'a Store) -> Result<Locked<'a>, NotDone> {
        let patience = monotonic() + self.lease / 2;
        loop {
            if let Some(locked) = store.lock()? {
                return Ok(locked);
            }
            if monotonic() >= patience {
                return Err(NotDone::Busy);
            }
            self.clock.sleep(Duration::from_millis(1)).await;
        }
    }

    async fn look(&mut self, store: &Store) -> Result<(), NotDone> {
        let locked = self.lock(store).await?;
        let now = monotonic();
        let (leadership, lasts) = locked.leadership(now)?;
        self.led = self.led.filter(|led| led.leadership == leadership);
        if let Some(led) = self.led {
            locked.extend(&led, now + self.lease)?;
            self.announcer.announce(leadership.epoch, Leader::Me { opened_at: led.opened_at });
        } else if lasts && leadership.node != self.node {
            self.campaign_at = None;
            self.announcer.announce(leadership.epoch, Leader::Other(leadership.node));
        } else {
            if leadership.epoch > Epoch(0) {
                self.announcer.announce(leadership.epoch, Leader::Unknown);
            }
            // Whoever looks first after the lease has run out wins; the lock sees to it that there is one.
            if !lasts && self.campaign_at.is_none_or(|at| now >= at) {
                let led = locked.campaign(leadership, self.node, *self.rng.uuid().as_bytes())?;
                locked.extend(&led, now + self.lease)?;
                (self.led, self.campaign_at) = (Some(led), None);
                self.announcer.announce(led.leadership.epoch, Leader::Me { opened_at: led.opened_at });
            }
        }
        drop(locked);
        self.publish();
        Ok(())
    }

    pub(crate) fn publish(&self) {
        let (last, first) = {
            let log = self.store.log.lock();
            (log.last(), log.first())
        };
        self.progress.send_modify(|progress| {
            (progress.last, progress.first, progress.reached) = (last, first, monotonic());
        });
    }

    /// The lock is held by somebody who does not go on: nobody leads as far as can be seen.
    fn lost_sight(&self) {
        if let Some(last) = self.announcer.last() {
            self.announcer.announce(last.epoch, Leader::Unknown);
        }
    }

    async fn carry_out(
        &mut self,
        store: &Store,
        command: Command,
        commands: &mut mpsc::Receiver<Command>,
    ) -> io::Result<()> {
        match command {
            Command::Propose(epoch, entry, done) => {
                let mut batch = vec![(epoch, entry, done)];
                let mut next = None;
                while batch.len() < BATCH && next.is_none() {
                    match commands.try_recv() {
                        Ok(Command::Propose(epoch, entry, done)) => batch.push((epoch, entry, done)),
                        Ok(other) => next = Some(other),
                        Err(_) => break,
                    }
                }
                self.propose(store, batch).await?;
                if let Some(next) = next {
                    Box::pin(self.carry_out(store, next, commands)).await?;
                }
            }
            Command::Read(done) => {
                let barrier = match self.lock(store).await {
                    Ok(_locked) => Ok(store.log.lock().last().index),
                    Err(NotDone::Busy) => Err(Unavailable("another node holds the lock".to_owned())),
                    Err(NotDone::Failed(error)) => return Err(error),
                };
                let _ = done.send(barrier);
            }
            Command::Keep(staged, done) => {
                let kept = match self.lock(store).await {
                    Ok(locked) => locked.keep(&staged, self.tail),
                    Err(NotDone::Busy) => {
                        Err(CompactError::Unavailable("another node holds the lock".to_owned()))
                    }
                    Err(NotDone::Failed(error)) => return Err(error),
                };
                let _ = done.send(kept);
            }
            Command::Resign(epoch, done) => {
                self.resign(store, epoch).await?;
                let _ = done.send(());
            }
        }
        self.publish();
        Ok(())
    }

    async fn propose(&mut self, store: &Store, batch: Vec<(Epoch, Bytes, Proposed)>) -> io::Result<()> {
        let refuse = |dones: Vec<Proposed>, error: ProposeError| {
            for done in dones {
                let _ = done.send(Err(error));
            }
        };
        let led = match (self.lock(store).await, self.led) {
            (Err(NotDone::Failed(error)), _) => return Err(error),
            (Err(NotDone::Busy), _) => {
                refuse(batch.into_iter().map(|(_, _, done)| done).collect(), ProposeError::Busy);
                return Ok(());
            }
            (Ok(locked), Some(led)) if locked.is_led_by(&led)? => Some((locked, led)),
            _ => None,
        };
        let (mut entries, mut dones, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (epoch, entry, done) in batch {
            if led.as_ref().is_some_and(|(_, led)| led.leadership.epoch == epoch) {
                entries.push(entry);
                dones.push(done);
            } else {
                others.push(done);
            }
        }
        refuse(others, ProposeError::NotLeader { hint: self.hint() });
        let Some((locked, led)) = led.filter(|_| !entries.is_empty()) else { return Ok(()) };
        match locked.append(&led, &entries) {
            Ok(before) => {
                for (index, done) in (before.next().0..).zip(dones) {
                    let _ = done.send(Ok(LogIndex(index)));
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                refuse(dones, ProposeError::Busy);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn hint(&self) -> Option<NodeId> {
        match self.announcer.last()?.leader {
            Leader::Other(node) => Some(node),
            _ => None,
        }
    }

    async fn resign(&mut self, store: &Store, epoch: Option<Epoch>) -> io::Result<()> {
        let Some(led) = self.led.filter(|led| epoch.is_none_or(|epoch| led.leadership.epoch == epoch)) else {
            return Ok(());
        };
        match self.lock(store).await {
            Ok(locked) if locked.is_led_by(&led)? => locked.extend(&led, Duration::ZERO)?,
            Ok(_) | Err(NotDone::Busy) => {}
            Err(NotDone::Failed(error)) => return Err(error),
        }
        self.led = None;
        self.campaign_at = Some(monotonic() + self.lease);
        self.announcer.announce(led.leadership.epoch, Leader::Unknown);
        Ok(())
    }

    fn stop(&self) {
        self.announcer.stop();
        self.progress.send_modify(|progress| progress.stopped = true);
    }

    /// Nothing is tried again: after a failed sync nobody knows what the disk holds.
    fn fail(&self, error: &io::Error) {
        let sentence = format!("{}: {error}", self.store.folder().display());
        self.progress.send_modify(|progress| progress.fatal = Some(sentence));
        self.stop();
    }
}
