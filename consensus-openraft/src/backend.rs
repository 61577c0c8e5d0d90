//! The port, implemented.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use openraft::error::ClientWriteError;
use quorate_consensus_kit::{
    config::{QUEUED_BYTES, TAIL_ENTRIES},
    founding::Phase,
    opening::{Begun, Scope, begin, guarded, keep},
};
use quorate_core::{
    consensus::{
        Committed, CompactError, Consensus, Leader, LeaderEvent, LeaderEvents, LogIndex, MembershipChange,
        MembershipError, NodeId, ProposeError, Resume, Running as RunningBackend, Snapshot, StartError,
        Status, Unavailable,
    },
    ids::Epoch,
};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{
    config::{LEAST_ROOM, MAX_ENTRY_BYTES, OpenraftConfig, Raft, Shared},
    engine::{Command, Starter, build},
    peers::Peers,
    transport::{Answer, Request},
    types::{Proposal, Ticket, encode_members, epoch_of, index_of, node_of},
};

/// What runs once the cluster is founded.
pub(crate) type Running = Arc<OnceCell<Arc<Peers>>>;

/// Commands that wait for the engine.
const COMMANDS: usize = 64;

/// The configured backend.
pub struct Openraft {
    config: OpenraftConfig,
    tail: u64,
}

impl Openraft {
    /// Checks the configuration. Touches nothing, waits for nothing.
    ///
    /// # Errors
    /// [`StartError::Config`], with a sentence that names the key.
    pub fn new(config: OpenraftConfig) -> Result<Self, StartError> {
        config.check()?;
        Ok(Self { config, tail: TAIL_ENTRIES })
    }

    /// Keeps so many entries behind a snapshot for readers and followers that are slow, instead of 10,000.
    #[must_use]
    pub fn with_tail(self, tail: u64) -> Self {
        Self { tail, ..self }
    }
}

#[async_trait]
impl Consensus for Openraft {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn RunningBackend>, StartError> {
        let Self { config, tail } = *self;
        let (node, timings) = (config.node, config.timings);
        let Begun { shared, phase, events, runtime, scope, folder, directory } =
            begin("openraft", config, tail, resume)?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let running = Running::default();
        let starter = Starter {
            me: node,
            directory,
            folder: folder.clone(),
            timings,
            runtime: runtime.clone(),
            shared: shared.clone(),
            running: running.clone(),
            events,
            commands,
        };
        if let Phase::Final(charter) = phase {
            let recovered = build((&folder, directory), charter, &shared, &runtime, resume).await?;
            runtime.tasks.spawn(guarded(shared.clone(), starter.run_with(recovered)));
        } else {
            runtime.tasks.spawn(guarded(shared.clone(), starter.run()));
        }
        let room = Arc::new(Semaphore::new(QUEUED_BYTES));
        Ok(Arc::new(Handle { shared, running, commands: sender, room, scope }))
    }
}

