//! Changes of the voters, one at a time.

use std::collections::BTreeSet;

use quorate_core::consensus::{MembershipChange, MembershipError, NodeId, Resume};

use super::{
    Backend, Capability, Stop, Verdict,
    cluster::{Cluster, Led, needs},
    ensure,
};

/// Asks whoever leads until the change has come about.
async fn change(cluster: &mut Cluster, change: MembershipChange) -> Verdict {
    let mut last = String::new();
    for _ in 0..20 {
        let led = cluster.leader().await?;
        let running = cluster.node(led.node)?.clone();
        let changed = running.change_membership(change.clone());
        match cluster.within_patience("a change of the voters", changed).await? {
            Ok(()) => return Ok(()),
            Err(error @ MembershipError::Unsupported) => return Err(Stop::Failed(error.to_string())),
            Err(error) => last = error.to_string(),
        }
        cluster.clock.sleep(cluster.lab.quiet() / 10).await;
    }
    Err(Stop::Failed(format!("{change:?} does not come about: {last}")))
}

/// Starts one node more. It is no voter.
async fn newcomer(cluster: &mut Cluster) -> Result<NodeId, Stop> {
    let Some(node) = cluster.lab.newcomer().await else {
        return Err(Stop::Failed("the lab has no room for another node".to_owned()));
    };
    cluster.start(node).await?;
    Ok(node)
}

fn add(cluster: &Cluster, node: NodeId) -> MembershipChange {
    MembershipChange::Add { node, endpoint: cluster.lab.endpoint(node) }
}

/// Waits until a node says that the voters are these.
async fn knows_voters(cluster: &Cluster, node: NodeId, voters: &BTreeSet<NodeId>) -> Verdict {
    let known =
        || cluster.node(node).ok().map(|node| node.status().voters.into_keys().collect::<BTreeSet<_>>());
    let agrees = || known().filter(|known| known == voters);
    let agrees = cluster.wait(cluster.lab.patience(), agrees).await;
    ensure!(agrees.is_some(), "node {node} says that the voters are {:?} and not {voters:?}", known());
    Ok(())
}

async fn stays_leader(cluster: &mut Cluster, led: Led, why: &str) -> Verdict {
    cluster.clock.sleep(cluster.lab.quiet()).await;
    let now = cluster.leader().await?;
    ensure!(now == led, "{why} made {now:?} of {led:?}");
    Ok(())
}

pub(super) async fn add_learner_then_promote(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Membership)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let before = cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let founders: BTreeSet<NodeId> = cluster.voters().into_iter().collect();
    let node = newcomer(&mut cluster).await?;
    cluster.clock.sleep(cluster.lab.quiet()).await;
    knows_voters(&cluster, led.node, &founders).await?;
    let wanted = add(&cluster, node);
    change(&mut cluster, wanted).await?;
    let voters: BTreeSet<NodeId> = founders.iter().copied().chain([node]).collect();
    let after = cluster.commit("after").await?;
    for each in cluster.living() {
        knows_voters(&cluster, each, &voters).await?;
    }
    let items = cluster.same_everywhere(after).await?;
    ensure!(items.iter().any(|item| item.index() == before), "the entry of before is not read");
    // It votes: without it there is no majority of two or of four, once another is down.
    let gone = cluster.living().into_iter().find(|&each| each != node && each != cluster_leader(&cluster));
    if let (Some(gone), true) = (gone, nodes >= 3) {
        cluster.kill(gone).await;
        cluster.commit("with the new voter").await?;
    }
    Ok(())
}

fn cluster_leader(cluster: &Cluster) -> NodeId {
    cluster.announced().map_or(NodeId(0), |led| led.node)
}

pub(super) async fn remove_leader_hands_over(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Membership)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    change(&mut cluster, MembershipChange::Remove(led.node)).await?;
    let next = cluster.leader_after(led.epoch).await?;
    ensure!(next.node != led.node, "the removed node {} leads again", led.node);
    let voters: BTreeSet<NodeId> = cluster.voters().into_iter().filter(|&node| node != led.node).collect();
    for &node in &voters {
        knows_voters(&cluster, node, &voters).await?;
    }
    cluster.kill(led.node).await;
    cluster.commit("after").await.map(drop)
}

