//! Group commit: one thread for each log directory syncs whatever has been appended, again and again. There is no timer:
//! what comes while a round runs is the next round.

use std::{io, sync::Arc};

use super::Broker;
use crate::{
    log::{DiskFailure, SyncDepth},
    partition::{backlog::Backlog, replica::Replica},
};

/// Replicas of one log directory that have something to sync.
pub(super) type Dirty = Arc<Backlog<Arc<Replica>>>;

/// Syncs the replicas of a log directory until the node stops; what was asked for by then is synced before it returns.
/// A sync that fails ends the process: what was written is in doubt, and another try would not tell.
pub(super) async fn run(broker: Arc<Broker>, dirty: Dirty) {
    loop {
        let round = tokio::select! { biased;
            round = dirty.take() => round,
            () = broker.runtime.tasks.stopping() => break,
        };
        if !sync_all(&broker, round, SyncDepth::Batches).await {
            return;
        }
    }
    // A clean end: the next start has nothing to check.
    let own = broker.partitions.all().into_iter().filter(|replica| replica.is_synced_by(&dirty)).collect();
    sync_all(&broker, own, SyncDepth::Everything).await;
}

/// One round; whether the disk is sound.
async fn sync_all(broker: &Broker, round: Vec<Arc<Replica>>, depth: SyncDepth) -> bool {
    for replica in round {
        if let Err(reason) = sync(broker, &replica, depth).await {
            // A partition that was deleted meanwhile may have lost its folder in the middle.
            if replica.is_gone() {
                continue;
            }
            broker.fail_sync(&format!(
                "a sync of {}-{} failed, so that nobody can say what is on the disk: {reason}. The process ends and \
                 must be started anew; other replicas go on",
                replica.topic, replica.partition.index
            ));
            return false;
        }
    }
    true
}

/// Syncs one replica. Where there is no space for what makes the next start quick, its batches are synced all the same.
async fn sync(broker: &Broker, replica: &Arc<Replica>, depth: SyncDepth) -> Result<(), String> {
    let no_space = |failure: &DiskFailure| failure.source.kind() == io::ErrorKind::StorageFull;
    match try_sync(broker, replica, depth).await {
        Err(failure) if depth == SyncDepth::Everything && no_space(&failure) => {
            tracing::warn!("{failure}: the next start has more to read");
            try_sync(broker, replica, SyncDepth::Batches).await.map_err(|error| error.to_string())
        }
        other => other.map_err(|error| error.to_string()),
    }
}

async fn try_sync(broker: &Broker, replica: &Arc<Replica>, depth: SyncDepth) -> Result<(), DiskFailure> {
    let Some(job) = replica.begin_sync(depth)? else { return Ok(()) };
    let under_way = broker.syncs.begin(broker.runtime.clock.now());
    let synced = job.run().await;
    drop(under_way);
    synced?;
    replica.finish_sync(job);
    Ok(())
}
