//! Snapshots, and the log behind them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use quorate_core::consensus::{
    Committed, CompactError, LogIndex, NodeId, SNAPSHOT_CHUNK_BYTES, Snapshot, SnapshotMeta,
};

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

pub(super) async fn late_reader_gets_snapshot_then_tail(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::ShortTail)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
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

pub(super) async fn restarted_node_gets_snapshot(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::ShortTail)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
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

pub(super) async fn compact_behind_newer_is_idempotent(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
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

pub(super) async fn compact_never_forgets_unsnapshotted(backend: &dyn Backend, nodes: usize) -> Verdict {
    let mut cluster = Cluster::started(backend, nodes).await?;
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

pub(super) async fn snapshot_survives_kill_of_all(backend: &dyn Backend, nodes: usize) -> Verdict {
    needs(backend, Capability::ShortTail)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    let mut last = LogIndex(0);
    for entry in 0..10 {
        last = cluster.commit(format!("entry {entry}")).await?;
    }
    let (meta, state) = compact(&mut cluster, last).await?;
    cluster.commit("tail").await?;
    cluster.kill_all().await;
    cluster.start_all().await?;
    let until = cluster.commit("after").await?;
    let mut kept = 0;
    for node in cluster.living() {
        let items = cluster.read(node, LogIndex(0), until).await?;
        match items.first() {
            Some(Item::Snapshot(..)) => {
                ensure!(
                    items.first() == Some(&Item::Snapshot(meta, state.clone())),
                    "another snapshot at {node}"
                );
                kept += 1;
            }
            Some(Item::Entry(index, ..)) => ensure!(*index == LogIndex(1), "node {node} begins with {index}"),
            None => {}
        }
    }
    ensure!(kept > 0, "no node keeps the snapshot, and it was acknowledged");
    cluster.same_everywhere(until).await.map(drop)
}

/// When a node is killed that gets a snapshot, in milliseconds after its start.
const KILLS_MS: [u64; 6] = [0, 5, 20, 50, 120, 300];

pub(super) async fn kill_during_snapshot_install_is_all_or_nothing(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    needs(backend, Capability::ShortTail)?;
    needs(backend, Capability::Votes)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let away = cluster.follower(led)?;
    cluster.kill(away).await;
    let mut last = LogIndex(0);
    for entry in 0..10 {
        last = cluster.commit(format!("entry {entry}")).await?;
    }
    let (meta, state) = compact(&mut cluster, last).await?;
    let tail = cluster.commit("tail").await?;
    for after in KILLS_MS {
        cluster.start(away).await?;
        cluster.clock.sleep(Duration::from_millis(after)).await;
        cluster.kill(away).await;
    }
    cluster.start(away).await?;
    let items = cluster.read(away, LogIndex(0), tail).await?;
    let found = items.iter().find(|item| matches!(item, Item::Snapshot(..)));
    ensure!(
        found.is_none_or(|item| *item == Item::Snapshot(meta, state)),
        "a part of a snapshot, or another"
    );
    cluster.same_everywhere(tail).await.map(drop)
}

/// The chunks of a large snapshot, and what a node may use while it passes through.
const LARGE_CHUNKS: u64 = 256;
const LARGE_MEMORY: u64 = 128 << 20;

fn large_chunk(number: u64) -> Bytes {
    let seed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    Bytes::from(seed.repeat(SNAPSHOT_CHUNK_BYTES / seed.len()))
}

pub(super) async fn large_snapshot_256_mib_streams_in_bounded_memory(
    backend: &dyn Backend,
    nodes: usize,
) -> Verdict {
    needs(backend, Capability::ShortTail)?;
    needs(backend, Capability::Memory)?;
    let mut cluster = Cluster::started(backend, nodes).await?;
    cluster.commit("before").await?;
    let led = cluster.leader().await?;
    let away = cluster.follower(led)?;
    cluster.kill(away).await;
    let last = cluster.commit("entry").await?;
    let (meta, _) = snapshot(&cluster, led.node, last).await?;
    let meta = SnapshotMeta { bytes: LARGE_CHUNKS * SNAPSHOT_CHUNK_BYTES as u64, ..meta };
    let chunks = stream::iter((0..LARGE_CHUNKS).map(|number| Ok(large_chunk(number)))).boxed();
    let patience = cluster.lab.patience() * 6;
    let kept = cluster.node(led.node)?.compact(Snapshot { meta, chunks });
    let kept = cluster.clock.timeout(patience, kept).await;
    ensure!(kept == Ok(Ok(())), "keeping a large snapshot: {kept:?}");
    let tail = cluster.commit("tail").await?;
    cluster.start(away).await?;
    let caught_up = || cluster.node(away).ok().filter(|node| node.status().committed >= tail).map(drop);
    ensure!(cluster.wait(patience, caught_up).await.is_some(), "node {away} does not catch up");
    let read = cluster.clock.timeout(patience, read_large(&cluster, led.node, meta)).await;
    read.map_err(|_| Stop::Failed(format!("a large snapshot is not read within {patience:?}")))??;
    for node in cluster.living() {
        let peak = cluster.lab.memory_peak(node).unwrap_or_default();
        ensure!(peak < LARGE_MEMORY, "node {node} used {} MiB for a snapshot of 256 MiB", peak >> 20);
    }
    Ok(())
}

async fn read_large(cluster: &Cluster, node: NodeId, meta: SnapshotMeta) -> Verdict {
    let mut stream = cluster.node(node)?.committed(LogIndex(0));
    let Some(Committed::Snapshot(mut snapshot)) = stream.next().await else {
        return Err(Stop::Failed("a late reader does not begin with the snapshot".to_owned()));
    };
    ensure!(snapshot.meta == meta, "another snapshot: {:?}", snapshot.meta);
    let (mut number, mut rest) = (0, Bytes::new());
    while let Some(chunk) = snapshot.chunks.next().await {
        let chunk = chunk.map_err(|error| Stop::Failed(error.to_string()))?;
        let mut whole = [rest, chunk].concat();
        while whole.len() >= SNAPSHOT_CHUNK_BYTES {
            let left = whole.split_off(SNAPSHOT_CHUNK_BYTES);
            ensure!(whole == large_chunk(number), "MiB {number} of the snapshot differs");
            (number, whole) = (number + 1, left);
        }
        rest = whole.into();
    }
    ensure!(number == LARGE_CHUNKS && rest.is_empty(), "the snapshot ends after {number} MiB");
    Ok(())
}
