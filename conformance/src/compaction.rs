//! Snapshots, and the log behind them.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use quorate_core::consensus::{CompactError, LogIndex, NodeId, SNAPSHOT_CHUNK_BYTES, Snapshot, SnapshotMeta};

use super::{
    Backend, Capability, Stop, Verdict,
    cluster::{Cluster, Item, needs},
    ensure,
};

/// A snapshot at `index`, its history as `node` reads it.
async fn snapshot(cluster: &Cluster, node: NodeId, index: LogIndex) -> Result<(SnapshotMeta, Bytes), Stop> {
    let chain = cluster.resume_at(node, index).await?.chain;
    let items = cluster.read(node, LogIndex(index.0 - 1), index).await?;
    let Some(item) = items.last() else { return Err(Stop::Failed(format!("nothing at {index}"))) };
    let state = Bytes::from(format!("the state at {index}. ").repeat(100_000));
    Ok((SnapshotMeta { index, epoch: item.epoch(), chain, bytes: state.len() as u64 }, state))
}

fn chunked((meta, state): (SnapshotMeta, Bytes)) -> Snapshot {
    let chunks: Vec<_> =
        state.chunks(SNAPSHOT_CHUNK_BYTES).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Snapshot { meta, chunks: stream::iter(chunks).boxed() }
}

/// Makes the leader keep a snapshot of `index`, whoever leads.
async fn compact(cluster: &mut Cluster, index: LogIndex) -> Result<(SnapshotMeta, Bytes), Stop> {
    let node = cluster.leader().await?.node;
    let (meta, state) = snapshot(cluster, node, index).await?;
    let kept = cluster.node(node)?.compact(chunked((meta, state.clone())));
    let kept = cluster.within_patience("compact()", kept).await?;
    kept.map_err(|error| Stop::Failed(format!("compacting up to {index}: {error}")))?;
    Ok((meta, state))
}

pub(super) async fn late_reader_gets_snapshot_then_tail(backend: &dyn Backend) -> Verdict {
    needs(backend, Capability::ShortTail)?;
    let mut cluster = Cluster::started(backend, 1).await?;
    let mut last = LogIndex(0);
    for entry in 0..10 {
        last = cluster.commit(format!("entry {entry}")).await?;
    }
    let (meta, state) = compact(&mut cluster, last).await?;
    let tail = cluster.commit("tail").await?;
    let first = || cluster.node(NodeId(1)).ok().filter(|node| node.status().first > LogIndex(1)).map(drop);
    ensure!(cluster.wait(cluster.lab.patience(), first).await.is_some(), "the log keeps everything");
    let items = cluster.read(NodeId(1), LogIndex(0), tail).await?;
    ensure!(
        items.first() == Some(&Item::Snapshot(meta, state)),
        "a late reader begins with {:?}",
        items.first()
    );
    let indexes: Vec<u64> = items.iter().skip(1).map(|item| item.index().0).collect();
    let expected: Vec<u64> = (last.0 + 1..=tail.0).collect();
    ensure!(indexes == expected, "after the snapshot of {last} come {indexes:?} and not {expected:?}");
    Ok(())
}

pub(super) async fn restarted_node_gets_snapshot(backend: &dyn Backend) -> Verdict {
    needs(backend, Capability::ShortTail)?;
    let mut cluster = Cluster::started(backend, 3).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let away = cluster.living().into_iter().find(|&node| node != led.node).unwrap_or(led.node);
    cluster.kill(away).await;
    let mut last = LogIndex(0);
    for entry in 0..10 {
        last = cluster.commit(format!("entry {entry}")).await?;
    }
    let (meta, state) = compact(&mut cluster, last).await?;
    cluster.commit("more").await?;
    let tail = cluster.commit("tail").await?;
    cluster.start(away).await?;
    let caught_up = || cluster.node(away).ok().filter(|node| node.status().committed >= tail).map(drop);
    ensure!(cluster.wait(cluster.lab.patience(), caught_up).await.is_some(), "node {away} does not catch up");
    let items = cluster.read(away, LogIndex(0), tail).await?;
    let found = items.iter().find(|item| matches!(item, Item::Snapshot(..)));
    ensure!(found.is_none_or(|item| *item == Item::Snapshot(meta, state)), "another snapshot than was kept");
    ensure!(items.last().is_some_and(|item| item.data() == "tail"), "the tail is not read");
    Ok(())
}

pub(super) async fn compact_behind_newer_is_idempotent(backend: &dyn Backend) -> Verdict {
    let mut cluster = Cluster::started(backend, 1).await?;
    let mut indexes = Vec::new();
    for entry in 0..6 {
        indexes.push(cluster.commit(format!("entry {entry}")).await?);
    }
    let (Some(&old), Some(&new)) = (indexes.get(1), indexes.get(4)) else { return Ok(()) };
    let node = cluster.node(NodeId(1))?.clone();
    let older = snapshot(&cluster, NodeId(1), old).await?;
    let newer = snapshot(&cluster, NodeId(1), new).await?;
    for (round, snapshot) in [&newer, &newer, &older].into_iter().enumerate() {
        let kept = cluster.within_patience("compact()", node.compact(chunked(snapshot.clone()))).await?;
        ensure!(kept.is_ok(), "compaction {round}: {kept:?}");
    }
    let last = cluster.commit("last").await?;
    let items = cluster.read(NodeId(1), LogIndex(0), last).await?;
    let older = items.iter().find(|item| matches!(item, Item::Snapshot(meta, _) if meta.index == old));
    ensure!(older.is_none(), "the older snapshot took the newer one's place");
    Ok(())
}

pub(super) async fn compact_never_forgets_unsnapshotted(backend: &dyn Backend) -> Verdict {
    let mut cluster = Cluster::started(backend, 1).await?;
    let first = cluster.commit("entry 0").await?;
    for entry in 1..6 {
        cluster.commit(format!("entry {entry}")).await?;
    }
    let node = cluster.node(NodeId(1))?.clone();
    let (meta, state) = snapshot(&cluster, NodeId(1), first).await?;
    let ahead = SnapshotMeta { index: LogIndex(node.status().committed.0 + 100), ..meta };
    let kept = cluster.within_patience("compact()", node.compact(chunked((ahead, state.clone())))).await?;
    ensure!(kept == Err(CompactError::Foreign), "a snapshot ahead of the log: {kept:?}");
    let short = SnapshotMeta { bytes: meta.bytes + 1, ..meta };
    let kept = cluster.within_patience("compact()", node.compact(chunked((short, state.clone())))).await?;
    ensure!(matches!(kept, Err(CompactError::Snapshot(_))), "a snapshot that ends early: {kept:?}");
    compact(&mut cluster, first).await?;
    let last = cluster.commit("last").await?;
    let items = cluster.read(NodeId(1), first, last).await?;
    let indexes: Vec<u64> = items.iter().map(|item| item.index().0).collect();
    let expected: Vec<u64> = (first.0 + 1..=last.0).collect();
    ensure!(indexes == expected, "after the snapshot of {first}: {indexes:?} and not {expected:?}");
    Ok(())
}
