//! What is proposed, what is committed, and what is read.

use std::{collections::BTreeMap, task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use quorate_core::consensus::{Epoch, LogIndex, NodeId, ProposeError};

use super::{
    Backend, Capability, Stop, Verdict,
    cluster::{Cluster, Item, needs},
    ensure,
};

pub(super) async fn committed_is_dense_ordered_identical_everywhere(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let mut last = LogIndex(0);
    for round in 0..100 {
        last = cluster.commit(format!("entry {round}")).await?;
        if round % 40 == 39 {
            cluster.change_leader().await?;
        }
    }
    let mut first: Option<Vec<Item>> = None;
    for node in cluster.living() {
        let items = cluster.read(node, LogIndex(0), last).await?;
        for (item, expected) in items.iter().zip(1..) {
            let index = item.index();
            ensure!(index == LogIndex(expected), "node {node} yields {index} where {expected} was due");
        }
        let same = first.get_or_insert_with(|| items.clone());
        let differs = same.iter().zip(&items).find(|(one, other)| one != other);
        ensure!(differs.is_none(), "node {node} differs: {differs:?}");
    }
    Ok(())
}

pub(super) async fn epoch_never_decreases_along_the_log(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let mut last = LogIndex(0);
    for round in 0..5 {
        last = cluster.commit(format!("entry {round}")).await?;
        cluster.change_leader().await?;
    }
    let node = cluster.leader().await?.node;
    let items = cluster.read(node, LogIndex(0), last).await?;
    let falls = items.iter().zip(items.iter().skip(1)).find(|(one, next)| next.epoch() < one.epoch());
    ensure!(falls.is_none(), "the epoch falls: {falls:?}");
    Ok(())
}

pub(super) async fn proposed_then_read_everywhere(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let index = cluster.commit("entry").await?;
    for node in cluster.living() {
        let items = cluster.read(node, LogIndex(index.0 - 1), index).await?;
        let found = items.iter().find(|item| item.index() == index);
        ensure!(found.is_some_and(|item| item.data() == "entry"), "node {node} reads {found:?} at {index}");
    }
    Ok(())
}

pub(super) async fn propose_on_follower_is_refused(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    for node in cluster.living().into_iter().filter(|&node| node != led.node) {
        let proposed = cluster.node(node)?.propose(led.epoch, "from a follower".into());
        let proposed = cluster.within_patience("a follower's proposal", proposed).await?;
        let refused = matches!(proposed, Err(ProposeError::NotLeader { .. }));
        ensure!(refused, "a follower's proposal: {proposed:?}");
    }
    Ok(())
}

pub(super) async fn propose_with_another_epoch_is_refused(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let old = cluster.leader().await?;
    let led = cluster.change_leader().await?;
    for epoch in [Epoch(0), old.epoch, Epoch(led.epoch.0 + 1)] {
        let proposed = cluster.node(led.node)?.propose(epoch, "of another epoch".into());
        let proposed = cluster.within_patience("a proposal of another epoch", proposed).await?;
        let refused = matches!(proposed, Err(ProposeError::NotLeader { .. }));
        ensure!(refused, "a proposal of epoch {epoch} in epoch {}: {proposed:?}", led.epoch);
    }
    Ok(())
}

pub(super) async fn overtaken_leader_is_fenced(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Cut)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let old = cluster.leader().await?;
    cluster.lab.cut(old.node).await;
    let sleeper = cluster.node(old.node)?.clone();
    // What it proposes from now on was computed before it was overtaken.
    let during = sleeper.propose(old.epoch, "during".into());
    let during = cluster.clock.timeout(cluster.lab.patience(), during).await;
    let led = cluster.leader_after(old.epoch).await?;
    cluster.lab.heal(old.node).await;
    let after = sleeper.propose(old.epoch, "after".into());
    let after = cluster.within_patience("the proposal of an overtaken leader", after).await?;
    ensure!(after.is_err(), "an overtaken leader committed at {after:?}");
    ensure!(!matches!(during, Ok(Ok(_))), "a leader that was cut off committed at {during:?}");
    let last = cluster.commit("last").await?;
    let items = cluster.read(led.node, LogIndex(0), last).await?;
    let zombie = items.iter().find(|item| item.data() == "after");
    ensure!(zombie.is_none(), "the proposal of an overtaken leader is in the log: {zombie:?}");
    Ok(())
}

pub(super) async fn too_large_is_refused_and_limit_is_exact(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let node = cluster.node(led.node)?.clone();
    let limit = node.status().max_entry_bytes;
    ensure!(limit >= 64 << 10, "entries of at most {limit} bytes are too small for a snapshot of anything");
    for (size, taken) in [(0, false), (1, true), (limit, true), (limit + 1, false)] {
        let proposed = node.propose(led.epoch, Bytes::from(vec![7; size]));
        let proposed = cluster.within_patience("a proposal", proposed).await?;
        let expected = if taken { proposed.is_ok() } else { proposed == Err(ProposeError::TooLarge) };
        ensure!(expected, "an entry of {size} bytes where {limit} is the most: {proposed:?}");
    }
    Ok(())
}

