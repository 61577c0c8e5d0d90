//! Who leads, in which epoch, and what is said of it.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt as _;
use quorate_core::runtime::watch;
use quorate_core::{
    consensus::{
        Committed, Epoch, Leader, LeaderEvent, LogIndex, NodeId,
        activation::{Applied, Role, Roles},
    },
    runtime::TaskScope,
};
use tokio::sync::mpsc;

use super::{
    Backend, Capability, Stop, Verdict,
    cluster::{Cluster, Led, needs},
    ensure,
};

/// Long enough for an event to reach its subscribers.
const SETTLING: Duration = Duration::from_millis(10);

/// Every event that some subscribers are told, node by node.
struct Observed {
    told: mpsc::Receiver<(NodeId, LeaderEvent)>,
    tasks: TaskScope,
}

impl Observed {
    fn watch(cluster: &Cluster) -> Result<Self, Stop> {
        let (tell, told) = mpsc::channel(1 << 16);
        let tasks = TaskScope::threaded();
        for node in cluster.living() {
            let mut events = cluster.node(node)?.leader_events();
            let tell = tell.clone();
            tasks.spawn(async move {
                while let Some(event) = events.next().await {
                    if tell.send((node, event)).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { told, tasks })
    }

    fn so_far(&mut self) -> Vec<(NodeId, LeaderEvent)> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.tasks.kill();
    }
}

pub(super) async fn one_me_per_epoch(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let mut observed = Observed::watch(&cluster)?;
    for _ in 0..8 {
        cluster.change_leader().await?;
        cluster.clock.sleep(SETTLING).await;
    }
    let mut leaders: BTreeMap<Epoch, NodeId> = BTreeMap::new();
    for (teller, event) in observed.so_far() {
        let leader = match event.leader {
            Leader::Unknown => continue,
            Leader::Other(node) => node,
            Leader::Me { .. } => teller,
        };
        let first = *leaders.entry(event.epoch).or_insert(leader);
        let epoch = event.epoch;
        ensure!(first == leader, "epoch {epoch} is led by {first} and, says {teller}, by {leader}");
    }
    ensure!(leaders.len() >= 2, "only the epochs {leaders:?} were announced in 8 changes");
    Ok(())
}

pub(super) async fn epochs_strictly_increase_across_restarts_of_all(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let mut last = Epoch(0);
    for round in 0..3 {
        let led = cluster.leader().await?;
        ensure!(led.epoch > last, "restart {round}: epoch {} after epoch {last}", led.epoch);
        last = led.epoch;
        cluster.kill_all().await;
        cluster.start_all().await?;
    }
    Ok(())
}

pub(super) async fn opened_at_separates_epochs(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let mut leaders: Vec<Led> = vec![cluster.leader().await?];
    for round in 0..3 {
        cluster.commit(format!("entry {round}")).await?;
        leaders.push(cluster.change_leader().await?);
    }
    let Some(last) = leaders.last().copied() else { return Ok(()) };
    let items = cluster.read(last.node, LogIndex(0), last.opened_at).await?;
    for led in leaders {
        let opening = items.iter().find(|item| item.index() == led.opened_at);
        let Some(opening) = opening else { return Err(Stop::Failed(format!("nothing is at {led:?}"))) };
        let at = led.opened_at;
        ensure!(opening.epoch() == led.epoch, "entry {at} opens {} and is of {}", led.epoch, opening.epoch());
        ensure!(opening.data().is_empty(), "the opening entry {at} carries data");
        let late = items.iter().find(|item| item.index() >= at && item.epoch() < led.epoch);
        ensure!(
            late.is_none(),
            "of an earlier epoch than {}, after its opening at {at}: {late:?}",
            led.epoch
        );
    }
    Ok(())
}

pub(super) async fn slow_subscriber_skips_never_reorders(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let first = cluster.leader().await?;
    let mut events = cluster.node(first.node)?.leader_events();
    let first = cluster.within_patience("the first event", events.next()).await?;
    for _ in 0..4 {
        cluster.change_leader().await?;
    }
    let mut last = first.ok_or_else(|| Stop::Failed("the events ended".to_owned()))?;
    let newest = events.last();
    while Some(last) != newest {
        let event = cluster.within_patience("a later event", events.next()).await?;
        let Some(event) = event else { return Err(Stop::Failed("the events ended".to_owned())) };
        ensure!(event.seq > last.seq, "{event:?} after {last:?}");
        ensure!(event.epoch >= last.epoch, "{event:?} after {last:?}");
        if event.seq >= newest.map_or(0, |newest| newest.seq) {
            break;
        }
        last = event;
    }
    Ok(())
}

pub(super) async fn late_subscriber_gets_current_state(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let mut late = cluster.node(led.node)?.leader_events();
    let event = cluster.within_patience("the current state", late.next()).await?;
    let Some(event) = event else { return Err(Stop::Failed("the events ended".to_owned())) };
    ensure!(event.epoch >= led.epoch, "a late subscriber is told {event:?}, of before {led:?}");
    Ok(())
}

/// Cuts the leader off, and waits until it says that it knows of no leader.
async fn isolate_leader(cluster: &mut Cluster) -> Result<Led, Stop> {
    let led = cluster.leader().await?;
    cluster.lab.cut(led.node).await;
    let patience = cluster.lab.patience();
    let unknown = || {
        let event = cluster.last_event(led.node)?;
        (!matches!(event.leader, Leader::Me { .. })).then_some(event)
    };
    match cluster.wait(patience, unknown).await {
        Some(_) => Ok(led),
        None => Err(Stop::Failed(format!("node {} is cut off and still says that it leads", led.node))),
    }
}

pub(super) async fn suspended_epoch_resumes_only_as_the_same_leadership(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    needs(backend, Capability::Cut)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    for _ in 0..3 {
        let led = isolate_leader(&mut cluster).await?;
        cluster.lab.heal(led.node).await;
        let known = || {
            let event = cluster.last_event(led.node)?;
            (event.leader != Leader::Unknown).then_some(event)
        };
        let Some(event) = cluster.wait(cluster.lab.patience(), known).await else {
            return Err(Stop::Failed("the returned leader is never told who leads".to_owned()));
        };
        let resumed = event.leader == Leader::Me { opened_at: led.opened_at } && event.epoch == led.epoch;
        ensure!(resumed || event.epoch > led.epoch, "after {led:?} was cut off and returned: {event:?}");
    }
    Ok(())
}

pub(super) async fn leader_kill_elects_within_bound(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    cluster.kill(led.node).await;
    let next = cluster.leader_after(led.epoch).await?;
    ensure!(next.node != led.node, "the dead node {} leads", led.node);
    cluster.commit("after the kill").await.map(drop)
}

pub(super) async fn isolated_leader_says_unknown_within_bound(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    needs(backend, Capability::Cut)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = isolate_leader(&mut cluster).await?;
    let refused = cluster.node(led.node)?.propose(led.epoch, "from afar".into());
    let refused = cluster.within_patience("a proposal of an isolated leader", refused).await?;
    ensure!(refused.is_err(), "an isolated leader committed an entry");
    Ok(())
}

pub(super) async fn returning_node_does_not_depose_a_healthy_leader(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    needs(backend, Capability::PreVote)?;
    needs(backend, Capability::Cut)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let follower = cluster.living().into_iter().find(|&node| node != led.node);
    let follower = follower.ok_or_else(|| Stop::Failed("no follower".to_owned()))?;
    cluster.lab.cut(follower).await;
    cluster.clock.sleep(cluster.lab.quiet()).await;
    cluster.commit("while it was away").await?;
    cluster.lab.heal(follower).await;
    cluster.clock.sleep(cluster.lab.quiet()).await;
    let now = cluster.leader().await?;
    ensure!(now == led, "the return of node {follower} made {now:?} of {led:?}");
    Ok(())
}

pub(super) async fn two_of_five_down_still_leads(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    for _ in 0..2 {
        let led = cluster.leader().await?;
        cluster.kill(led.node).await;
        cluster.leader_after(led.epoch).await?;
    }
    cluster.commit("by three of five").await.map(drop)
}

pub(super) async fn three_of_five_down_leads_nobody(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Votes)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let followers: Vec<NodeId> = cluster.living().into_iter().filter(|&node| node != led.node).collect();
    for node in followers.into_iter().take(3) {
        cluster.kill(node).await;
    }
    let patience = cluster.lab.patience();
    let silent = cluster.wait(patience, || cluster.announced().is_none().then_some(())).await;
    ensure!(silent.is_some(), "two of five, and one says that it leads");
    cluster.clock.sleep(cluster.lab.quiet()).await;
    ensure!(cluster.announced().is_none(), "two of five elected a leader");
    cluster.start_all().await?;
    cluster.leader_after(led.epoch.min(Epoch(led.epoch.0 - 1))).await.map(drop)
}

/// Changes of leadership in [`a_thousand_leader_changes_initialise_once_each`], and where there is little time.
const CHANGES: usize = 1000;
const FEW_CHANGES: usize = 100;

/// What a node's controller did: it became `Leading` in an epoch, when its applier stood at an index.
type Initialised = (NodeId, Epoch, LogIndex);

/// An applier and a loop over roles, as the broker has them.
async fn run_roles(
    cluster: &Cluster,
    node: NodeId,
    done: mpsc::Sender<Initialised>,
    tasks: &TaskScope,
) -> Verdict {
    let running = cluster.node(node)?.clone();
    let (progress, applied) = watch::channel(Applied::default());
    let mut stream = running.committed(LogIndex(0));
    tasks.spawn(async move {
        while let Some(committed) = stream.next().await {
            let index = match committed {
                Committed::Entry { index, .. } => index,
                Committed::Snapshot(snapshot) => snapshot.meta.index,
            };
            progress.send_replace(Applied { index, controller: None });
        }
    });
    let mut roles = Roles::new(running.leader_events(), applied.clone());
    tasks.spawn(async move {
        while let Some(role) = roles.next().await {
            if let Role::Leading(leading) = role {
                let index = applied.borrow().index;
                let _ = done.send((node, leading.epoch(), index)).await;
            }
        }
    });
    Ok(())
}

pub(super) async fn a_thousand_leader_changes_initialise_once_each(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let changes = if backend.thorough() { CHANGES } else { FEW_CHANGES };
    let tasks = TaskScope::threaded();
    let (done, mut initialised) = mpsc::channel(4 * CHANGES);
    for node in cluster.living() {
        run_roles(&cluster, node, done.clone(), &tasks).await?;
    }
    let mut leaders: BTreeMap<Epoch, Led> = BTreeMap::new();
    let mut led = cluster.leader().await?;
    leaders.insert(led.epoch, led);
    for change in 0..changes {
        led = cluster.change_leader().await?;
        leaders.insert(led.epoch, led);
        // Some have the time to initialise, the others are overtaken before.
        if change % 3 == 0 {
            cluster.clock.sleep(SETTLING).await;
        }
    }
    let mut seen: BTreeMap<Epoch, Initialised> = BTreeMap::new();
    while !seen.contains_key(&led.epoch) {
        let next = cluster.within_patience("the last initialisation", initialised.recv()).await?;
        let Some((node, epoch, index)) = next else { return Err(Stop::Failed("the roles ended".to_owned())) };
        let again = seen.insert(epoch, (node, epoch, index));
        ensure!(again.is_none(), "epoch {epoch} was initialised by node {node} after {again:?}");
        if let Some(led) = leaders.get(&epoch) {
            ensure!(led.node == node, "epoch {epoch} of node {} was initialised by node {node}", led.node);
            ensure!(index >= led.opened_at, "{led:?} was initialised at entry {index}");
        }
    }
    tasks.kill();
    ensure!(seen.len() > changes / 4, "only {} of {changes} leaderships were initialised", seen.len());
    ensure!(leaders.len() > changes, "{} leaderships in {changes} changes", leaders.len());
    Ok(())
}

pub(super) async fn one_silent_peer_holds_nobody_up(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Silence)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let follower = cluster.living().into_iter().find(|&node| node != led.node);
    let follower = follower.ok_or_else(|| Stop::Failed("no follower".to_owned()))?;
    cluster.kill(follower).await;
    cluster.lab.silence(follower).await;
    let begun = cluster.clock.now();
    for round in 0..20 {
        let proposed = cluster.node(led.node)?.propose(led.epoch, format!("entry {round}").into());
        let proposed = cluster.within_patience("a proposal beside a silent peer", proposed).await?;
        ensure!(proposed.is_ok(), "proposal {round} beside a silent peer: {proposed:?}");
    }
    let took = cluster.clock.now().since(begun);
    let limit = Duration::from_secs(2).max(cluster.lab.quiet());
    ensure!(took < limit, "20 proposals beside a silent peer took {took:?}");
    cluster.clock.sleep(cluster.lab.quiet()).await;
    let now = cluster.leader().await?;
    ensure!(now == led, "a silent peer made {now:?} of {led:?}");
    Ok(())
}
