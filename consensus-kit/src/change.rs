//! One change of the voters at a time, driven by what the log says.
//!
//! A node that is to vote first learns: it gets the log, and votes when it has caught up. Every step looks at the
//! members as they are, so that a change that was interrupted is simply asked for again.

use quorate_core::{
    consensus::{LogId, MembershipChange, MembershipError},
    ids::{DirectoryId, LogIndex, NodeId},
    runtime::Moment,
};
use tokio::sync::oneshot;

use crate::{
    founding::Phase,
    membership::{Member, MemberChange, Membership},
};

/// What became of a change.
pub type Changed = Result<(), MembershipError>;
/// Who answered, or why nobody did.
pub type Met = Result<(DirectoryId, Phase), String>;

/// A change under way.
pub struct Change {
    wanted: MembershipChange,
    deadline: Moment,
    /// The step that was appended last, and waits to be applied.
    appended: Option<LogIndex>,
    meeting: Option<oneshot::Receiver<Met>>,
    done: oneshot::Sender<Changed>,
}

/// What a change needs now.
pub enum Need {
    /// To wait.
    Nothing,
    /// To ask the node who it is; the answer goes to the sender.
    Meet(NodeId, String, oneshot::Sender<Met>),
    /// To append a step.
    Append(MemberChange),
    /// To hand leadership over: a leader does not remove itself.
    HandOver,
    /// It has ended.
    Done(Changed),
}

/// How things stand.
pub struct Situation<'a> {
    /// This node.
    pub me: NodeId,
    /// The cluster's log.
    pub log: LogId,
    /// Now.
    pub now: Moment,
    /// Whether this node leads.
    pub leads: bool,
    /// The last entry that is applied.
    pub applied: LogIndex,
    /// The members as it left them.
    pub membership: &'a Membership,
    /// How far the node that is to be added has come, and how far it must.
    pub matched: Option<LogIndex>,
    /// See `matched`.
    pub target: LogIndex,
}

impl Change {
    /// A change that is given up at `deadline`; `done` is told what became of it.
    #[must_use]
    pub fn new(wanted: MembershipChange, deadline: Moment, done: oneshot::Sender<Changed>) -> Self {
        Self { wanted, deadline, appended: None, meeting: None, done }
    }

    /// The node that it is about.
    #[must_use]
    pub fn node(&self) -> NodeId {
        match &self.wanted {
            MembershipChange::Add { node, .. } | MembershipChange::Remove(node) => *node,
        }
    }

    /// The step that was needed has been appended at `index`.
    pub fn appended(&mut self, index: LogIndex) {
        self.appended = Some(index);
    }

    /// Tells whoever asked.
    pub fn finish(self, result: Changed) {
        // Whoever asked may have stopped waiting.
        let _gone = self.done.send(result);
    }

    /// What it needs now.
    pub fn next(&mut self, situation: &Situation<'_>) -> Need {
        if self.is_done(situation.membership) {
            return Need::Done(Ok(()));
        }
        if !situation.leads {
            return Need::Done(Err(match self.appended {
                None => MembershipError::NotLeader,
                Some(_) => unavailable("leadership was lost; the change may still come about"),
            }));
        }
        if situation.now >= self.deadline {
            return Need::Done(Err(unavailable(&self.what_is_awaited(situation.membership))));
        }
        if self.appended.is_some_and(|index| index > situation.applied) {
            return Need::Nothing;
        }
        match self.wanted.clone() {
            MembershipChange::Remove(node) => remove(node, situation),
            MembershipChange::Add { node, endpoint } => self.add(node, endpoint, situation),
        }
    }

    fn is_done(&self, membership: &Membership) -> bool {
        match &self.wanted {
            MembershipChange::Add { node, .. } => membership.voters.contains_key(node),
            MembershipChange::Remove(node) => membership.member(*node).is_none(),
        }
    }

    fn what_is_awaited(&self, membership: &Membership) -> String {
        match &self.wanted {
            MembershipChange::Add { node, .. } if membership.learners.contains_key(node) => {
                format!("node {node} has not caught up with the log; ask again")
            }
            MembershipChange::Add { node, endpoint } => format!("node {node} does not answer at {endpoint}"),
            MembershipChange::Remove(_) => {
                "the change has not been committed; it may still come about".to_owned()
            }
        }
    }

    fn add(&mut self, node: NodeId, endpoint: String, situation: &Situation<'_>) -> Need {
        if situation.membership.learners.contains_key(&node) {
            let caught_up = situation.matched.is_some_and(|matched| matched >= situation.target);
            return if caught_up { Need::Append(MemberChange::Promote(node)) } else { Need::Nothing };
        }
        let Some(meeting) = &mut self.meeting else {
            let (met, meeting) = oneshot::channel();
            self.meeting = Some(meeting);
            return Need::Meet(node, endpoint, met);
        };
        let met = match meeting.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return Need::Nothing,
            Err(oneshot::error::TryRecvError::Closed) => Err("it was not asked".to_owned()),
            Ok(met) => met,
        };
        match met {
            Err(problem) => Need::Done(Err(unavailable(&format!("node {node} at {endpoint}: {problem}")))),
            Ok((_, Phase::Final(charter))) if charter.log != situation.log => {
                Need::Done(Err(unavailable(&format!("node {node} is of another cluster, {}", charter.log))))
            }
            Ok((directory, _)) => {
                let since = LogIndex(0);
                Need::Append(MemberChange::AddLearner(node, Member { directory, endpoint, since }))
            }
        }
    }
}

fn remove(node: NodeId, situation: &Situation<'_>) -> Need {
    if situation.membership.voters.len() == 1 && situation.membership.voters.contains_key(&node) {
        return Need::Done(Err(unavailable("the last voter cannot be removed")));
    }
    if node == situation.me { Need::HandOver } else { Need::Append(MemberChange::Remove(node)) }
}

fn unavailable(sentence: &str) -> MembershipError {
    MembershipError::Unavailable(sentence.to_owned())
}