struct Handle {
    shared: Arc<Shared>,
    running: Running,
    commands: mpsc::Sender<Command>,
    /// Bytes of proposals that may wait.
    room: Arc<Semaphore>,
    scope: Scope,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Handle {
    fn is_stopped(&self) -> bool {
        self.shared.progress.borrow().stopped
    }

    /// Who leads, as far as this node says.
    fn leader(&self) -> (Epoch, Leader) {
        self.shared.announcer.last().map_or((Epoch(0), Leader::Unknown), |last| (last.epoch, last.leader))
    }

    fn hint(&self) -> Option<NodeId> {
        match self.leader() {
            (_, Leader::Other(node)) => Some(node),
            _ => None,
        }
    }

    fn leads(&self, epoch: Epoch) -> bool {
        matches!(self.leader(), (of, Leader::Me { .. }) if of == epoch)
    }

    /// Gives an entry to openraft and waits for its outcome. It waits no longer than a leader may be cut off, or a disk
    /// hang.
    async fn append(
        &self,
        raft: &Raft,
        epoch: Epoch,
        data: Bytes,
        room: OwnedSemaphorePermit,
    ) -> Result<LogIndex, ProposeError> {
        let ticket = Ticket::new(epoch, room);
        let proposal = Proposal { ticket: ticket.clone(), data };
        let Ok(mut outcome) = raft.client_write_ff(proposal).await else {
            return Err(if self.is_stopped() { ProposeError::Stopped } else { ProposeError::Unknown });
        };
        let clock = &self.shared.clock;
        let patience = self.shared.timings.election_max;
        let deadline = clock.now().plus(patience * 10);
        let mut deposed = 0;
        let result = loop {
            match clock.timeout(patience, &mut outcome).await {
                Ok(Ok(result)) => break result,
                // openraft has ended, or forgotten who asked.
                Ok(Err(_)) => return Err(ProposeError::Unknown),
                Err(_) => {}
            }
            deposed += u32::from(!self.leads(epoch));
            if deposed >= 2 || self.is_stopped() || clock.now() >= deadline {
                return Err(ProposeError::Unknown);
            }
        };
        match result {
            Ok(written) if epoch_of(&written.log_id) == epoch => Ok(index_of(&written.log_id)),
            // It met another epoch, and became an empty entry there.
            Ok(_) => Err(ProposeError::NotLeader { hint: self.hint() }),
            // Replaced here by another leader's, but it may live on at a node that leads later.
            Err(_) if ticket.is_appended() => Err(ProposeError::Unknown),
            Err(ClientWriteError::ForwardToLeader(to)) => {
                Err(ProposeError::NotLeader { hint: to.leader_id.and_then(node_of) })
            }
            Err(ClientWriteError::ChangeMembershipError(_)) => Err(ProposeError::Unknown),
        }
    }

    /// Asks whoever leads.
    async fn barrier(&self, peers: &Peers) -> Option<LogIndex> {
        let within = self.shared.timings.election_max;
        let confirmed = match self.leader() {
            (_, Leader::Me { .. }) => self
                .shared
                .clock
                .timeout(within, peers.confirm())
                .await
                .unwrap_or(Err("no answer".to_owned())),
            (_, Leader::Other(node)) => match peers.call(node, Request::Read, within).await {
                Some(Answer::Read(read)) => read,
                _ => Err(format!("node {node} does not answer")),
            },
            (_, Leader::Unknown) => Err("nobody leads".to_owned()),
        };
        confirmed.inspect_err(|problem| tracing::debug!(problem, "a read barrier was not confirmed")).ok()
    }

    async fn keep(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        let peers = self.running.get().ok_or(CompactError::Foreign)?;
        let raft = peers.raft.get().ok_or(CompactError::Foreign)?;
        let _one_at_a_time = peers.keeping.lock().await;
        let committed = self.shared.progress.borrow().committed;
        let kept = keep(&peers.parts, committed, snapshot, encode_members).await?;
        // openraft lets go of the entries, as soon as no follower needs them. One that has arrived, and that openraft did not
        // want, may be ahead of what it knows to be committed: that it is not told of.
        if kept <= committed && raft.trigger().snapshot().await.is_ok() {
            let behind = LogIndex(kept.0.saturating_sub(self.shared.tail));
            let clock = &self.shared.clock;
            let deadline = clock.now().plus(self.shared.timings.election_max);
            while peers.parts.log.base().index < behind && !self.is_stopped() && clock.now() < deadline {
                clock.sleep(self.shared.timings.tick()).await;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl RunningBackend for Handle {
    fn leader_events(&self) -> LeaderEvents {
        self.shared.announcer.subscribe()
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        self.shared.committed(after)
    }

    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError> {
        if entry.is_empty() || entry.len() > MAX_ENTRY_BYTES {
            return Err(ProposeError::TooLarge);
        }
        if self.is_stopped() {
            return Err(ProposeError::Stopped);
        }
        let bytes = u32::try_from(entry.len().max(LEAST_ROOM)).map_err(|_| ProposeError::TooLarge)?;
        let raft = self.running.get().and_then(|peers| peers.raft.get());
        let Some(raft) = raft.filter(|_| self.leads(epoch)) else {
            return Err(ProposeError::NotLeader { hint: self.hint() });
        };
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| ProposeError::Busy)?;
        self.append(raft, epoch, entry, room).await
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        let stopped = || Unavailable("the backend has stopped".to_owned());
        let clock = &self.shared.clock;
        let deadline = clock.now().plus(self.shared.timings.election_max * 4);
        loop {
            if self.is_stopped() {
                return Err(stopped());
            }
            if let Some(peers) = self.running.get()
                && let Some(index) = self.barrier(peers).await
            {
                return Ok(index);
            }
            if clock.now() >= deadline || self.running.get().is_none() {
                return Err(Unavailable(self.shared.status().awaited()));
            }
            clock.sleep(self.shared.timings.heartbeat).await;
        }
    }

    async fn compact(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        if self.is_stopped() {
            return Err(CompactError::Unavailable("the backend has stopped".to_owned()));
        }
        let kept = self.keep(snapshot).await;
        if let Err(CompactError::Storage(sentence)) = &kept {
            self.shared.fail(sentence.clone());
        }
        kept
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<(), MembershipError> {
        let (done, changed) = oneshot::channel();
        let stopped = || MembershipError::Unavailable("the backend has stopped".to_owned());
        let events = self.leader_events();
        self.commands.send(Command::Change { change, done }).await.map_err(|_| stopped())?;
        // The engine goes on waiting for a quorum for as long as it is cut off from one.
        tokio::select! { biased;
            changed = changed => changed.unwrap_or_else(|_| Err(stopped())),
            () = end_of_leadership(events) => {
                let lost = "this node has lost its quorum; the change may still come about";
                Err(MembershipError::Unavailable(lost.to_owned()))
            }
        }
    }

    async fn resign(&self, epoch: Epoch) {
        let (done, resigned) = oneshot::channel();
        if self.commands.send(Command::Resign { epoch, done }).await.is_ok() {
            // An engine that has ended leads nothing.
            let _ended = resigned.await;
        }
    }

    fn status(&self) -> Status {
        self.shared.status()
    }

    async fn shutdown(&self) {
        let (done, left) = oneshot::channel();
        let leaving = async {
            if self.commands.send(Command::Shutdown { done }).await.is_ok() {
                let _ended = left.await;
            }
        };
        // A disk that hangs must not keep the process: then this is a crash, and as safe as one.
        let patience = self.shared.timings.election_max * 4;
        if self.shared.clock.timeout(patience, leaving).await.is_err() {
            tracing::warn!("the backend was stopped without waiting for its disk");
        }
        self.shared.stop();
        self.scope.kill();
    }
}

/// Resolves when a node that leads does not any more; never, on another.
async fn end_of_leadership(mut events: LeaderEvents) {
    let leads = |event: LeaderEvent| matches!(event.leader, Leader::Me { .. });
    if !events.next().await.is_some_and(leads) {
        return std::future::pending().await;
    }
    while events.next().await.is_some_and(leads) {}
}
