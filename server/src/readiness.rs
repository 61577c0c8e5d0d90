//! Whether a node is ready for clients, and if not, what it waits for.

use std::time::Duration;

use quorate_core::{
    consensus::{Peer, Status},
    ids::{NodeId, base64_id},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::leadership::Leadership;

/// An election lasts about a second. A node that was ready stays so for as long as this without a leader: it serves
/// from its image, and a load balancer that drops every node in every election would make an outage of it.
const GRACE: Duration = Duration::from_secs(10);

/// What a node waits for, or that it waits for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// The process is coming up; its backend does not run yet.
    Starting,
    /// The cluster is not founded yet; founders are awaited.
    Founding,
    /// Nobody leads the metadata.
    Electing,
    /// A leader is known, and this node's image has not yet reached its epoch.
    CatchingUp,
    /// The image is there and this broker has not yet registered, or is still fenced.
    Registering,
    /// It serves.
    Ready,
    /// It is going down in order.
    Stopping,
    /// It has failed for good and ends.
    Fatal,
}

/// How far this node has come; what [`readiness`] is judged by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The cluster, once this node's image says it.
    pub(crate) cluster: Option<Uuid>,
    /// The backend's word, once it runs.
    pub(crate) status: Option<Status>,
    /// Who leads.
    pub(crate) leadership: Leadership,
    /// Whether this node's image holds the present leader's controller.
    pub(crate) caught_up: bool,
    /// Whether this node has registered and is not fenced. A mere controller registers nowhere: true.
    pub(crate) unfenced: bool,
    /// Whether the node was told to stop.
    pub(crate) stopping: bool,
    /// Why the process ends, from outside the backend.
    pub(crate) fatal: Option<String>,
}

/// A node that does not take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missing {
    /// Its number, where it is one of ours and the number is known.
    pub(crate) node: Option<i32>,
    /// Where it should answer.
    pub(crate) endpoint: String,
    /// Why it does not.
    pub(crate) problem: Option<String>,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readiness {
    /// Whether clients are served in full.
    pub(crate) ready: bool,
    /// What is waited for.
    pub(crate) state: State,
    /// The same for a reader; absent where nothing is waited for. A ready node may wait for an election.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// This node.
    pub(crate) node: i32,
    /// Its process.
    pub(crate) pid: u32,
    /// The backend; absent until it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<String>,
    /// The cluster's id; absent until it is founded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<String>,
    /// Who leads the metadata; null while nobody does.
    pub(crate) leader: Option<i32>,
    /// The newest epoch of the metadata.
    pub(crate) epoch: u64,
    /// How many leaders this node has seen since it started.
    pub(crate) leader_changes: u64,
    /// How long nobody has led; null while somebody does.
    pub(crate) leaderless_ms: Option<u64>,
    /// How long nobody led before the present leader.
    pub(crate) last_gap_ms: u64,
    /// Founders that have not answered yet.
    pub(crate) awaited: Vec<Missing>,
    /// Voters, or members of the external store, that do not answer.
    pub(crate) missing: Vec<Missing>,
}

/// Judges how far `node` has come.
pub(crate) fn readiness(node: NodeId, progress: &Progress) -> Readiness {
    let (state, reason) = judge(progress);
    let status = progress.status.as_ref();
    let leadership = progress.leadership;
    let awaited =
        status.and_then(|status| status.founding.as_ref()).map(|founding| founding.awaited.as_slice());
    let peers = status.map(|status| status.peers.as_slice()).unwrap_or_default();
    Readiness {
        ready: state == State::Ready,
        state,
        reason,
        node: node.0,
        pid: std::process::id(),
        backend: status.map(|status| status.backend.to_owned()),
        cluster: progress.cluster.map(base64_id),
        leader: leadership.leader.map(|leader| leader.0),
        epoch: leadership.epoch.0,
        leader_changes: leadership.changes,
        leaderless_ms: leadership.leaderless.map(millis),
        last_gap_ms: millis(leadership.last_gap),
        awaited: awaited.unwrap_or_default().iter().map(missing).collect(),
        missing: peers.iter().filter(|peer| peer.problem.is_some()).map(missing).collect(),
    }
}

