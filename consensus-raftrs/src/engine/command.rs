//! What the engine is asked to do.

use bytes::Bytes;
use quorate_consensus_kit::change::{Change, Changed, Need, Situation};
use quorate_core::{
    consensus::{MembershipChange, MembershipError, ProposeError},
    ids::Epoch,
    runtime::Moment,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Engine, Leaving, Resigning};
use crate::{
    node::{Appended, Broken},
    proposals::Outcome,
    reads::Barrier,
    storage::{conf_change, members},
};

/// How long a new voter may take to catch up, before the change is given up. It may be asked for again.
const CATCHING_UP: std::time::Duration = std::time::Duration::from_secs(30);

pub(crate) enum Command {
    Propose { epoch: Epoch, entry: Bytes, room: OwnedSemaphorePermit, done: oneshot::Sender<Outcome> },
    Read { done: oneshot::Sender<Barrier> },
    Change { change: MembershipChange, done: oneshot::Sender<Changed> },
    Resign { epoch: Epoch, done: oneshot::Sender<()> },
    Shutdown { done: oneshot::Sender<()> },
}

impl Engine {
    pub(super) fn command(&mut self, command: Command) -> Result<(), Broken> {
        let now = self.runtime.clock.now();
        match command {
            Command::Propose { epoch, entry, room, done } => {
                let proposed = self.propose(epoch, &entry, done);
                drop(room);
                return proposed;
            }
            Command::Read { done } => self.state.reads.add(now.plus(self.patience()), done),
            Command::Change { change, done } => {
                let deadline = now.plus(CATCHING_UP);
                if self.state.change.is_some() {
                    // Whoever asked may have stopped waiting.
                    let _gone = done.send(Err(MembershipError::InProgress));
                } else {
                    self.state.change = Some(Change::new(change, deadline, done));
                }
            }
            Command::Resign { epoch, done } => {
                let deadline = now.plus(self.timings.election_min);
                self.state.resigning.push(Resigning { epoch, deadline, done });
            }
            Command::Shutdown { done } => {
                let deadline = now.plus(self.timings.election_max);
                self.state.leaving = Some(Leaving { deadline, done });
            }
        }
        Ok(())
    }

    /// Appends an entry if, and only if, this node leads the epoch. raft-rs would forward it otherwise, and its outcome
    /// could not be known.
    fn propose(&mut self, epoch: Epoch, entry: &Bytes, done: oneshot::Sender<Outcome>) -> Result<(), Broken> {
        let refused = if !self.node.is_leader() || self.node.term() != epoch {
            ProposeError::NotLeader { hint: self.node.leader().filter(|leader| *leader != self.me) }
        } else {
            match self.node.propose(entry.to_vec())? {
                Appended::At(index) => {
                    self.state.proposals.add(index, epoch, done);
                    return Ok(());
                }
                Appended::Refused => ProposeError::Busy,
            }
        };
        let _gone = done.send(Err(refused));
        Ok(())
    }

    /// Takes the next step of a change of the members. Whether Raft has something to do by that.
    pub(super) fn drive_change(&mut self, now: Moment) -> Result<bool, Broken> {
        let Some(mut change) = self.state.change.take() else { return Ok(false) };
        let (_, membership) = members(&self.parts.history);
        let situation = Situation {
            me: self.me,
            log: self.log_id,
            now,
            leads: self.node.is_leader(),
            applied: self.state.applied,
            membership: &membership,
            matched: self.node.progress(change.node()).map(|(matched, ..)| matched),
            target: self.state.applied,
        };
        match change.next(&situation) {
            Need::Done(result) => {
                change.finish(result);
                return Ok(false);
            }
            Need::Nothing => {}
            Need::Meet(node, endpoint, met) => {
                let transport = self.shared.transport.clone();
                self.runtime.tasks.spawn(async move {
                    // The change may have been given up.
                    let _gone = met.send(transport.meet(node, &endpoint).await);
                });
            }
            Need::HandOver => {
                change.finish(Err(MembershipError::NotLeader));
                self.hand_over()?;
                return Ok(true);
            }
            Need::Append(step) => {
                if self.node.has_pending_change() || self.node.is_handing_over() {
                    self.state.change = Some(change);
                    return Ok(false);
                }
                let appended = self.node.propose_change(conf_change(&step))?;
                if let Appended::At(index) = appended {
                    change.appended(index);
                }
                self.state.change = Some(change);
                return Ok(appended != Appended::Refused);
            }
        }
        self.state.change = Some(change);
        Ok(false)
    }

    /// Goes on with giving up leadership. Whether Raft has something to do by that.
    pub(super) fn drive_resigning(&mut self, now: Moment) -> Result<bool, Broken> {
        let (leads, term) = (self.node.is_leader(), self.node.term());
        let mut forced = false;
        let mut wanted = self.state.leaving.is_some() && leads && !self.node.is_handing_over();
        for Resigning { epoch, deadline, done } in std::mem::take(&mut self.state.resigning) {
            if !leads || epoch != term {
                let _gone = done.send(());
                continue;
            }
            wanted |= !self.node.is_handing_over();
            forced |= deadline <= now;
            self.state.resigning.push(Resigning { epoch, deadline, done });
        }
        if forced {
            self.be_quiet();
            self.node.step_down()?;
            return Ok(true);
        }
        if wanted {
            self.hand_over()?;
        }
        Ok(wanted)
    }

    /// Hands leadership to the best successor, or just gives it up where there is none.
    fn hand_over(&mut self) -> Result<(), Broken> {
        self.be_quiet();
        match self.successor() {
            Some(successor) => self.node.transfer(successor),
            None => self.node.step_down(),
        }
    }

    fn be_quiet(&mut self) {
        let ticks = self.timings.ticks(self.timings.election_max * 3);
        self.node.be_quiet(u64::try_from(ticks).unwrap_or(u64::MAX));
    }

    /// Whether the engine may end: asked to, and nobody loses a leader by it.
    pub(super) fn has_left(&self) -> bool {
        let leaving = self.state.leaving.as_ref();
        leaving.is_some_and(|leaving| !self.node.is_leader() || self.runtime.clock.now() >= leaving.deadline)
    }
}
