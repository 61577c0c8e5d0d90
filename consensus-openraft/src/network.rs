//! openraft's way to its peers.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use openraft::{
    OptionalSend, RaftNetwork, RaftNetworkFactory, Vote,
    error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use quorate_consensus_kit::membership::Member;
use quorate_core::ids::{DirectoryId, Epoch, LogIndex, NodeId};
use tokio::sync::oneshot;

use crate::{
    peers::Peers,
    transport::{Answer, Content, Request, encode_vote},
    types::{Snapshot, Types, last_index, node_of},
};

type CallError = RPCError<u64, Member, RaftError<u64>>;

/// Makes connections.
pub(crate) struct Network(pub(crate) Arc<Peers>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, member: &Member) -> Connection {
        // Every id comes from a node's; another one is nobody's, and cannot be reached.
        let node = node_of(target).unwrap_or(NodeId(-1));
        Connection { peers: self.0.clone(), node, directory: member.directory }
    }
}

/// The way to one peer.
pub(crate) struct Connection {
    peers: Arc<Peers>,
    node: NodeId,
    directory: DirectoryId,
}

impl Connection {
    async fn call(&self, request: Request, option: &RPCOption) -> Result<Answer, CallError> {
        let answer = self.peers.call(self.node, request, option.hard_ttl()).await;
        answer.ok_or_else(|| unreachable(self.node, "no answer").into())
    }

    fn note_acknowledged(&self, term: u64, index: LogIndex) {
        let mut acknowledged = self.peers.acknowledged.lock();
        let known = acknowledged.entry((self.node, self.directory)).or_default();
        *known = (*known).max((Epoch(term), index));
    }

    fn has_acknowledged(&self, term: u64, index: LogIndex) -> bool {
        let acknowledged = self.peers.acknowledged.lock();
        acknowledged
            .get(&(self.node, self.directory))
            .is_some_and(|known| *known >= (Epoch(term), index) && known.0.0 == term)
    }
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        if self.peers.muted.load(Ordering::Relaxed) {
            return Err(unreachable(self.node, "this node hears no quorum and is silent for a while").into());
        }
        let term = rpc.vote.leader_id.term;
        let before = last_index(rpc.prev_log_id.as_ref());
        let end = rpc.entries.last().map_or(before, |last| last_index(Some(&last.log_id)));
        let answer = match self.call(Request::Append(rpc), &option).await? {
            Answer::Append(answer) => answer,
            _ => return Err(nonsense(self.node).into()),
        };
        match &answer {
            AppendEntriesResponse::Success => self.note_acknowledged(term, end),
            AppendEntriesResponse::PartialSuccess(matching) => {
                let matching = last_index(matching.as_ref());
                if matching < before || matching > end {
                    return Err(nonsense(self.node).into());
                }
                self.note_acknowledged(term, matching);
            }
            // openraft would panic: here the one that forgot is told, and not heard any more.
            AppendEntriesResponse::Conflict if self.has_acknowledged(term, before) => {
                self.peers.tell(self.node, &Content::Request(Request::Forgot { term, index: before }), 0);
                return Err(unreachable(self.node, "it has lost entries that it had acknowledged").into());
            }
            AppendEntriesResponse::Conflict if before == LogIndex(0) => {
                return Err(nonsense(self.node).into());
            }
            AppendEntriesResponse::Conflict => {}
            AppendEntriesResponse::HigherVote(vote) if vote.leader_id.term > term => {}
            AppendEntriesResponse::HigherVote(_) => return Err(nonsense(self.node).into()),
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError> {
        match self.call(Request::Vote(rpc), &option).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(nonsense(self.node).into()),
        }
    }

    /// Sends a snapshot on a connection of its own. One that was called off still goes on; until its outcome is known no
    /// other is sent to the same peer, so that no outcome is taken for another's.
    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let index = last_index(snapshot.meta.last_log_id.as_ref());
        let file = snapshot.snapshot.ok_or_else(|| unreachable(self.node, "the snapshot is not there"))?;
        let (done, taken) = oneshot::channel();
        {
            let mut sent = self.peers.snapshots_sent.lock();
            if sent.contains_key(&self.node) {
                return Err(unreachable(self.node, "another snapshot is on its way").into());
            }
            sent.insert(self.node, done);
        }
        self.peers.shared.transport.send_snapshot(self.node, encode_vote(&vote), file);
        tokio::select! { biased;
            taken = taken => match taken {
                Ok(true) => {
                    self.note_acknowledged(vote.leader_id.term, index);
                    Ok(SnapshotResponse::new(vote))
                }
                _ => Err(unreachable(self.node, "it did not take the snapshot").into()),
            },
            closed = cancel => Err(closed.into()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.peers.shared.timings.heartbeat))
    }
}

fn unreachable(node: NodeId, problem: &str) -> Unreachable {
    Unreachable::new(&io::Error::other(format!("node {node}: {problem}")))
}

fn nonsense(node: NodeId) -> NetworkError {
    NetworkError::new(&io::Error::other(format!("node {node} answers what was not asked")))
}