fn judge(progress: &Progress) -> (State, Option<String>) {
    let status = progress.status.as_ref();
    if let Some(fatal) = progress.fatal.as_ref().or(status.and_then(|status| status.fatal.as_ref())) {
        return (State::Fatal, Some(fatal.clone()));
    }
    if progress.stopping {
        return (State::Stopping, Some("this node is shutting down".to_owned()));
    }
    let Some(status) = status else {
        return (State::Starting, Some("the consensus backend is being started".to_owned()));
    };
    if status.founding.is_some() {
        return (State::Founding, Some(status.awaited()));
    }
    let leadership = progress.leadership;
    let election = leadership.leaderless.map(|_| format!("awaited: {}", status.awaited()));
    let tolerated = leadership.changes > 0 && leadership.leaderless.is_some_and(|gap| gap < GRACE);
    if election.is_some() && !tolerated {
        return (State::Electing, election);
    }
    if !progress.caught_up && !tolerated {
        let leader = leadership.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string());
        let reason = format!("awaited: the metadata of epoch {}, led by node {leader}", leadership.epoch);
        return (State::CatchingUp, Some(reason));
    }
    if !progress.unfenced {
        let reason = "awaited: the registration of this broker by the controller".to_owned();
        return (State::Registering, Some(reason));
    }
    (State::Ready, election)
}

fn missing(peer: &Peer) -> Missing {
    Missing {
        node: peer.node.map(|node| node.0),
        endpoint: peer.endpoint.clone(),
        problem: peer.problem.clone(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{consensus::Founding, ids::Epoch};

    fn peer(node: i32) -> Peer {
        Peer {
            node: Some(NodeId(node)),
            endpoint: format!("h:{node}"),
            problem: Some("connection refused".to_owned()),
            ..Peer::default()
        }
    }

    fn led() -> Progress {
        let leadership =
            Leadership { leader: Some(NodeId(2)), epoch: Epoch(4), changes: 1, ..Leadership::default() };
        let status = Some(Status { backend: "raftrs", ..Status::default() });
        Progress { status, leadership, caught_up: true, unfenced: true, ..Progress::default() }
    }

    fn leaderless(progress: Progress, gap: Duration, changes: u64) -> Progress {
        let leadership = Leadership {
            leader: None,
            leaderless: Some(gap),
            changes,
            epoch: Epoch(4),
            ..Leadership::default()
        };
        Progress { leadership, ..progress }
    }

    #[test]
    fn a_registered_broker_with_a_leader_is_ready() {
        let answer = readiness(NodeId(1), &led());
        assert!(answer.ready);
        assert_eq!((answer.state, answer.reason, answer.leader), (State::Ready, None, Some(2)));
    }

    #[test]
    fn the_founder_that_is_awaited_is_named() {
        let founding = Founding { have: vec![NodeId(1)], awaited: vec![peer(3)] };
        let status = Some(Status { founding: Some(founding), ..Status::default() });
        let answer = readiness(NodeId(1), &Progress { status, ..leaderless(led(), GRACE, 0) });
        assert_eq!(answer.state, State::Founding);
        assert!(answer.reason.unwrap().contains("node 3 at h:3 (connection refused)"));
        assert_eq!(answer.awaited[0].node, Some(3));
    }

    #[test]
    fn without_a_leader_the_missing_peers_are_named() {
        let status = Some(Status { peers: vec![peer(2), Peer::default()], ..Status::default() });
        let answer = readiness(NodeId(1), &Progress { status, ..leaderless(led(), Duration::ZERO, 0) });
        assert_eq!(answer.state, State::Electing);
        assert!(answer.reason.unwrap().contains("node 2 at h:2"));
        assert_eq!(answer.missing.len(), 1);
    }

    #[test]
    fn an_election_alone_does_not_take_a_ready_node_out_of_service() {
        let short = readiness(NodeId(1), &leaderless(led(), Duration::from_secs(2), 3));
        assert_eq!((short.state, short.leaderless_ms), (State::Ready, Some(2000)));
        assert_eq!(short.reason.as_deref(), Some("awaited: an election"));
        assert_eq!(readiness(NodeId(1), &leaderless(led(), GRACE, 3)).state, State::Electing);
    }

    #[test]
    fn what_stands_between_a_leader_and_readiness_is_told_in_order() {
        let state = |progress: &Progress| readiness(NodeId(1), progress).state;
        assert_eq!(state(&Progress { status: None, ..led() }), State::Starting);
        assert_eq!(state(&Progress { caught_up: false, unfenced: false, ..led() }), State::CatchingUp);
        assert_eq!(state(&Progress { unfenced: false, ..led() }), State::Registering);
        assert_eq!(state(&Progress { stopping: true, ..led() }), State::Stopping);
    }

    #[test]
    fn a_fatal_backend_is_told_before_anything_else() {
        let status = Some(Status { fatal: Some("the disk failed".to_owned()), ..Status::default() });
        let answer = readiness(NodeId(1), &Progress { status, stopping: true, ..led() });
        assert_eq!((answer.state, answer.reason.as_deref()), (State::Fatal, Some("the disk failed")));
    }
}
