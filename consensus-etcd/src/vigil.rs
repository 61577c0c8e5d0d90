//! Watches over the process that leads, so that its death need not wait for its lease to run out: a candidate keeps a
//! connection to the leader's controller listener, and takes over when that ends and nobody listens there any more.
//!
//! That is a hint and no proof, as the lease is: whoever campaigns compares the leader key's token, and a leader that is
//! replaced while it lives cannot write any more. A connection that never stood proves nothing either; else a node to
//! which the others are unreachable would depose one healthy leader after the other.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_core::runtime::Connection;
use tokio::io::AsyncReadExt as _;

use crate::shared::Shared;

/// Between attempts to reach a leader.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs until the backend stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    tokio::select! { biased;
        () = shared.stopping() => {}
        () = watch_leaders(&shared) => {}
    }
}

async fn watch_leaders(shared: &Shared) {
    let mut view = shared.view.watch();
    let mut leader = None;
    loop {
        let Some((endpoint, held)) = &leader else {
            leader = other_leader(shared);
            if leader.is_none() {
                view.changed().await;
            }
            continue;
        };
        let another = view.wait_for(|_| other_leader(shared) != leader);
        tokio::select! { biased;
            _ = another => {}
            () = until_gone(shared, endpoint) => {
                tracing::info!(node = %shared.node, %endpoint, "the leader's process has ended: nobody listens there");
                shared.note_gone(held.clone());
                view.wait_for(|_| other_leader(shared) != leader).await;
            }
        }
        leader = other_leader(shared);
    }
}

/// Where the present leader is reached, and what the leader key holds, if it is another node's.
fn other_leader(shared: &Shared) -> Option<(String, Bytes)> {
    let head = shared.head()?;
    let (record, held) = head.leader.as_ref().filter(|(record, _)| record.node != shared.node)?;
    Some((record.endpoint.clone(), held.clone()))
}

/// Returns when a process that could be reached has ended.
async fn until_gone(shared: &Shared, endpoint: &str) {
    let mut reached = false;
    loop {
        match shared.runtime.clock.timeout(PATIENCE, shared.runtime.network.connect(endpoint)).await {
            Ok(Ok(connection)) => {
                reached = true;
                until_closed(connection).await;
                // A listener closes whoever says nothing for long; a process that has ended refuses at once.
                if is_refused(shared, endpoint).await {
                    return;
                }
            }
            Ok(Err(error)) if reached && error.kind() == ErrorKind::ConnectionRefused => return,
            Ok(Err(_)) | Err(_) => {}
        }
        shared.runtime.clock.sleep(PAUSE).await;
    }
}

async fn is_refused(shared: &Shared, endpoint: &str) -> bool {
    let again = shared.runtime.clock.timeout(PATIENCE, shared.runtime.network.connect(endpoint)).await;
    matches!(again, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

async fn until_closed(mut connection: Connection) {
    let mut byte = [0];
    // Nobody sends on such a connection; whatever comes is the end of it.
    let _ended = connection.read(&mut byte).await;
}
