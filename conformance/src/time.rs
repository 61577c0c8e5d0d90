//! Clocks that jump, run too fast or stand still.

use std::time::Duration;

use quorate_core::consensus::Leader;

use super::{
    Backend, Capability, Stop, Verdict,
    cluster::{Cluster, needs},
    ensure,
};

const HOUR_S: i64 = 3600;

pub(super) async fn wall_clock_jump_changes_nothing(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::WallClock)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    for (round, ahead) in [HOUR_S, -HOUR_S, 0].into_iter().enumerate() {
        for node in cluster.living() {
            cluster.lab.set_wall_clock(node, ahead).await;
            cluster.commit(format!("entry {round} of {node}")).await?;
        }
        cluster.clock.sleep(cluster.lab.quiet() / 2).await;
        let now = cluster.leader().await?;
        ensure!(now == led, "wall clocks {ahead} s ahead made {now:?} of {led:?}");
    }
    let last = cluster.commit("last").await?;
    cluster.same_everywhere(last).await.map(drop)
}

pub(super) async fn pause_longer_than_lease(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Pause)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let old = cluster.leader().await?;
    cluster.lab.pause(old.node, true).await;
    let led = cluster.leader_after(old.epoch).await?;
    cluster.commit("while it slept").await?;
    cluster.clock.sleep(cluster.lab.quiet()).await;
    cluster.lab.pause(old.node, false).await;
    let woken = || {
        let event = cluster.last_event(old.node)?;
        let overtaken = event.epoch > old.epoch && event.leader != Leader::Unknown;
        overtaken.then_some(event)
    };
    let woken = cluster.wait(cluster.lab.patience(), woken).await;
    ensure!(woken.is_some(), "node {} has slept through {led:?} and does not notice", old.node);
    let last = cluster.commit("after it woke").await?;
    cluster.same_everywhere(last).await.map(drop)
}

pub(super) async fn clock_rate_2x_on_one_node(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::ClockRate)?;
    for of_leader in [false, true] {
        let mut cluster = Cluster::started(backend, nodes).await?;
        let led = cluster.leader().await?;
        let node = if of_leader { led.node } else { cluster.follower(led)? };
        cluster.lab.double_clock_rate(node).await;
        let mut last = cluster.commit("entry").await?;
        for entry in 0..5 {
            cluster.clock.sleep(cluster.lab.quiet() / 5).await;
            last = cluster.commit(format!("entry {entry}")).await?;
        }
        // It may take the leadership, but does not make it change for ever.
        let settled = cluster.leader().await?;
        cluster.clock.sleep(cluster.lab.quiet()).await;
        let now = cluster.leader().await?;
        ensure!(now == settled, "with the clock of node {node} twice as fast, {now:?} follows {settled:?}");
        cluster.same_everywhere(last).await?;
    }
    Ok(())
}

/// Each way; an answer takes twice as long.
const SLOW_LINK: Duration = Duration::from_millis(25);

pub(super) async fn slow_links_keep_the_leader(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Delay)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    let Some(follower) = cluster.followers(led).first().copied() else {
        return Err(Stop::Failed("no follower".to_owned()));
    };
    for node in [follower, led.node] {
        cluster.lab.delay(node, SLOW_LINK).await;
        for entry in 0..5 {
            cluster.commit(format!("entry {entry}")).await?;
        }
        cluster.clock.sleep(cluster.lab.quiet()).await;
        let now = cluster.leader().await?;
        ensure!(now == led, "{SLOW_LINK:?} to and from node {node} made {now:?} of {led:?}");
        cluster.lab.delay(node, Duration::ZERO).await;
    }
    let last = cluster.commit("last").await?;
    cluster.same_everywhere(last).await.map(drop)
}
