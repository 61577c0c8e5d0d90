//! What passes at a node by itself as time goes on: elections, and replication that takes time.

use std::sync::Arc;

use super::{Elections, cluster::Shared, state::State};
use crate::{consensus::NodeId, runtime::Moment};

/// Runs until the process `number` of `node` ends.
pub(super) async fn run(shared: Arc<Shared>, node: NodeId, number: u64) {
    let clock = shared.clock.clone();
    let mut changed = shared.changed.subscribe();
    loop {
        changed.borrow_and_update();
        let next = match shared.change(|state| tick(state, node, number, clock.now())) {
            Tick::Ended => return,
            Tick::Idle => None,
            Tick::At(moment) => Some(moment),
        };
        let pause = async {
            match next {
                Some(moment) => clock.sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { biased;
            news = changed.changed() => if news.is_err() { return },
            () = pause => {}
        }
    }
}

/// When a node has something to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tick {
    Ended,
    Idle,
    At(Moment),
}

fn tick(state: &mut State, node: NodeId, number: u64, now: Moment) -> Tick {
    if state.nodes.get(&node).is_none_or(|here| here.living(number).is_none()) {
        return Tick::Ended;
    }
    if state.nodes.get(&node).is_some_and(|here| here.paused) {
        return Tick::Idle;
    }
    let next = [replicate(state, node, now), watch_leader(state, node, now)];
    next.into_iter().flatten().min().map_or(Tick::Idle, Tick::At)
}

/// Commits what is due at a leader, learns what is due at a follower.
fn replicate(state: &mut State, node: NodeId, now: Moment) -> Option<Moment> {
    if state.config.delay.end.is_zero() {
        return None;
    }
    let led = state.acting()?;
    let due = state.nodes.get_mut(&node)?.process.as_mut()?.due.take_if(|due| due.0 <= now);
    if let Some((_, index)) = due {
        if led.node == node {
            state.commit(index);
        }
        state.reveal(node, index);
        state.settle();
    }
    let goal = if led.node == node { state.last() } else { state.committed };
    let here = state.nodes.get(&node)?;
    if here.known >= goal || here.held || !here.takes_part() {
        return None;
    }
    if let Some((moment, _)) = here.process.as_ref()?.due {
        return Some(moment);
    }
    let moment = now.plus(state.draw_delay());
    state.nodes.get_mut(&node)?.process.as_mut()?.due = Some((moment, goal));
    Some(moment)
}

/// Looks for another leader once there has been none for a while.
fn watch_leader(state: &mut State, node: NodeId, now: Moment) -> Option<Moment> {
    let Elections::Timed(timeout) = state.config.elections else { return None };
    let election_at = state.nodes.get(&node)?.process.as_ref()?.election_at;
    if election_at.is_some_and(|moment| moment <= now) {
        let rested = state.nodes.get(&node)?.process.as_ref()?.rests_until <= now;
        if !(rested && state.elect(node).is_some()) {
            state.suspect(node);
        }
    }
    let hears_leader = state.acting().is_some() && state.takes_part(node);
    let next = match election_at {
        _ if hears_leader => None,
        Some(moment) if moment > now => Some(moment),
        _ => Some(now.plus(timeout).plus(state.jitter(timeout))),
    };
    state.nodes.get_mut(&node)?.process.as_mut()?.election_at = next;
    next
}
