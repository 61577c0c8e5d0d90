//! The first leader of a cluster, and each later one: who asks for votes, and when.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use quorate_consensus_kit::membership::Membership;
use quorate_core::{ids::NodeId, runtime::Moment};
use tokio::sync::oneshot;

use super::{Engine, Order};
use crate::{
    peers::Peers,
    transport::{Answer, Request},
    types::{founders, place_of},
};

impl Engine {
    /// Gives openraft the founders, once, while it is as fresh as the cluster. One of them does it at once, and asks for
    /// the first votes by it; the others only if they hear nothing. All of them write the same first entry.
    pub(super) fn drive_founding(&mut self, now: Moment) {
        if self.state.initialized || !self.state.view.pristine {
            return;
        }
        let members = &self.peers.founders;
        if members.get(&self.me).is_none_or(|member| member.directory != self.directory) {
            return;
        }
        let first = members.keys().next() == Some(&self.me);
        if !first && self.silence(now) < self.timings.election_max {
            return;
        }
        self.state.initialized = true;
        self.peers.election.lock().tried(now);
        let (raft, members) = (self.raft.clone(), founders(members));
        self.runtime.tasks.spawn(async move {
            // Another founder may have been faster.
            if let Err(error) = raft.initialize(members).await {
                tracing::debug!(%error, "the cluster has begun already");
            }
        });
    }

    /// Asks the others whether they would vote for this node, and then for their votes.
    pub(super) fn drive_campaign(&mut self, now: Moment) {
        if let Some(canvass) = &mut self.state.canvass {
            match canvass.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Ok(true) => self.campaign(now),
                Ok(false) | Err(oneshot::error::TryRecvError::Closed) => {
                    self.peers.election.lock().refused(now)
                }
            }
            self.state.canvass = None;
            return;
        }
        if self.leads() || self.state.view.pristine || !self.is_voter() || !self.is_responsive(now) {
            return;
        }
        let membership = self.membership();
        let alone = membership.voters.len() == 1;
        let is_due = {
            let election = self.peers.election.lock();
            election.is_due(now) || (alone && self.state.started == self.state.reported)
        };
        if !is_due {
            return;
        }
        self.peers.election.lock().tried(now);
        if alone {
            return self.campaign(now);
        }
        let (done, canvass) = oneshot::channel();
        self.state.canvass = Some(canvass);
        let (peers, me, within) = (self.peers.clone(), self.me, self.timings.heartbeat * 2);
        self.runtime.tasks.spawn(async move {
            // The engine may have ended.
            let _gone = done.send(canvass_of(peers, me, membership, within).await);
        });
    }

    fn campaign(&mut self, now: Moment) {
        if self.leads() || !self.is_responsive(now) {
            return;
        }
        self.peers.election.lock().tried(now);
        self.order(Order::Elect);
    }
}

/// Whether a majority would vote for this node.
async fn canvass_of(peers: Arc<Peers>, me: NodeId, membership: Membership, within: Duration) -> bool {
    let needed = membership.voters.len() / 2;
    let last = place_of(peers.parts.log.last());
    let others = membership.voters.keys().filter(|node| **node != me);
    let mut answers: FuturesUnordered<_> =
        others.map(|node| peers.call(*node, Request::Canvass(last), within)).collect();
    let mut granted = 0;
    while granted < needed {
        match answers.next().await {
            Some(Some(Answer::Canvass(true))) => granted += 1,
            Some(_) => {}
            None => return false,
        }
    }
    true
}
