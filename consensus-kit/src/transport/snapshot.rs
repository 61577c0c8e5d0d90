//! One snapshot on a connection of its own: a head, the chunks, one byte back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message;
use quorate_core::{
    consensus::{Chain, SNAPSHOT_CHUNK_BYTES, SnapshotMeta},
    ids::{Epoch, LogIndex, NodeId},
    runtime::Connection,
};
use tokio::sync::oneshot;

use super::{
    Event, Inner, Purpose,
    dial::{Call, dial},
    frame::{read_frame, write_frame},
};
use crate::snapshot::{SnapshotFile, Snapshots, Staged};

/// The head names a few voters.
const HEAD_CAP: usize = 2 << 20;
/// How long a peer may take to make a whole snapshot durable. A slow disk syncs some 20 MB in a second.
const KEEPING: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Eq, Message)]
struct WireHead {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(bytes = "bytes", tag = "4")]
    chain: Bytes,
    #[prost(uint64, tag = "5")]
    bytes: u64,
    #[prost(bytes = "bytes", tag = "6")]
    engine: Bytes,
}

/// Sends a snapshot and waits until the peer has taken it.
pub(super) async fn send(
    inner: &Inner,
    to: NodeId,
    body: Bytes,
    file: Arc<SnapshotFile>,
) -> Result<(), String> {
    let member = inner.member(to).ok_or("it is not a member")?;
    let endpoint = inner.endpoint(to, &member);
    let call =
        Call { to, directory: Some(member.directory), endpoint: &endpoint, purpose: Purpose::Snapshot };
    let (mut connection, _) = dial(inner, call).await?;
    let meta = file.meta();
    let head = WireHead {
        body,
        index: meta.index.0,
        epoch: meta.epoch.0,
        chain: Bytes::copy_from_slice(&meta.chain.0),
        bytes: meta.bytes,
        engine: file.engine().clone(),
    };
    inner.in_time("sending", write_frame(&mut connection, &head.encode_to_vec())).await?;
    let mut chunks = file.chunks();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| error.to_string())?;
        inner.in_time("sending", write_frame(&mut connection, &chunk)).await?;
    }
    let verdict = inner.runtime.clock.timeout(KEEPING, read_frame(&mut connection, 1)).await;
    let verdict =
        verdict.map_err(|_| "it did not confirm the snapshot")?.map_err(|error| error.to_string())?;
    if verdict.first() == Some(&1) { Ok(()) } else { Err("it did not take the snapshot".to_owned()) }
}

/// Receives a snapshot, aside, and hands it to the backend.
pub(super) async fn receive(inner: &Inner, from: NodeId, mut connection: Connection) -> Result<(), String> {
    let snapshots = inner.snapshots.lock().clone().ok_or("this node takes no snapshots yet")?;
    let head = inner.in_time("receiving", read_frame(&mut connection, HEAD_CAP)).await?;
    let head = WireHead::decode(head).map_err(|error| error.to_string())?;
    let (body, engine) = (head.body.clone(), head.engine.clone());
    let staged = stage(inner, &snapshots, head, &mut connection).await?;
    let (taken, verdict) = oneshot::channel();
    let event = Event::Snapshot { from, body, engine, staged, taken };
    inner.events.send(event).await.map_err(|_| "the backend has stopped")?;
    let verdict = verdict.await.unwrap_or(false);
    inner.in_time("confirming", write_frame(&mut connection, &[u8::from(verdict)])).await
}

async fn stage(
    inner: &Inner,
    snapshots: &Snapshots,
    head: WireHead,
    connection: &mut Connection,
) -> Result<Staged, String> {
    let chain = head.chain.as_ref().try_into().map_err(|_| "its head is malformed")?;
    let meta = SnapshotMeta {
        index: LogIndex(head.index),
        epoch: Epoch(head.epoch),
        chain: Chain(chain),
        bytes: head.bytes,
    };
    let mut writer = snapshots.begin(meta, head.engine).map_err(|error| error.to_string())?;
    let mut received = 0_u64;
    while received < meta.bytes {
        let chunk = inner.in_time("receiving", read_frame(connection, SNAPSHOT_CHUNK_BYTES)).await?;
        if chunk.is_empty() {
            return Err("it sent an empty chunk".to_owned());
        }
        received = received.saturating_add(chunk.len() as u64);
        writer.push(&chunk).map_err(|error| error.to_string())?;
    }
    writer.finish().map_err(|error| error.to_string())
}
