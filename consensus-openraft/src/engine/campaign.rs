//! Who asks for votes, and when.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use quorate_consensus_kit::membership::Membership;
use quorate_core::{ids::NodeId, runtime::Moment};
use tokio::sync::oneshot;

use super::{Engine, Order};
use crate::{
    peers::Peers,
    transport::{Answer, Request},
    types::place_of,
};

impl Engine {
    /// In a cluster that has just been founded one node does not wait for a silence: nobody has led yet.
    pub(super) fn begin(&self) {
        let first = self.peers.founders.keys().next();
        if self.state.view.term == 0 && first == Some(&self.me) {
            self.peers.election.lock().hasten(self.state.started);
        }
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
        if self.leads() || !self.is_voter() || !self.is_responsive(now) {
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
