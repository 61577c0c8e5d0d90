//! Dialling: connection, preamble, hello, and the meetings before the cluster is founded.

use std::{sync::Arc, time::Duration};

use quorate_core::{
    ids::{DirectoryId, LogIndex, NodeId},
    runtime::Connection,
};
use tokio::io::AsyncWriteExt as _;

use super::{
    Inner,
    frame::{PREAMBLE, put_frame, read_frame},
    hello::{Answer, HELLO_CAP, Hello, Purpose},
};
use crate::founding::{Claim, Phase};

/// Between two meetings with a founder. Short, because a start waits for it.
const MEETING_PAUSE: Duration = Duration::from_millis(150);

/// Whom to reach, and for what.
pub(super) struct Call<'a> {
    pub(super) to: NodeId,
    /// `None` where it is not known yet.
    pub(super) directory: Option<DirectoryId>,
    pub(super) endpoint: &'a str,
    pub(super) purpose: Purpose,
}

/// Connects and says hello. The sentence says why that came to nothing.
pub(super) async fn dial(inner: &Inner, call: Call<'_>) -> Result<(Connection, Claim), String> {
    let connecting = inner.runtime.network.connect(call.endpoint);
    let mut connection = inner.in_time("connecting", connecting).await?;
    let hello = Hello {
        engine: inner.config.engine.to_owned(),
        purpose: call.purpose,
        claim: inner.founding.claim(),
        to: call.to,
        to_directory: call.directory,
        to_learner: inner.is_learner(call.to),
        member_since: inner.member(inner.config.node).map_or(LogIndex(0), |member| member.since),
    };
    let mut out = PREAMBLE.to_vec();
    put_frame(&mut out, &hello.encode());
    inner.in_time("greeting", connection.write_all(&out)).await?;
    let answer = inner.in_time("greeting", read_frame(&mut connection, HELLO_CAP)).await?;
    let Answer { claim, refused } = Answer::decode(&answer).ok_or("it answers in another protocol")?;
    if call.purpose != Purpose::Meeting
        && let Some(problem) = of_another_cluster(&inner.founding.claim(), &claim)
    {
        return Err(problem);
    }
    inner.founding.meet(claim.clone()).await.map_err(|error| error.to_string())?;
    if let Some(refused) = refused {
        return Err(format!("it refuses: {refused}"));
    }
    if claim.node != call.to {
        return Err(format!("node {} answers there", claim.node));
    }
    if call.directory.is_some_and(|directory| directory != claim.directory) {
        return Err(emptied(&claim));
    }
    Ok((connection, claim))
}

/// What is said of a node that comes with another directory than it became a member with.
pub(super) fn emptied(claim: &Claim) -> String {
    format!(
        "node {} has another data directory ({}) than the one it became a voter with; \
         bring the old one back, or remove this voter and add it again",
        claim.node, claim.directory
    )
}

/// What is said where the folders of two nodes are of different clusters: the one who calls has a wrong folder, or a
/// wrong list of voters.
pub(super) fn of_another_cluster(caller: &Claim, called: &Claim) -> Option<String> {
    let (Phase::Final(mine), Phase::Final(other)) = (&caller.phase, &called.phase) else { return None };
    (mine.log != other.log).then(|| {
        format!(
            "node {} is of the cluster {}, but the folder of node {} is of the cluster {}; give node {} the folder \
             of its own cluster, or correct its controller.quorum.voters",
            called.node, other.log, caller.node, mine.log, caller.node
        )
    })
}

/// Asks a node who it is.
pub(super) async fn meet(inner: &Inner, node: NodeId, endpoint: &str) -> Result<Claim, String> {
    let call = Call { to: node, directory: None, endpoint, purpose: Purpose::Meeting };
    dial(inner, call).await.map(|(_, claim)| claim)
}

/// Meets every listed voter again and again, until this node knows that the cluster is founded.
pub(super) fn meet_listed(inner: &Arc<Inner>) {
    for (node, endpoint) in &inner.config.endpoints {
        if *node != inner.config.node {
            inner.runtime.tasks.spawn(meet_until_founded(inner.clone(), *node, endpoint.clone()));
        }
    }
}

async fn meet_until_founded(inner: Arc<Inner>, node: NodeId, endpoint: String) {
    let mut phase = inner.founding.phase();
    let meeting = async {
        loop {
            if let Err(problem) = meet(&inner, node, &endpoint).await {
                inner.founding.note_problem(node, problem);
            }
            inner.runtime.clock.sleep(MEETING_PAUSE).await;
        }
    };
    tokio::select! { biased;
        () = inner.runtime.tasks.stopping() => {}
        _ = phase.wait_for(|phase| matches!(phase, Phase::Final(_))) => {}
        () = meeting => {}
    }
}