/// A backend that takes so many proposals without committing any has no bound.
const MANY_PROPOSALS: usize = 100_000;

pub(super) async fn queue_full_is_busy_not_memory(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Votes)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let leader = cluster.node(led.node)?.clone();
    for node in cluster.living().into_iter().filter(|&node| node != led.node) {
        cluster.kill(node).await;
    }
    let mut waiting = FuturesUnordered::new();
    for _ in 0..MANY_PROPOSALS {
        let mut proposal = leader.propose(led.epoch, Bytes::from(vec![7; 1024]));
        match futures_util::poll!(&mut proposal) {
            Poll::Ready(Err(ProposeError::Busy)) => return Ok(()),
            Poll::Ready(Err(ProposeError::NotLeader { .. })) => {
                let reason = format!("gave up leading after {} proposals, none of them Busy", waiting.len());
                return Err(Stop::Failed(reason));
            }
            Poll::Ready(other) => ensure!(other.is_err(), "committed without a quorum: {other:?}"),
            Poll::Pending => waiting.push(proposal),
        }
        // The engine, which may run on this thread, gets its turn to fill its own queue.
        if waiting.len().is_multiple_of(64)
            && !waiting.is_empty()
            && let Ok(Some(Err(ProposeError::Busy))) =
                cluster.clock.timeout(Duration::from_millis(1), waiting.next()).await
        {
            return Ok(());
        }
    }
    Err(Stop::Failed(format!("{} proposals wait in memory", waiting.len())))
}

/// What a client knows of its proposals.
pub(super) type Outcomes = BTreeMap<String, Result<LogIndex, ProposeError>>;

/// What a client was told agrees with every node's log up to `last`: acknowledged is there once, refused is not,
/// unknown is either.
pub(super) async fn agree(cluster: &Cluster, outcomes: &Outcomes, last: LogIndex) -> Verdict {
    for node in cluster.living() {
        let items = cluster.read(node, LogIndex(0), last).await?;
        for (name, outcome) in outcomes {
            let named = items.iter().filter(|item| item.data() == name.as_bytes());
            let places: Vec<LogIndex> = named.map(Item::index).collect();
            let agrees = match outcome {
                Ok(index) => places == [*index],
                Err(ProposeError::Unknown) => places.len() <= 1,
                Err(_) => places.is_empty(),
            };
            ensure!(agrees, "'{name}' was answered {outcome:?}; node {node} has it at {places:?}");
        }
    }
    Ok(())
}

/// Proposes five entries and takes the leader away while they are under way.
async fn propose_and_lose_leader(cluster: &mut Cluster, round: usize, outcomes: &mut Outcomes) -> Verdict {
    let led = cluster.leader().await?;
    let leader = cluster.node(led.node)?.clone();
    let names: Vec<String> = (0..5).map(|n| format!("entry {round}.{n}")).collect();
    let mut waiting = Vec::new();
    for name in names {
        let mut proposal = leader.propose(led.epoch, name.clone().into());
        match futures_util::poll!(&mut proposal) {
            Poll::Ready(outcome) => drop(outcomes.insert(name, outcome)),
            Poll::Pending => waiting.push((name, proposal)),
        }
    }
    match round % 3 {
        0 => leader.resign(led.epoch).await,
        1 => leader.shutdown().await,
        _ => {
            // Whoever dies with a proposal under way never learns what became of it.
            outcomes.extend(waiting.drain(..).map(|(name, _)| (name, Err(ProposeError::Unknown))));
        }
    }
    for (name, proposal) in waiting {
        let outcome = cluster.within_patience("a proposal under way", proposal).await?;
        outcomes.insert(name, outcome);
    }
    drop(leader);
    if !round.is_multiple_of(3) {
        cluster.kill(led.node).await;
    }
    cluster.leader_after(led.epoch).await?;
    cluster.start_all().await
}

pub(super) async fn unknown_is_resolved_by_reading(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let mut outcomes = Outcomes::new();
    for round in 0..6 {
        propose_and_lose_leader(&mut cluster, round, &mut outcomes).await?;
    }
    let last = cluster.commit("last").await?;
    agree(&cluster, &outcomes, last).await
}

pub(super) async fn same_bytes_twice_are_two_entries(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let node = cluster.node(led.node)?.clone();
    let (one, two) =
        tokio::join!(node.propose(led.epoch, "same".into()), node.propose(led.epoch, "same".into()));
    ensure!(one.is_ok() && two.is_ok() && one != two, "the same bytes twice: {one:?} and {two:?}");
    Ok(())
}

