//! The task that gives openraft the clock's orders and tells everybody else what openraft says: it says who leads, when to
//! beat, when to campaign, and drives changes of the members and the end of a leadership. It never waits for openraft.

mod campaign;
mod command;
mod founding;
mod leaving;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use quorate_consensus_kit::{
    change::Change,
    membership::{Member, Membership},
    transport::Event,
};
use quorate_core::{
    consensus::{Leader, LogId},
    ids::{DirectoryId, Epoch, LogIndex, NodeId},
    runtime::{Moment, Runtime},
};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use command::Command;
pub(crate) use founding::{Starter, build};

use crate::{
    config::{Raft, Shared, Timings},
    machine::Opened,
    peers::{Peers, View},
};

/// Events that are taken before what follows from them is done.
const TAKEN_AT_ONCE: usize = 256;

type Metrics = watch::Receiver<openraft::RaftMetrics<u64, Member>>;

pub(crate) struct Engine {
    me: NodeId,
    directory: DirectoryId,
    log_id: LogId,
    timings: Timings,
    runtime: Runtime,
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    raft: Raft,
    metrics: Metrics,
    opened: Opened,
    events: mpsc::Receiver<Event>,
    commands: mpsc::Receiver<Command>,
    state: State,
}

/// What the engine remembers besides openraft.
struct State {
    view: View,
    /// When openraft has reported it.
    reported: Moment,
    started: Moment,
    next_tick: Moment,
    next_beat: Moment,
    /// Since when this node leads and hears no quorum.
    unheard: Option<Moment>,
    /// The outcome of the question whether the others would vote for this node.
    canvass: Option<oneshot::Receiver<bool>>,
    change: Option<Change>,
    /// A step of the change that openraft takes.
    step: Option<oneshot::Receiver<Result<LogIndex, String>>>,
    resigning: Vec<Resigning>,
    leaving: Option<Leaving>,
    /// Since when leadership is being handed over, and whether the successor is being told.
    handing_over: Option<(Moment, bool)>,
    /// Until the successor has been told.
    telling: Option<oneshot::Receiver<()>>,
}

/// Leadership that is being given up.
struct Resigning {
    epoch: Epoch,
    done: oneshot::Sender<()>,
}

/// The end of the engine.
struct Leaving {
    deadline: Moment,
    done: oneshot::Sender<()>,
}

impl State {
    fn new(view: View, now: Moment) -> Self {
        Self {
            view,
            reported: now,
            started: now,
            next_tick: now,
            next_beat: now,
            unheard: None,
            canvass: None,
            change: None,
            step: None,
            resigning: Vec::new(),
            leaving: None,
            handing_over: None,
            telling: None,
        }
    }
}

impl Engine {
    /// Runs until the backend is shut down, killed, or fails for good.
    pub(crate) async fn run(mut self) {
        self.begin();
        loop {
            self.wait().await;
            if let Some(ended) = self.state.view.ended.take() {
                return self.shared.fail(ended);
            }
            self.drive();
            if self.has_left() {
                break;
            }
        }
        // openraft may wait for a disk that hangs. Whoever shuts down does not wait for ever, and kills it then.
        if let Err(error) = self.raft.shutdown().await {
            tracing::debug!(%error, "openraft did not end well");
        }
        if let Err(error) = self.peers.parts.log.close().await {
            self.shared.fail(error.to_string());
        }
        self.shared.stop();
        if let Some(leaving) = self.state.leaving.take() {
            // Whoever asked may have stopped waiting.
            let _gone = leaving.done.send(());
        }
    }

    /// Waits for something to happen, and takes what has.
    async fn wait(&mut self) {
        let next_tick = self.state.next_tick;
        let mut reported = self.state.reported == self.state.started;
        tokio::select! { biased;
            () = self.runtime.clock.sleep_until(next_tick) => {}
            command = self.commands.recv() => match command {
                Some(command) => self.command(command),
                // The handle was dropped: whoever did it is about to kill this task, as a crash would.
                None => std::future::pending::<()>().await,
            },
            Some(event) = self.events.recv() => self.peers.hear(event),
            changed = self.metrics.changed() => match changed {
                Ok(()) => reported = true,
                // openraft's core has ended without a word.
                Err(_) => {
                    let sentence = "the Raft engine met an impossible state and panicked";
                    self.state.view.ended = Some(sentence.to_owned());
                    return;
                }
            },
        }
        for _ in 0..TAKEN_AT_ONCE {
            let Ok(event) = self.events.try_recv() else { break };
            self.peers.hear(event);
        }
        let now = self.runtime.clock.now();
        if reported || self.metrics.has_changed().unwrap_or(false) {
            // The report is copied at once: openraft cannot write the next one while anybody looks at it.
            self.state.view = View::of(&self.metrics.borrow_and_update());
            self.state.reported = now;
        }
        if now >= self.state.next_tick {
            self.state.next_tick = now.plus(self.timings.tick());
        }
    }

