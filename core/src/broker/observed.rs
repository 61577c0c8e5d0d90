//! A voter's answer to observers: the committed log from an index on, read from the backend as the applier reads it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};

use super::Broker;
use crate::{
    consensus::{Committed, Leader, LogId, Running, Snapshot, SnapshotMeta},
    ids::{Epoch, LogIndex},
    protocol::observe::{ObserveRequest, ObserveResponse, Observed},
};

/// The longest that an observer may have its request wait.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// The most bytes of entries in an answer; one entry is sent whatever its size.
const BYTES_MAX: usize = 1 << 20;

/// A snapshot that observers are taking: its pieces, kept until a newer one is asked for.
pub(super) struct Pieces {
    meta: SnapshotMeta,
    pieces: Vec<Bytes>,
}

/// Answers an observer; `None` while the backend does not run.
pub async fn observe(broker: &Broker, request: &ObserveRequest) -> Option<ObserveResponse> {
    let consensus = broker.consensus()?;
    let content = match request.piece {
        Some((index, number)) => Observed::Piece(piece(broker, index, number)),
        None => following(broker, consensus, request).await,
    };
    let status = consensus.status();
    let event = consensus.leader_events().last();
    let leader = event.and_then(|event| match event.leader {
        Leader::Unknown => None,
        Leader::Other(node) => Some(node),
        Leader::Me { .. } => Some(broker.node()),
    });
    Some(ObserveResponse {
        log_id: status.log_id.unwrap_or_default(),
        epoch: event.map_or(status.epoch, |event| event.epoch),
        leader,
        committed: status.committed,
        content,
    })
}

async fn following(broker: &Broker, consensus: &Arc<dyn Running>, request: &ObserveRequest) -> Observed {
    let nothing = Observed::Entries(Vec::new());
    if consensus.status().log_id.unwrap_or_default() == LogId::default() {
        broker.runtime.clock.sleep(WAIT_MAX.min(Duration::from_millis(request.wait_ms.into()))).await;
        return nothing;
    }
    let mut committed = consensus.committed(request.after);
    let wait = WAIT_MAX.min(Duration::from_millis(request.wait_ms.into()));
    let mut item = match broker.runtime.clock.timeout(wait, committed.next()).await {
        Ok(item) => item,
        Err(_) => return nothing,
    };
    let most = usize::try_from(request.max_bytes).unwrap_or(BYTES_MAX).min(BYTES_MAX);
    let mut entries: Vec<(Epoch, Bytes)> = Vec::new();
    let mut bytes = 0;
    loop {
        match item {
            Some(Committed::Entry { epoch, data, .. }) => {
                bytes += data.len();
                entries.push((epoch, data));
            }
            Some(Committed::Snapshot(snapshot)) if entries.is_empty() => {
                return keep(broker, snapshot).await.unwrap_or(nothing);
            }
            Some(Committed::Snapshot(_)) | None => break,
        }
        if bytes >= most {
            break;
        }
        match committed.next().now_or_never() {
            Some(next) => item = next,
            None => break,
        }
    }
    Observed::Entries(entries)
}

/// Keeps a snapshot for the requests for its pieces.
async fn keep(broker: &Broker, snapshot: Snapshot) -> Option<Observed> {
    let Snapshot { meta, mut chunks } = snapshot;
    let kept = broker.pieces.lock().clone();
    if let Some(kept) = kept.filter(|kept| kept.meta == meta) {
        return Some(Observed::Snapshot(meta, u32::try_from(kept.pieces.len()).ok()?));
    }
    let mut pieces = Vec::new();
    while let Some(chunk) = chunks.next().await {
        pieces.push(chunk.ok()?);
    }
    let count = u32::try_from(pieces.len()).ok()?;
    *broker.pieces.lock() = Some(Arc::new(Pieces { meta, pieces }));
    Some(Observed::Snapshot(meta, count))
}

fn piece(broker: &Broker, index: LogIndex, number: u32) -> Bytes {
    let kept = broker.pieces.lock().clone().filter(|kept| kept.meta.index == index);
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    kept.and_then(|kept| kept.pieces.get(number).cloned()).unwrap_or_default()
}
