//! The task that owns the Raft node. It hears commands, peers and the clock, and does what Raft says is ready, in the
//! order on which safety rests (see `ready`).

mod command;
mod founding;
mod ready;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use quorate_consensus_kit::{change::Change, log::Vote, snapshot::Staged, transport::Event};
use quorate_core::{
    consensus::{Leader, LogId},
    ids::{DirectoryId, Epoch, LogIndex, NodeId},
    runtime::{Moment, Runtime},
};
use tokio::sync::{mpsc, oneshot};

pub(crate) use command::Command;
pub(crate) use founding::{Starter, build};

use crate::{
    config::{Parts, Shared, Timings},
    node::{Broken, Node},
    proposals::Proposals,
    reads::Reads,
    storage::members,
    transport::decode,
};

/// Commands and events that are taken before what follows from them is done. One sync serves them all.
const TAKEN_AT_ONCE: usize = 256;

/// How long a command waits for a quorum before its outcome is called unknown, in longest election timeouts.
const PATIENCE: u32 = 4;

pub(crate) struct Engine {
    pub(crate) me: NodeId,
    pub(crate) directory: DirectoryId,
    pub(crate) log_id: LogId,
    pub(crate) timings: Timings,
    pub(crate) runtime: Runtime,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) node: Node,
    pub(crate) parts: Parts,
    pub(crate) state: State,
}

/// What the engine remembers besides the Raft node.
pub(crate) struct State {
    pub(crate) proposals: Proposals,
    pub(crate) reads: Reads,
    change: Option<Change>,
    resigning: Vec<Resigning>,
    leaving: Option<Leaving>,
    /// The newest vote that is durable.
    pub(crate) vote: Vote,
    /// Entries up to here are committed, durable here, and published.
    pub(crate) applied: LogIndex,
    /// The entry that opened the newest epoch that this node led.
    opened: Option<(Epoch, LogIndex)>,
    contacts: BTreeMap<NodeId, Moment>,
    received: Option<Received>,
    /// Peers to whom messages were lost, told to Raft when it may be told.
    lost: Vec<NodeId>,
    next_tick: Moment,
}

/// Leadership that is being given up.
struct Resigning {
    epoch: Epoch,
    deadline: Moment,
    done: oneshot::Sender<()>,
}

/// The end of the engine.
struct Leaving {
    deadline: Moment,
    done: oneshot::Sender<()>,
}

/// A snapshot that arrived and waits for Raft to want it.
struct Received {
    staged: Staged,
    engine: bytes::Bytes,
}

impl State {
    pub(crate) fn new(vote: Vote, life: u64, now: Moment) -> Self {
        Self {
            proposals: Proposals::default(),
            reads: Reads::new(life),
            change: None,
            resigning: Vec::new(),
            leaving: None,
            vote,
            applied: vote.commit,
            opened: None,
            contacts: BTreeMap::new(),
            received: None,
            lost: Vec::new(),
            next_tick: now,
        }
    }
}

impl Engine {
    /// Runs until the backend is shut down, killed, or fails for good.
    pub(crate) async fn run(mut self) {
        if let Err(Broken(sentence)) = self.work().await {
            self.shared.fail(sentence);
            return;
        }
        if let Err(error) = self.parts.log.close().await {
            self.shared.fail(error.to_string());
        }
        self.shared.stop();
        if let Some(leaving) = self.state.leaving.take() {
            // Whoever asked may have stopped waiting.
            let _gone = leaving.done.send(());
        }
    }

    async fn work(&mut self) -> Result<(), Broken> {
        self.state.next_tick = self.runtime.clock.now();
        let (_, membership) = members(&self.parts.history);
        let alone = membership.voters.len() == 1 && membership.is_voter(self.me, self.directory);
        if alone {
            self.node.campaign()?;
        }
        loop {
            self.settle().await?;
            if self.has_left() {
                return Ok(());
            }
            self.wait().await?;
        }
    }

    /// Waits for something to happen, and takes what has.
    async fn wait(&mut self) -> Result<(), Broken> {
        let next_tick = self.state.next_tick;
        tokio::select! { biased;
            () = self.runtime.clock.sleep_until(next_tick) => {}
            command = self.commands.recv() => match command {
                Some(command) => self.command(command)?,
                // The handle was dropped: whoever did it is about to kill this task, as a crash would.
                None => std::future::pending::<()>().await,
            },
            Some(event) = self.events.recv() => self.event(event).await?,
        }
        for _ in 0..TAKEN_AT_ONCE {
            let Ok(event) = self.events.try_recv() else { break };
            self.event(event).await?;
        }
        for _ in 0..TAKEN_AT_ONCE {
            let Ok(command) = self.commands.try_recv() else { break };
            self.command(command)?;
        }
        self.tick()
    }

