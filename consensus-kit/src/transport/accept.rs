//! Accepting: who may come in, and what they may send.

use std::{net::SocketAddr, sync::Arc};

use quorate_core::{
    ids::NodeId,
    runtime::{Connection, TaskScope},
};
use tokio::sync::{Semaphore, mpsc};

use super::{
    Event, Inner,
    dial::{emptied, of_another_cluster},
    frame::{read_frame, read_preamble, write_frame},
    hello::{Answer, HELLO_CAP, Hello, Purpose},
    snapshot,
};
use crate::founding::Phase;

/// Connections that have not said who they are. More wait.
const GREETING: usize = 64;

/// Accepts until the scope stops.
pub(super) async fn accept(inner: Arc<Inner>, mut incoming: mpsc::Receiver<(Connection, SocketAddr)>) {
    let greeting = Arc::new(Semaphore::new(GREETING));
    let accepting = async {
        while let Some((connection, from)) = incoming.recv().await {
            let Ok(permit) = greeting.clone().acquire_owned().await else { return };
            let inner_of_one = inner.clone();
            inner.runtime.tasks.spawn(async move {
                let greeted = greet(&inner_of_one, connection).await;
                drop(permit);
                match greeted {
                    Ok(Some((connection, hello))) => receive(&inner_of_one, connection, hello),
                    Ok(None) => {}
                    Err(problem) => tracing::debug!(%from, problem, "a peer's connection came to nothing"),
                }
            });
        }
    };
    tokio::select! { biased;
        () = inner.runtime.tasks.stopping() => {}
        () = accepting => {}
    }
}

/// Hears who calls and answers. Returns the connection if something is to follow.
async fn greet(inner: &Inner, mut connection: Connection) -> Result<Option<(Connection, Hello)>, String> {
    inner.in_time("greeting", read_preamble(&mut connection)).await?;
    let hello = inner.in_time("greeting", read_frame(&mut connection, HELLO_CAP)).await?;
    let hello = Hello::decode(&hello).ok_or("it speaks another protocol")?;
    let refused = refusal_of_address(inner, &hello);
    if refused.is_none() {
        hear(inner, &hello).await?;
    }
    let refused = refused.or_else(|| refusal(inner, &hello));
    let come_in = refused.is_none() && hello.purpose != Purpose::Meeting;
    let answer = Answer { claim: inner.founding.claim(), refused };
    inner.in_time("greeting", write_frame(&mut connection, &answer.encode())).await?;
    Ok(come_in.then_some((connection, hello)))
}

/// Why the caller has dialled the wrong place.
fn refusal_of_address(inner: &Inner, hello: &Hello) -> Option<String> {
    let config = &inner.config;
    if hello.engine != config.engine {
        return Some(format!("this is a cluster of {}, not of {}", config.engine, hello.engine));
    }
    if hello.to != config.node {
        return Some(format!("this is node {}, not node {}", config.node, hello.to));
    }
    if hello.claim.node == config.node {
        return Some(format!("two nodes have the id {}; give one of them another", config.node));
    }
    let own = inner.founding.claim();
    if hello.purpose != Purpose::Meeting
        && let Some(problem) = of_another_cluster(&hello.claim, &own)
    {
        return Some(problem);
    }
    if hello.to_directory.is_some_and(|directory| directory != config.directory) {
        return Some(emptied(&own));
    }
    None
}

/// Lets the founding know whom this node has met.
async fn hear(inner: &Inner, hello: &Hello) -> Result<(), String> {
    let founding = &inner.founding;
    founding.meet(hello.claim.clone()).await.map_err(|error| error.to_string())?;
    if let (Purpose::Messages, Some(_), Phase::Final(charter)) =
        (hello.purpose, hello.to_directory, &hello.claim.phase)
        && hello.to_learner
    {
        founding.invite(charter.clone()).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Why somebody who reached the right place may not send.
fn refusal(inner: &Inner, hello: &Hello) -> Option<String> {
    if hello.purpose == Purpose::Meeting {
        return None;
    }
    let caller = &hello.claim;
    let (mine, its) = (inner.founding.claim().phase, &caller.phase);
    if let (Phase::Fresh, Phase::Final(_)) = (&mine, its) {
        // It is addressed by its directory, but remembers nothing.
        return Some(format!(
            "the consensus folder of node {} was emptied, so that its votes and entries are lost; \
             bring the old data back, or empty the data directory, and remove and add this voter",
            inner.config.node
        ));
    }
    let (Phase::Final(_), Phase::Final(_)) = (&mine, its) else {
        return Some(format!("node {} is not of a founded cluster yet", inner.config.node));
    };
    let members = inner.members.lock();
    match members.membership.member(caller.node) {
        Some(member) if member.directory == caller.directory => None,
        Some(member) if hello.member_since > member.since => None,
        Some(_) => Some(emptied(caller)),
        // This node may not have heard yet of the one that calls.
        None if hello.member_since > members.at || members.membership.voters.is_empty() => None,
        None => Some(format!("node {} is not a member", caller.node)),
    }
}

/// Takes what a peer sends, in a task that ends when the peer calls again.
fn receive(inner: &Arc<Inner>, connection: Connection, hello: Hello) {
    let from = hello.claim.node;
    let is_snapshot = hello.purpose == Purpose::Snapshot;
    let scope = inner.runtime.tasks.child();
    let inner_of_one = inner.clone();
    replace(inner, (from, is_snapshot), scope.clone());
    scope.spawn(async move {
        let ended = if is_snapshot {
            snapshot::receive(&inner_of_one, from, connection).await
        } else {
            messages(&inner_of_one, from, connection).await
        };
        if let Err(problem) = ended {
            tracing::debug!(node = from.0, problem, "a peer's connection ended");
        }
    });
}

fn replace(inner: &Inner, key: (NodeId, bool), scope: TaskScope) {
    if let Some(older) = inner.receiving.lock().insert(key, scope) {
        older.kill();
    }
}

async fn messages(inner: &Inner, from: NodeId, mut connection: Connection) -> Result<(), String> {
    loop {
        let body = read_frame(&mut connection, inner.config.message_bytes).await;
        let body = body.map_err(|error| error.to_string())?;
        let sent = inner.events.send(Event::Message { from, body }).await;
        sent.map_err(|_| "the backend has stopped")?;
    }
}
