//! What only a quorum outside of the nodes can do.

use quorate_core::consensus::LogIndex;

use super::{
    Backend, Capability, Verdict,
    cluster::{Cluster, Item, needs},
    ensure,
};

pub(super) async fn outage_of_the_external_quorum_heals(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::External)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let before = cluster.commit("before").await?;
    let led = cluster.leader().await?;
    cluster.lab.stop_external(true).await;
    let silent = || cluster.announced().is_none().then_some(());
    let silent = cluster.wait(cluster.lab.patience(), silent).await;
    ensure!(silent.is_some(), "without the quorum outside, a node says that it leads");
    let proposed = cluster.node(led.node)?.propose(led.epoch, "into nowhere".into());
    let proposed = cluster.within_patience("a proposal in an outage", proposed).await?;
    ensure!(proposed.is_err(), "a proposal in an outage was committed at {proposed:?}");
    let barrier = cluster.node(led.node)?.read_barrier();
    let barrier = cluster.within_patience("a read barrier in an outage", barrier).await?;
    ensure!(barrier.is_err(), "a read barrier in an outage: {barrier:?}");
    cluster.lab.stop_external(false).await;
    let last = cluster.commit("after").await?;
    let items = cluster.same_everywhere(last).await?;
    ensure!(items.iter().any(|item| item.index() == before), "the entry of before the outage is gone");
    Ok(())
}

pub(super) async fn two_clusters_share_one_external_store(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::External)?;
    let mut one = Cluster::started(backend, nodes).await?;
    let mut other = Cluster::started(backend, nodes).await?;
    for entry in 0..5 {
        one.commit(format!("of one {entry}")).await?;
        other.commit(format!("of the other {entry}")).await?;
    }
    let (led, undisturbed) = (one.leader().await?, other.leader().await?);
    one.kill(led.node).await;
    one.leader_after(led.epoch).await?;
    let last = one.commit("of one, last").await?;
    let now = other.leader().await?;
    ensure!(now == undisturbed, "the death of another cluster's leader made {now:?} of {undisturbed:?}");
    let node = one.leader().await?.node;
    let items = one.read(node, LogIndex(0), last).await?;
    let foreign = items.iter().map(Item::data).find(|data| data.starts_with(b"of the other"));
    ensure!(foreign.is_none(), "one cluster reads another's {foreign:?}");
    Ok(())
}