pub(super) async fn concurrent_proposals_keep_first_poll_order(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let node = cluster.node(led.node)?.clone();
    let proposals = (0..50).map(|n| node.propose(led.epoch, format!("entry {n}").into()));
    let indexes = cluster.within_patience("50 proposals", join_all(proposals)).await?;
    let sorted = indexes.iter().zip(indexes.iter().skip(1)).all(|(one, next)| match (one, next) {
        (Ok(one), Ok(next)) => one < next,
        _ => false,
    });
    ensure!(sorted, "50 proposals, first polled in order, stand at {indexes:?}");
    Ok(())
}

/// Asks a node until it answers, as a caller does whose node has just lost its leader.
async fn barrier(cluster: &Cluster, node: NodeId) -> Result<LogIndex, Stop> {
    let running = cluster.node(node)?;
    let asked = async {
        loop {
            match running.read_barrier().await {
                Ok(index) => return index,
                Err(_) => cluster.clock.sleep(Duration::from_millis(20)).await,
            }
        }
    };
    cluster.within_patience("a read barrier", asked).await
}

pub(super) async fn read_barrier_covers_every_ack(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    for round in 0..4 {
        let acked = cluster.commit(format!("entry {round}")).await?;
        if round % 2 == 1 {
            cluster.change_leader().await?;
        }
        for node in cluster.living() {
            let index = barrier(&cluster, node).await?;
            ensure!(index >= acked, "the barrier of node {node} is {index}; {acked} was acknowledged before");
        }
    }
    Ok(())
}

pub(super) async fn read_barrier_fails_without_quorum(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Votes)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    for node in cluster.living().into_iter().filter(|&node| node != led.node) {
        cluster.kill(node).await;
    }
    let barrier = cluster.node(led.node)?.read_barrier();
    let barrier = cluster.within_patience("a read barrier without a quorum", barrier).await?;
    ensure!(barrier.is_err(), "a read barrier without a quorum: {barrier:?}");
    Ok(())
}

pub(super) async fn paused_leader_wakes_and_is_fenced(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Pause)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let old = cluster.leader().await?;
    let sleeper = cluster.node(old.node)?.clone();
    cluster.lab.pause(old.node, true).await;
    // Computed before it was overtaken, and on its way while it sleeps.
    let mut during = sleeper.propose(old.epoch, "during".into());
    let early = futures_util::poll!(&mut during);
    ensure!(early.is_pending(), "a node that stands still answered {early:?}");
    let led = cluster.leader_after(old.epoch).await?;
    cluster.lab.pause(old.node, false).await;
    let during = cluster.within_patience("a proposal of a leader that has woken", during).await?;
    ensure!(during.is_err(), "a leader that slept while it was overtaken committed at {during:?}");
    let after = sleeper.propose(old.epoch, "after".into());
    let after = cluster.within_patience("the proposal of an overtaken leader", after).await?;
    ensure!(after.is_err(), "an overtaken leader committed at {after:?}");
    let last = cluster.commit("last").await?;
    let items = cluster.read(led.node, LogIndex(0), last).await?;
    let zombie = items.iter().find(|item| item.data() == "during" || item.data() == "after");
    ensure!(zombie.is_none(), "the proposal of an overtaken leader is in the log: {zombie:?}");
    Ok(())
}

/// Loses, or loses no more, what comes back to a leader.
async fn lose_answers(cluster: &mut Cluster, backend: &dyn Backend, led: NodeId, lost: bool) {
    if backend.can(Capability::LostReplies).is_ok() {
        return cluster.lab.lose_replies(led, lost).await;
    }
    for node in cluster.voters().into_iter().filter(|&node| node != led) {
        cluster.lab.cut_link(node, led, lost).await;
    }
}

pub(super) async fn retry_inside_backend_commits_once(backend: &dyn Backend, nodes: usize) -> Verdict {
    if backend.can(Capability::LostReplies).is_err() {
        needs(backend, Capability::Links)?;
    }
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let leader = cluster.node(led.node)?.clone();
    lose_answers(&mut cluster, backend, led.node, true).await;
    let mut outcomes = Outcomes::new();
    let mut waiting = Vec::new();
    for n in 0..5 {
        let name = format!("entry {n}");
        let mut proposal = leader.propose(led.epoch, name.clone().into());
        match futures_util::poll!(&mut proposal) {
            Poll::Ready(outcome) => drop(outcomes.insert(name, outcome)),
            Poll::Pending => waiting.push((name, proposal)),
        }
    }
    cluster.clock.sleep(cluster.lab.quiet() / 4).await;
    lose_answers(&mut cluster, backend, led.node, false).await;
    for (name, proposal) in waiting {
        let outcome = cluster.within_patience("a proposal whose answer was lost", proposal).await?;
        outcomes.insert(name, outcome);
    }
    let last = cluster.commit("last").await?;
    agree(&cluster, &outcomes, last).await
}
