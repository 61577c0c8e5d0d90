//! The history of leaders as this node saw it: who leads, and how long nobody did.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use quorate_core::{
    consensus::{Leader, LeaderEvents},
    ids::{Epoch, NodeId},
    runtime::{Clock, Moment, TaskScope},
};

/// What is known of the leader of the metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// Who leads; `None` while nobody does, or while this node is cut off.
    pub(crate) leader: Option<NodeId>,
    /// The newest epoch.
    pub(crate) epoch: Epoch,
    /// How many leaders this node has seen since it started.
    pub(crate) changes: u64,
    /// How long nobody has led; `None` while somebody does.
    pub(crate) leaderless: Option<Duration>,
    /// How long nobody led before the present leader did; before the first, since the start.
    pub(crate) last_gap: Duration,
}

/// Follows the leader events.
#[derive(Clone, Debug)]
pub(crate) struct LeadershipLog {
    node: NodeId,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    leadership: Leadership,
    since: Moment,
}

impl LeadershipLog {
    /// Nobody leads yet.
    pub(crate) fn new(node: NodeId, clock: Clock) -> Self {
        let state = State { leadership: Leadership::default(), since: clock.now() };
        Self { node, clock, state: Arc::new(Mutex::new(state)) }
    }

    /// Follows `events` until the backend stops.
    pub(crate) fn follow(&self, mut events: LeaderEvents, scope: &TaskScope) {
        let log = self.clone();
        let tasks = scope.clone();
        scope.spawn(async move {
            loop {
                let event = tokio::select! { biased;
                    () = tasks.stopping() => return,
                    event = events.next() => event,
                };
                let Some(event) = event else { return };
                let leader = match event.leader {
                    Leader::Unknown => None,
                    Leader::Other(node) => Some(node),
                    Leader::Me { .. } => Some(log.node),
                };
                log.note(event.epoch, leader);
            }
        });
    }

    fn note(&self, epoch: Epoch, leader: Option<NodeId>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let had = state.leadership.leader;
        state.leadership.epoch = epoch;
        state.leadership.leader = leader;
        match (had, leader) {
            (None, Some(_)) => {
                state.leadership.last_gap = now.since(state.since);
                state.leadership.changes += 1;
            }
            // A newer leader was heard of before the older one was missed.
            (Some(_), Some(_)) => {
                state.leadership.last_gap = Duration::ZERO;
                state.leadership.changes += 1;
            }
            (_, None) => {}
        }
        if had.is_some() != leader.is_some() {
            state.since = now;
        }
    }

    /// Who leads now.
    pub(crate) fn now(&self) -> Leadership {
        let state = self.state.lock();
        let leaderless = state.leadership.leader.is_none().then(|| self.clock.now().since(state.since));
        Leadership { leaderless, ..state.leadership }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gap_is_measured_from_the_loss_of_one_leader_to_the_next() {
        let log = LeadershipLog::new(NodeId(1), Clock::simulated(0).0);
        let clock = log.clock.clone();
        clock.sleep(Duration::from_millis(300)).await;
        assert_eq!(log.now().leaderless, Some(Duration::from_millis(300)));
        log.note(Epoch(1), Some(NodeId(2)));
        assert_eq!((log.now().leader, log.now().last_gap), (Some(NodeId(2)), Duration::from_millis(300)));
        clock.sleep(Duration::from_secs(9)).await;
        log.note(Epoch(1), None);
        clock.sleep(Duration::from_millis(700)).await;
        log.note(Epoch(2), None);
        log.note(Epoch(2), Some(NodeId(1)));
        let now = log.now();
        assert_eq!((now.last_gap, now.changes, now.leaderless), (Duration::from_millis(700), 2, None));
        log.note(Epoch(3), Some(NodeId(2)));
        assert_eq!((log.now().last_gap, log.now().changes), (Duration::ZERO, 3));
    }
}
