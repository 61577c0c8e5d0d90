//! The end of a leadership.
//!
//! openraft 0.9 can neither step down nor hand over. But a leader that hears of a higher term steps down, as any Raft
//! leader does, and a voter that hears of one does not insist on its leader any more. So the leader tells both, itself and
//! the others, that the next term has begun with nobody's vote given, and then asks the one with the longest log to
//! campaign in the term after that. Votes are given as ever: by logs and terms.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use quorate_core::{
    ids::{LogIndex, NodeId},
    runtime::Moment,
};
use tokio::sync::oneshot;

use super::{Engine, Resigning};
use crate::{
    peers::{Peers, end_term},
    transport::Request,
};

impl Engine {
    /// Goes on with giving up leadership.
    pub(super) fn drive_leaving(&mut self, now: Moment) {
        let epoch = self.state.view.term;
        let leads = self.leads();
        let mut wanted = leads && self.state.leaving.is_some();
        for Resigning { epoch: of, done } in std::mem::take(&mut self.state.resigning) {
            if !leads || of.0 != epoch {
                // Whoever asked may have stopped waiting.
                let _gone = done.send(());
                continue;
            }
            wanted = true;
            self.state.resigning.push(Resigning { epoch: of, done });
        }
        if !leads {
            self.state.handing_over = None;
        } else if wanted || self.state.handing_over.is_some() {
            self.hand_over(now);
        }
    }

    /// Begins to give up leadership: to the best successor, once it has the whole log.
    pub(super) fn hand_over(&mut self, now: Moment) {
        let (since, told) = *self.state.handing_over.get_or_insert((now, false));
        // Told, and leads still: the disk may hang, or the messages be lost.
        let again = told && now.since(since) >= self.timings.election_max;
        if told && !again {
            return;
        }
        let successor = self.successor();
        let has_all = successor.is_none_or(|(matched, _)| matched >= self.state.view.last);
        if !has_all && now.since(since) < self.timings.election_min {
            return;
        }
        self.state.handing_over = Some((now, true));
        self.peers.election.lock().be_quiet(now.plus(self.timings.election_max * 3));
        let others: Vec<NodeId> =
            self.membership().voters.into_keys().filter(|node| *node != self.me).collect();
        let end = End {
            term: self.state.view.term,
            successor: successor.map(|(_, node)| node),
            others,
            within: self.timings.heartbeat * 2,
        };
        let (done, telling) = oneshot::channel();
        self.state.telling = Some(telling);
        let abdicating = abdicate(self.peers.clone(), end);
        self.runtime.tasks.spawn(async move {
            abdicating.await;
            // The engine may have ended.
            let _gone = done.send(());
        });
    }

    /// The voter that has most of the log, of those that were heard lately.
    fn successor(&self) -> Option<(LogIndex, NodeId)> {
        let now = self.runtime.clock.now();
        let contacts = self.shared.facts.lock().contacts.clone();
        let heard =
            |node: &NodeId| contacts.get(node).is_some_and(|at| now.since(*at) < self.timings.election_min);
        let voters = self.membership().voters;
        let others = voters.keys().filter(|node| **node != self.me && heard(node));
        others.filter_map(|node| Some((*self.state.view.matched.get(node)?, *node))).max()
    }

    /// Whether the engine may end: asked to, nobody loses a leader by it, and the next one has been told.
    pub(super) fn has_left(&mut self) -> bool {
        let empty = Err(oneshot::error::TryRecvError::Empty);
        let telling = self.state.telling.as_mut().is_some_and(|telling| telling.try_recv() == empty);
        let Some(leaving) = &self.state.leaving else { return false };
        self.runtime.clock.now() >= leaving.deadline || (!self.leads() && !telling)
    }
}

struct End {
    term: u64,
    successor: Option<NodeId>,
    others: Vec<NodeId>,
    within: Duration,
}

async fn abdicate(peers: Arc<Peers>, end: End) {
    let End { term, successor, others, within } = end;
    let tell = |node: NodeId, campaign: bool| peers.call(node, Request::Abdicate { term, campaign }, within);
    let followers = others.into_iter().filter(|node| Some(*node) != successor);
    let told = join_all(followers.map(|node| tell(node, false)));
    let stepped_down = async {
        if let Some(raft) = peers.raft.get() {
            // An openraft that has ended does not lead.
            let _ended = end_term(raft, term).await;
        }
    };
    // Whoever is not reached waits for a silence, as after a crash.
    let _reached = tokio::join!(told, stepped_down);
    if let Some(successor) = successor {
        let _reached = tell(successor, true).await;
    }
}
