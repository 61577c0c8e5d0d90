//! What is there after a crash.

use std::time::Duration;

use quorate_core::consensus::{Chain, Leader, LogIndex, NodeId, ProposeError, Resume, StartError};

use super::{
    Backend, Capability, DiskFault, Stop, Verdict,
    cluster::{Cluster, Item, needs},
    ensure,
};

pub(super) async fn acked_survives_kill_of_all(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let mut acked: Vec<(LogIndex, String)> = Vec::new();
    for round in 0..4 {
        for entry in 0..3 {
            let data = format!("entry {round}.{entry}");
            acked.push((cluster.commit(data.clone()).await?, data));
        }
        cluster.kill_all().await;
        cluster.start_all().await?;
        let led = cluster.leader().await?;
        let items = cluster.read(led.node, LogIndex(0), led.opened_at).await?;
        for (index, data) in &acked {
            let found = items.iter().find(|item| item.index() == *index).map(Item::data);
            let there = found.is_some_and(|found| found == data.as_bytes());
            ensure!(there, "'{data}' was acknowledged at {index}; after the kill of all: {found:?}");
        }
    }
    Ok(())
}

pub(super) async fn resume_after_applied_repeats_nothing(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    for entry in 0..5 {
        cluster.commit(format!("entry {entry}")).await?;
    }
    let applied = cluster.commit("the last applied").await?;
    let node = cluster.leader().await?.node;
    let follower = cluster.voters().into_iter().find(|&other| other != node).unwrap_or(node);
    let resume = cluster.resume_at(follower, applied).await?;
    cluster.kill(follower).await;
    cluster.start_from(follower, resume).await?;
    let next = cluster.commit("the next").await?;
    let items = cluster.read(follower, applied, next).await?;
    let indexes: Vec<u64> = items.iter().map(|item| item.index().0).collect();
    let expected: Vec<u64> = (applied.0 + 1..=next.0).collect();
    ensure!(indexes == expected, "after {applied} was applied, {indexes:?} and not {expected:?}");
    Ok(())
}

pub(super) async fn resume_of_another_history_is_refused(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
    let applied = cluster.commit("entry").await?;
    let resume = cluster.resume_at(NodeId(1), applied).await?;
    cluster.shut_down(NodeId(1)).await;
    let foreign = Resume { chain: Chain([0xEE; 16]), ..resume };
    match cluster.try_start(NodeId(1), foreign).await? {
        Err(StartError::Foreign(_)) => {}
        Err(other) => return Err(Stop::Failed(format!("another history is refused, but as: {other}"))),
        Ok(running) => {
            // A backend that sees its log only later becomes fatal then.
            cluster.adopt(NodeId(1), running);
            let patience = cluster.lab.patience();
            let fatal = || cluster.node(NodeId(1)).ok()?.status().fatal;
            let fatal = cluster.wait(patience, fatal).await;
            ensure!(fatal.is_some(), "a state of another history goes on");
            cluster.kill(NodeId(1)).await;
        }
    }
    cluster.lab.crashed(NodeId(1)).await;
    cluster.start_from(NodeId(1), resume).await?;
    cluster.leader().await.map(drop)
}

pub(super) async fn slow_sync_keeps_leadership_or_loses_it_cleanly(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    needs(backend, Capability::Disk)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    cluster.lab.spoil_disk(led.node, DiskFault::Slow).await;
    let proposed = cluster.node(led.node)?.propose(led.epoch, "slow".into());
    let proposed = cluster.within_patience("a proposal on a slow disk", proposed).await?;
    let clean = matches!(proposed, Ok(_) | Err(ProposeError::Unknown | ProposeError::NotLeader { .. }));
    ensure!(clean, "a proposal on a slow disk: {proposed:?}");
    cluster.lab.spoil_disk(led.node, DiskFault::Healed).await;
    let last = cluster.commit("healed").await?;
    for node in cluster.living() {
        cluster.read(node, LogIndex(0), last).await?;
    }
    Ok(())
}

pub(super) async fn failed_sync_is_fatal_not_retried(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Disk)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    cluster.lab.spoil_disk(led.node, DiskFault::FailSync).await;
    let proposed = cluster.node(led.node)?.propose(led.epoch, "never synced here".into());
    let proposed = cluster.within_patience("a proposal on a failing disk", proposed).await?;
    ensure!(!matches!(proposed, Err(ProposeError::Busy)), "a proposal on a failing disk: {proposed:?}");
    let fatal = || cluster.node(led.node).ok()?.status().fatal;
    let fatal = cluster.wait(cluster.lab.patience(), fatal).await;
    ensure!(fatal.is_some(), "a failed sync, and the node goes on");
    let proposed = cluster.node(led.node)?.propose(led.epoch, "after".into()).await;
    ensure!(proposed == Err(ProposeError::Stopped), "a proposal after a fatal failure: {proposed:?}");
    cluster.kill(led.node).await;
    cluster.lab.spoil_disk(led.node, DiskFault::Healed).await;
    cluster.start(led.node).await?;
    cluster.commit("healed").await.map(drop)
}