pub(super) async fn removed_node_cannot_disturb(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Membership)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let removed = cluster.follower(led)?;
    change(&mut cluster, MembershipChange::Remove(removed)).await?;
    stays_leader(&mut cluster, led, "a node that was removed").await?;
    cluster.kill(removed).await;
    // It may be told, and refuse to start.
    if let Ok(running) = cluster.try_start(removed, Resume::default()).await? {
        cluster.adopt(removed, running);
    }
    stays_leader(&mut cluster, led, "a removed node that came back").await?;
    cluster.commit("after").await.map(drop)
}

pub(super) async fn same_change_twice_is_one(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Membership)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let removed = cluster.follower(led)?;
    let added = newcomer(&mut cluster).await?;
    for wanted in [add(&cluster, added), MembershipChange::Remove(removed)] {
        change(&mut cluster, wanted.clone()).await?;
        change(&mut cluster, wanted).await?;
    }
    let kept = cluster.voters().into_iter().filter(|&node| node != removed);
    let voters: BTreeSet<NodeId> = kept.chain([added]).collect();
    for &node in &voters {
        knows_voters(&cluster, node, &voters).await?;
    }
    cluster.commit("after").await.map(drop)
}

pub(super) async fn change_during_partition(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Membership)?;
    needs(backend, Capability::Cut)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let away = cluster.follower(led)?;
    let added = newcomer(&mut cluster).await?;
    cluster.lab.cut(away).await;
    let wanted = add(&cluster, added);
    change(&mut cluster, wanted).await?;
    cluster.commit("while one is cut off").await?;
    cluster.lab.heal(away).await;
    let voters: BTreeSet<NodeId> = cluster.voters().into_iter().chain([added]).collect();
    for &node in &voters {
        knows_voters(&cluster, node, &voters).await?;
    }
    // A leader that is cut off changes nothing, and does not keep its caller waiting.
    let led = cluster.leader().await?;
    cluster.lab.cut(led.node).await;
    let alone = cluster.node(led.node)?.clone();
    let changed = alone.change_membership(MembershipChange::Remove(away));
    let changed = cluster.within_patience("a change by a leader that is cut off", changed).await?;
    ensure!(changed.is_err(), "a leader that is cut off changed the voters");
    cluster.lab.heal(led.node).await;
    let last = cluster.commit("after").await?;
    // What nobody confirmed may come about all the same, and a node that is out need not hear of what follows.
    let node = cluster.leader().await?.node;
    if !cluster.node(node)?.status().voters.contains_key(&away) {
        cluster.kill(away).await;
    }
    cluster.same_everywhere(last).await.map(drop)
}

pub(super) async fn wiped_node_rejoins_only_as_learner(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Membership)?;
    needs(backend, Capability::Folder)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let acked = cluster.commit("acked").await?;
    let led = cluster.leader().await?;
    let [wiped, other] = cluster.followers(led).first_chunk().copied().ok_or_else(no_followers)?;
    cluster.kill(wiped).await;
    cluster.kill(other).await;
    cluster.lab.wipe(wiped).await;
    cluster.start(wiped).await?;
    // A vote of a node that has forgotten what it voted for and kept would make a majority of two.
    let silent = || cluster.announced().is_none().then_some(());
    let silent = cluster.wait(cluster.lab.patience(), silent).await;
    ensure!(silent.is_some(), "a leader with nobody but an emptied node");
    cluster.clock.sleep(cluster.lab.quiet()).await;
    ensure!(cluster.announced().is_none(), "an emptied node has voted");
    cluster.start(other).await?;
    cluster.commit("without it").await?;
    change(&mut cluster, MembershipChange::Remove(wiped)).await?;
    let wanted = add(&cluster, wiped);
    change(&mut cluster, wanted).await?;
    let last = cluster.commit("with it").await?;
    let items = cluster.same_everywhere(last).await?;
    ensure!(items.iter().any(|item| item.index() == acked), "an acknowledged entry is gone");
    Ok(())
}

fn no_followers() -> Stop {
    Stop::Failed("too few followers".to_owned())
}

pub(super) async fn voters_that_are_not_ours_do_not_change(backend: &dyn Backend, nodes: usize) -> Verdict {
    if backend.can(Capability::Membership).is_ok() {
        return Err(Stop::Skipped(
            "its voters can be changed, as the other cases of the group show".to_owned(),
        ));
    }
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let running = cluster.node(led.node)?.clone();
    let changed = running.change_membership(MembershipChange::Remove(NodeId(1)));
    let changed = cluster.within_patience("a change of the voters", changed).await?;
    let refused = changed == Err(MembershipError::Unsupported);
    ensure!(refused, "it cannot change its voters, and answers {changed:?}");
    Ok(())
}