    fn tick(&mut self) -> Result<(), Broken> {
        let now = self.runtime.clock.now();
        if now < self.state.next_tick {
            return Ok(());
        }
        // After a pause, time that was missed is not made up for: whoever was silent meanwhile may have been heard.
        let tick = self.timings.tick();
        let next = self.state.next_tick.plus(tick);
        self.state.next_tick = if next > now { next } else { now.plus(tick) };
        let (_, membership) = members(&self.parts.history);
        self.node.tick(membership.is_voter(self.me, self.directory))
    }

    async fn event(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Message { from, body } => self.message(from, body),
            Event::Snapshot { from, body, engine, staged, taken } => {
                self.snapshot(from, body, Received { staged, engine }, taken).await
            }
            Event::Unreachable(node) => self.node.unreachable(node),
            Event::SnapshotSent { to, taken } => self.node.snapshot_sent(to, taken),
        }
    }

    fn message(&mut self, from: NodeId, body: bytes::Bytes) -> Result<(), Broken> {
        let message = match decode(body, from, self.me) {
            Ok(message) if message.snapshot.is_none() => message,
            Ok(_) => return Ok(()),
            Err(problem) => {
                // Also a read request that a peer which does not lead any more passes on in another's name: whoever
                // made it makes it again.
                tracing::debug!(node = from.0, problem, "a peer's message was not heard");
                return Ok(());
            }
        };
        self.state.contacts.insert(from, self.runtime.clock.now());
        self.node.step(message)
    }

    /// Gives a snapshot to Raft. If Raft wants it, it is installed at once, and the sender told.
    async fn snapshot(
        &mut self,
        from: NodeId,
        body: bytes::Bytes,
        received: Received,
        taken: oneshot::Sender<bool>,
    ) -> Result<(), Broken> {
        let meta = received.staged.meta();
        let message = decode(body, from, self.me).ok().filter(|message| {
            let of = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
            of.is_some_and(|of| (of.index, of.term) == (meta.index.0, meta.epoch.0))
        });
        if let Some(message) = message {
            self.state.contacts.insert(from, self.runtime.clock.now());
            self.state.received = Some(received);
            self.node.step(message)?;
            self.settle().await?;
            self.state.received = None;
        }
        // The sender may have stopped waiting.
        let _gone = taken.send(self.state.applied >= meta.index);
        Ok(())
    }

    /// Does everything that is due, until nothing is.
    async fn settle(&mut self) -> Result<(), Broken> {
        loop {
            self.ready().await?;
            for node in std::mem::take(&mut self.state.lost) {
                self.node.unreachable(node)?;
            }
            if !self.drive()? {
                break;
            }
        }
        self.announce();
        self.show();
        Ok(())
    }

    /// Takes the next step of what takes several. Whether Raft has something to do by that.
    fn drive(&mut self) -> Result<bool, Broken> {
        let now = self.runtime.clock.now();
        let leading = self.node.is_leader().then(|| self.node.term());
        self.state.proposals.lead(leading, now.plus(self.timings.election_max * 2));
        self.state.proposals.expire(now);
        let awaited = || self.shared.status().awaited();
        self.state.reads.expire(now, awaited);
        let mut busy = false;
        // Without a known leader the request would be dropped.
        if self.node.leader().is_some()
            && let Some(context) = self.state.reads.next(now, self.timings.heartbeat * 2)
        {
            self.node.read_index(context)?;
            busy = true;
        }
        busy |= self.drive_change(now)?;
        busy |= self.drive_resigning(now)?;
        Ok(busy)
    }

    /// Tells whoever subscribed who leads.
    fn announce(&mut self) {
        let epoch = self.node.term();
        let leader = match self.node.leader() {
            Some(leader) if leader == self.me => match self.state.opened {
                Some((opened, opened_at)) if opened == epoch && self.node.is_leader() => {
                    Leader::Me { opened_at }
                }
                _ => Leader::Unknown,
            },
            Some(leader) => Leader::Other(leader),
            None => Leader::Unknown,
        };
        self.shared.announcer.announce(epoch, leader);
    }

    /// Updates what the status says.
    fn show(&self) {
        let (_, membership) = members(&self.parts.history);
        let leads = self.node.is_leader();
        let matched = |(node, _)| Some((node, self.node.progress(node)?.0));
        let matched =
            if leads { membership.members().filter_map(matched).collect() } else { BTreeMap::new() };
        let mut facts = self.shared.facts.lock();
        facts.epoch = self.node.term();
        facts.leader = self.node.leader();
        facts.contacts.clone_from(&self.state.contacts);
        facts.matched = matched;
        facts.membership = membership;
    }

    fn patience(&self) -> Duration {
        self.timings.election_max * PATIENCE
    }

    /// The voter that is best placed to lead next.
    fn successor(&self) -> Option<NodeId> {
        let (_, membership) = members(&self.parts.history);
        let others = membership.voters.keys().copied().filter(|node| *node != self.me);
        let fit = others.filter_map(|node| {
            let (matched, active, snapshot) = self.node.progress(node)?;
            (active && !snapshot).then_some((matched, node))
        });
        fit.max().map(|(_, node)| node)
    }
}