pub(super) async fn torn_last_record_is_cut(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Disk)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let acked = cluster.commit("acked").await?;
    let led = cluster.leader().await?;
    let node = led.node;
    // A write that the crash comes into.
    cluster.lab.spoil_disk(node, DiskFault::Slow).await;
    let torn = cluster.node(node)?.propose(led.epoch, "torn".into());
    let _ = cluster.clock.timeout(Duration::from_millis(50), torn).await;
    cluster.kill(node).await;
    cluster.lab.spoil_disk(node, DiskFault::Healed).await;
    cluster.lab.spoil_disk(node, DiskFault::TornTail).await;
    cluster.start(node).await?;
    let last = cluster.commit("after").await?;
    let items = cluster.read(node, LogIndex(0), last).await?;
    let found = items.iter().find(|item| item.index() == acked).map(Item::data);
    ensure!(found.is_some_and(|data| data == "acked"), "after a torn tail, {found:?} is at {acked}");
    Ok(())
}

pub(super) async fn flipped_bit_in_the_middle_refuses_start(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Disk)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    for entry in 0..20 {
        cluster.commit(format!("entry {entry}")).await?;
    }
    let node = cluster.leader().await?.node;
    cluster.kill(node).await;
    cluster.lab.spoil_disk(node, DiskFault::FlippedBit).await;
    let started = cluster.try_start(node, Resume::default()).await?;
    let refused = matches!(started, Err(StartError::Storage(_)));
    ensure!(refused, "a flipped bit in the middle of the log, and the node starts");
    Ok(())
}

pub(super) async fn disk_full_is_reported_and_recovers(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::Disk)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let led = cluster.leader().await?;
    cluster.lab.spoil_disk(led.node, DiskFault::Full).await;
    let proposed = cluster.node(led.node)?.propose(led.epoch, vec![7; 4096].into());
    let outcome = cluster.within_patience("a proposal on a full disk", proposed).await?;
    let told = || {
        let status = cluster.node(led.node).ok()?.status();
        let gone = cluster.last_event(led.node)?.leader != Leader::Me { opened_at: led.opened_at };
        // What was written before the disk was full may be acknowledged by a node that is alone.
        status.fatal.or_else(|| (gone || (nodes == 1 && outcome.is_ok())).then(String::new))
    };
    let told = cluster.wait(cluster.lab.patience(), told).await;
    ensure!(told.is_some(), "{outcome:?}: a full disk is neither fatal nor a reason to give up leading");
    cluster.kill(led.node).await;
    cluster.lab.spoil_disk(led.node, DiskFault::Healed).await;
    cluster.start(led.node).await?;
    let last = cluster.commit("healed").await?;
    cluster.read(led.node, LogIndex(0), last).await.map(drop)
}

pub(super) async fn lost_sync_on_a_minority_loses_no_ack(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::LyingDisk)?;
    needs(backend, Capability::Votes)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let liars: Vec<NodeId> = cluster.followers(led).into_iter().take((nodes - 1) / 2).collect();
    for &node in &liars {
        cluster.lab.spoil_disk(node, DiskFault::LoseSyncs).await;
    }
    let mut acked = Vec::new();
    for entry in 0..10 {
        acked.push((cluster.commit(format!("entry {entry}")).await?, format!("entry {entry}")));
    }
    for &node in &liars {
        cluster.kill(node).await;
        // A node whose disk has lost what it promised may refuse to start.
        if let Ok(running) = cluster.try_start(node, Resume::default()).await? {
            cluster.adopt(node, running);
        }
    }
    let last = cluster.commit("after").await?;
    let node = cluster.leader().await?.node;
    let items = cluster.read(node, LogIndex(0), last).await?;
    for (index, data) in acked {
        let found = items.iter().find(|item| item.index() == index).map(Item::data);
        let there = found.is_some_and(|found| found == data.as_bytes());
        ensure!(there, "'{data}' was acknowledged at {index}; {} disks lied: {found:?}", liars.len());
    }
    Ok(())
}

pub(super) async fn lost_sync_on_one_node_is_detected(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::LyingDisk)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let liar = cluster.followers(led).first().copied().unwrap_or(led.node);
    cluster.lab.spoil_disk(liar, DiskFault::LoseSyncs).await;
    let mut last = LogIndex(0);
    for entry in 0..10 {
        last = cluster.commit(format!("entry {entry}")).await?;
    }
    let resume = cluster.resume_at(liar, last).await?;
    cluster.kill(liar).await;
    match cluster.try_start(liar, resume).await? {
        Err(StartError::Foreign(_) | StartError::Storage(_)) => return Ok(()),
        Err(error) => return Err(Stop::Failed(format!("a log behind its caller is refused as: {error}"))),
        Ok(running) => cluster.adopt(liar, running),
    }
    let until = if nodes > 1 { Some(cluster.commit("after").await?) } else { None };
    let told = || {
        let status = cluster.node(liar).ok()?.status();
        let mended = until.is_some_and(|until| status.committed >= until);
        (status.fatal.is_some() || mended).then_some(status)
    };
    let Some(status) = cluster.wait(cluster.lab.patience(), told).await else {
        let reason = format!("node {liar} has lost entries that its caller has applied, and says nothing");
        return Err(Stop::Failed(reason));
    };
    if let (None, Some(until)) = (status.fatal, until) {
        // It has got from the others what its disk lost.
        cluster.same_everywhere(until).await?;
    }
    Ok(())
}
