//! The observer: keeps the head current and says who leads. Runs on every node.

use std::{sync::Arc, time::Duration};

use quorate_core::consensus::{Epoch, Leader};

use crate::{
    head::{Head, HistoryLost},
    shared::Shared,
    storage::{StoreError, Watch, keys::Keys},
};

/// A watch that says nothing for so long proves nothing: look.
const SILENCE: Duration = Duration::from_secs(5);
/// Between attempts while etcd does not answer.
const RETRY: Duration = Duration::from_millis(100);

/// Runs until the backend stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    tokio::select! { biased;
        () = shared.stopping() => {}
        () = observe(&shared) => {}
    }
}

async fn observe(shared: &Shared) {
    let mut watch: Option<Box<dyn Watch>> = None;
    let mut silent = false;
    let mut failing = false;
    loop {
        let head = match shared.read_head().await {
            Ok(Ok(head)) => head,
            // A node that knows nothing yet begins where its cluster is now.
            Ok(Err(HistoryLost::Ended { root, generation })) if shared.knows_nothing() => {
                tracing::info!(node = %shared.node, generation, "the log under {root} has ended and is followed on");
                shared.keys.follow(generation);
                continue;
            }
            Ok(Err(lost)) => return shared.fail(&lost.to_string()),
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(node = %shared.node, "{error}");
                }
                watch = None;
                say_unknown(shared);
                shared.runtime.clock.sleep(RETRY).await;
                continue;
            }
        };
        if std::mem::take(&mut failing) {
            tracing::info!(node = %shared.node, "etcd answers again");
        }
        // Something has changed and the watch has not said so: it is dead.
        let old = shared.head().map_or(0, |old| old.tail_modified.max(old.epoch_modified));
        if silent && head.tail_modified.max(head.epoch_modified) > old {
            watch = None;
        }
        let revision = head.revision;
        announce(shared, &head);
        shared.publish(head);
        if watch.is_none() {
            let ranges = [shared.keys.heads(), Keys::one(shared.keys.tail())];
            watch = shared.store.watch(&ranges, revision).await.ok();
        }
        let Some(open) = &mut watch else {
            shared.runtime.clock.sleep(RETRY).await;
            continue;
        };
        match wake(shared, &mut **open).await {
            Wake::Changed => silent = false,
            Wake::Silent => silent = true,
            Wake::Lost => (silent, watch) = (false, None),
        }
    }
}

enum Wake {
    Changed,
    Silent,
    Lost,
}

/// Waits until it is worth to read the head.
async fn wake(shared: &Shared, watch: &mut dyn Watch) -> Wake {
    let changed = tokio::select! { biased;
        () = shared.refresh.notified() => return Wake::Changed,
        changed = shared.runtime.clock.timeout(SILENCE.min(shared.ttl / 2), watch.changed()) => changed,
    };
    match changed {
        Ok(Ok(())) => Wake::Changed,
        Ok(Err(StoreError::Unknown(_) | StoreError::Refused(..))) => Wake::Lost,
        Err(_) => Wake::Silent,
    }
}

fn announce(shared: &Shared, head: &Head) {
    let leader = match &head.leader {
        None => Leader::Unknown,
        Some((record, _)) if record.node != shared.node => Leader::Other(record.node),
        // This node's own leadership is announced by its session; what it holds besides is of a former life.
        Some((record, _)) => {
            let mine = shared.leading.get().is_some_and(|fence| fence.token == record.token);
            if mine {
                return;
            }
            Leader::Unknown
        }
    };
    if head.epoch > Epoch(0) {
        shared.announcer.announce(head.epoch, leader);
    }
}

/// Cut off for long, a follower no longer knows who leads. A leader's own session sees to itself.
fn say_unknown(shared: &Shared) {
    let silent = shared.contact_age().is_some_and(|age| age > shared.patience());
    if let Some(last) = shared.announcer.last()
        && silent
        && matches!(last.leader, Leader::Other(_))
    {
        shared.announcer.announce(last.epoch, Leader::Unknown);
    }
}
