//! What the engine is asked to do.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};
use quorate_consensus_kit::{
    change::{Change, Changed, Need, Situation},
    membership::{Member, MemberChange},
};
use quorate_core::{
    consensus::{MembershipChange, MembershipError},
    ids::{Epoch, LogIndex, NodeId},
    runtime::{Clock, Moment},
};
use tokio::sync::oneshot;

use super::{Engine, Leaving, Resigning};
use crate::{
    config::Raft,
    types::{index_of, raft_id},
};

/// How long a new voter may take to catch up, before the change is given up. It may be asked for again.
const CATCHING_UP: Duration = Duration::from_secs(30);

pub(crate) enum Command {
    Change { change: MembershipChange, done: oneshot::Sender<Changed> },
    Resign { epoch: Epoch, done: oneshot::Sender<()> },
    Shutdown { done: oneshot::Sender<()> },
}

impl Engine {
    pub(super) fn command(&mut self, command: Command) {
        let now = self.runtime.clock.now();
        match command {
            Command::Change { change, done } => {
                if self.state.change.is_some() {
                    // Whoever asked may have stopped waiting.
                    let _gone = done.send(Err(MembershipError::InProgress));
                } else {
                    self.state.change = Some(Change::new(change, now.plus(CATCHING_UP), done));
                }
            }
            Command::Resign { epoch, done } => self.state.resigning.push(Resigning { epoch, done }),
            Command::Shutdown { done } => {
                let deadline = now.plus(self.timings.election_max);
                self.state.leaving = Some(Leaving { deadline, done });
            }
        }
    }

    /// Takes the next step of a change of the members.
    pub(super) fn drive_change(&mut self, now: Moment) {
        let applied = self.shared.progress.borrow().committed;
        let leads = self.leads();
        if let Some(step) = &mut self.state.step {
            match step.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) if leads => return,
                Ok(Ok(index)) => {
                    if let Some(change) = &mut self.state.change {
                        change.appended(index);
                    }
                }
                Ok(Err(problem)) => tracing::debug!(problem, "a change of the voters has not come about"),
                Err(_) => {}
            }
            self.state.step = None;
        }
        let Some(mut change) = self.state.change.take() else { return self.finish_half_a_change(now) };
        let membership = self.membership();
        let situation = Situation {
            me: self.me,
            log: self.log_id,
            now,
            leads,
            applied,
            membership: &membership,
            matched: self.state.view.matched.get(&change.node()).copied(),
            target: applied,
        };
        match change.next(&situation) {
            Need::Done(result) => return change.finish(result),
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
                return self.hand_over(now);
            }
            Need::Append(step) => self.take_step(self.step(step)),
        }
        self.state.change = Some(change);
    }

    /// The step in openraft's words.
    fn step(&self, change: MemberChange) -> Step {
        let (_, members) = self.peers.members();
        match change {
            // The entry that makes it a member is not appended yet; its index is not below this one.
            MemberChange::AddLearner(node, member) => {
                Step::AddLearner(node, Member { since: self.state.view.last.next(), ..member })
            }
            MemberChange::Promote(node) => Step::Promote(node),
            MemberChange::Remove(node) if members.voter_ids().any(|voter| voter == raft_id(node)) => {
                Step::RemoveVoter(node)
            }
            MemberChange::Remove(node) => Step::RemoveLearner(node),
        }
    }

    fn take_step(&mut self, step: Step) {
        let (done, outcome) = oneshot::channel();
        self.state.step = Some(outcome);
        let (raft, clock, pause) = (self.raft.clone(), self.runtime.clock.clone(), self.timings.heartbeat);
        self.runtime.tasks.spawn(async move {
            let stepped = clock.timeout(CATCHING_UP, step.take(&raft, &clock, pause)).await;
            // The engine may have given it up.
            let _gone = done.send(stepped.unwrap_or_else(|_| Err("no quorum".to_owned())));
        });
    }

    /// A leader that was lost between the two halves of a change has left the voters of before and after both needed.
    fn finish_half_a_change(&mut self, now: Moment) {
        let (at, members) = self.peers.members();
        let half = members.membership().get_joint_config().len() > 1;
        if half && self.leads() && self.state.step.is_none() && self.is_responsive(now) {
            tracing::info!(entry = at.0, "a change of the voters is half done; finishing it");
            self.take_step(Step::Finish);
        }
    }
}

/// What openraft is asked to do about the members.
enum Step {
    AddLearner(NodeId, Member),
    Promote(NodeId),
    RemoveVoter(NodeId),
    RemoveLearner(NodeId),
    /// What another leader has half done.
    Finish,
}

impl Step {
    /// Takes the step, once the step before it is committed.
    async fn take(&self, raft: &Raft, clock: &Clock, pause: Duration) -> Result<LogIndex, String> {
        let only = |node: &NodeId| BTreeSet::from([raft_id(*node)]);
        loop {
            let taken = match self {
                Self::AddLearner(node, member) => {
                    raft.add_learner(raft_id(*node), member.clone(), false).await
                }
                Self::Promote(node) => {
                    raft.change_membership(ChangeMembers::AddVoterIds(only(node)), true).await
                }
                Self::RemoveVoter(node) => {
                    raft.change_membership(ChangeMembers::RemoveVoters(only(node)), false).await
                }
                Self::RemoveLearner(node) => {
                    raft.change_membership(ChangeMembers::RemoveNodes(only(node)), false).await
                }
                Self::Finish => {
                    raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await
                }
            };
            match taken {
                Ok(done) => return Ok(index_of(&done.log_id)),
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) => clock.sleep(pause).await,
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