    /// Does everything that is due.
    fn drive(&mut self) {
        let now = self.runtime.clock.now();
        self.mute(now);
        self.beat(now);
        self.announce(now);
        self.drive_campaign(now);
        self.drive_change(now);
        self.drive_leaving(now);
        self.show();
    }

    /// Whether openraft goes on. It writes to the disk itself, and says nothing while it waits for it.
    fn is_responsive(&self, now: Moment) -> bool {
        now.since(self.state.reported) < self.timings.election_min
    }

    /// A leader whom the others hear, and who hears nobody, would keep them from electing another one for ever. So it is
    /// silent for longer than they wait, and then tries again for a while: if nobody else could be elected, it must be
    /// heard.
    fn mute(&mut self, now: Moment) {
        let age = self.quorum_age(now);
        if !self.state.view.leads || age.is_some_and(|age| age <= self.timings.election_min) {
            self.state.unheard = None;
            return self.peers.muted.store(false, Ordering::Relaxed);
        }
        let passed = now.since(*self.state.unheard.get_or_insert(now));
        let turn = passed.as_millis() / self.timings.election_max.as_millis().max(1);
        self.peers.muted.store(!turn.is_multiple_of(3), Ordering::Relaxed);
    }

    /// For a leader: how long ago a quorum answered; `None` if it never has.
    fn quorum_age(&self, now: Moment) -> Option<Duration> {
        self.state.view.quorum_age.map(|age| age + now.since(self.state.reported))
    }

    /// A leader says that it leads.
    fn beat(&mut self, now: Moment) {
        if self.state.view.leads && now >= self.state.next_beat && self.is_responsive(now) {
            self.state.next_beat = now.plus(self.timings.heartbeat);
            self.order(Order::Beat);
        }
    }

    /// Has openraft do something. An openraft that has ended is noticed by its reports.
    fn order(&self, order: Order) {
        let raft = self.raft.clone();
        self.runtime.tasks.spawn(async move {
            let trigger = raft.trigger();
            let _ended = match order {
                Order::Beat => trigger.heartbeat().await,
                Order::Elect => trigger.elect().await,
            };
        });
    }

    /// Tells whoever subscribed who leads.
    fn announce(&self, now: Moment) {
        let view = &self.state.view;
        let epoch = Epoch(view.term);
        let leader = match view.leader {
            _ if view.leads => self.own_leadership(epoch, now),
            Some(leader) if leader != self.me && self.silence(now) <= self.timings.election_max => {
                Leader::Other(leader)
            }
            _ => Leader::Unknown,
        };
        self.shared.announcer.announce(epoch, leader);
    }

    /// A leader has applied what opens its epoch, and a quorum has answered it so lately that no other node can lead:
    /// openraft itself leads for ever.
    fn own_leadership(&self, epoch: Epoch, now: Moment) -> Leader {
        let age = self.quorum_age(now);
        let is_heard = age.is_some_and(|age| age + self.timings.tick() <= self.timings.election_min);
        match *self.opened.lock() {
            Some((opened, opened_at)) if opened == epoch && is_heard => Leader::Me { opened_at },
            _ => Leader::Unknown,
        }
    }

    fn silence(&self, now: Moment) -> Duration {
        self.peers.election.lock().silence(now)
    }

    fn leads(&self) -> bool {
        self.state.view.leads
    }

    /// Updates what the status says.
    fn show(&self) {
        let view = &self.state.view;
        let announced = self.shared.announcer.last();
        let mut facts = self.shared.facts.lock();
        facts.epoch = Epoch(view.term);
        facts.leader = match announced.map(|last| last.leader) {
            Some(Leader::Me { .. }) => Some(self.me),
            Some(Leader::Other(leader)) => Some(leader),
            _ => None,
        };
        facts.matched = if view.leads { view.matched.clone() } else { BTreeMap::new() };
        facts.membership = self.membership();
    }

    fn membership(&self) -> Membership {
        self.peers.membership()
    }

    /// Whether this node votes, with this directory.
    fn is_voter(&self) -> bool {
        self.membership().is_voter(self.me, self.directory)
    }
}

enum Order {
    Beat,
    Elect,
}
