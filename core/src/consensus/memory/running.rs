//! The running half of a memory backend: the port's calls.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};

use super::{
    cluster::{MemoryCluster, Shared},
    engine,
    nodes::{Kept, Node},
    state::State,
};
use crate::{
    consensus::{
        Committed, CompactError, Epoch, Founding, LeaderAnnouncer, LeaderEvents, LogIndex, MembershipChange,
        MembershipError, NodeId, Peer, ProposeError, Resume, Running, SNAPSHOT_CHUNK_BYTES, Snapshot,
        SnapshotError, StartError, Status, Unavailable, leader_channel,
    },
    planted::{Bug, planted},
    runtime::TaskScope,
};

/// One process of a node. Dropping it is a crash.
pub(super) struct MemoryRunning {
    shared: Arc<Shared>,
    node: NodeId,
    number: u64,
    announcer: LeaderAnnouncer,
    tasks: TaskScope,
}

impl MemoryRunning {
    pub(super) fn start(cluster: &MemoryCluster, node: NodeId, resume: Resume) -> Result<Self, StartError> {
        let shared = cluster.0.clone();
        let (announcer, _) = leader_channel();
        let number = shared.change(|state| state.start(node, resume, announcer.clone()))?;
        let tasks = TaskScope::single_threaded();
        tasks.spawn(engine::run(shared.clone(), node, number));
        Ok(Self { shared, node, number, announcer, tasks })
    }

    fn me(&self) -> (NodeId, u64) {
        (self.node, self.number)
    }

    fn lives(&self, state: &State) -> bool {
        state.nodes.get(&self.node).is_some_and(|here| here.living(self.number).is_some())
    }

    /// Waits while the node stands still.
    async fn awake(&self) {
        let mut changed = self.shared.changed.subscribe();
        while self.shared.look(|state| state.nodes.get(&self.node).is_some_and(|here| here.paused)) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for MemoryRunning {
    fn drop(&mut self) {
        self.tasks.kill();
        self.shared.change(|state| state.end_process(self.node, self.number));
    }
}

#[async_trait]
impl Running for MemoryRunning {
    fn leader_events(&self) -> LeaderEvents {
        self.announcer.subscribe()
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        let reader = Reader {
            shared: self.shared.clone(),
            node: self.node,
            number: self.number,
            changed: self.shared.changed.subscribe(),
            after,
        };
        stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) }).boxed()
    }

    async fn propose(&self, epoch: Epoch, entry: Bytes) -> Result<LogIndex, ProposeError> {
        self.awake().await;
        let limit = self.shared.look(|state| state.config.max_entry_bytes);
        if entry.is_empty() || entry.len() > limit {
            return Err(ProposeError::TooLarge);
        }
        let outcome = self.shared.change(|state| state.append(self.me(), epoch, entry))?;
        outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        self.awake().await;
        let delay = self.shared.look(|state| state.draw_delay());
        if !delay.is_zero() {
            self.shared.clock.sleep(delay).await;
        }
        self.shared.look(|state| {
            if !self.lives(state) {
                return Err(Unavailable("the backend has stopped".to_owned()));
            }
            let opened = state.acting().filter(|led| state.committed >= led.opened_at);
            if opened.is_none() || !state.takes_part(self.node) {
                return Err(Unavailable("no leader that reaches a quorum".to_owned()));
            }
            Ok(state.committed)
        })
    }

    async fn compact(&self, snapshot: Snapshot) -> Result<(), CompactError> {
        let Snapshot { meta, mut chunks } = snapshot;
        let mut kept = Kept { meta, chunks: Vec::new() };
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            bytes += chunk.len() as u64;
            if chunk.len() > SNAPSHOT_CHUNK_BYTES || bytes > meta.bytes {
                return Err(SnapshotError("larger than it says".to_owned()).into());
            }
            kept.chunks.push(chunk);
        }
        if bytes != meta.bytes {
            return Err(SnapshotError("shorter than it says".to_owned()).into());
        }
        self.shared.change(|state| {
            if !self.lives(state) {
                return Err(CompactError::Unavailable("the backend has stopped".to_owned()));
            }
            state.compact(self.node, kept)
        })
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<(), MembershipError> {
        self.awake().await;
        let removes_me = change == MembershipChange::Remove(self.node);
        let outcome = self.shared.change(|state| state.change_voters(self.me(), change))?;
        if let Some(outcome) = outcome {
            let lost = || MembershipError::Unavailable("the leadership ended".to_owned());
            outcome.await.map_err(|_| lost())?.map_err(|_| lost())?;
        }
        if removes_me {
            let epoch = self.shared.look(|state| state.epoch);
            self.resign(epoch).await;
        }
        Ok(())
    }

    async fn resign(&self, epoch: Epoch) {
        self.awake().await;
        self.shared.change(|state| {
            if self.lives(state) {
                state.resign(self.node, epoch);
            }
        });
    }

    fn status(&self) -> Status {
        self.shared.look(|state| status(state, self.node, self.number))
    }

    async fn shutdown(&self) {
        let epoch = self.shared.look(|state| state.epoch);
        self.resign(epoch).await;
        self.shared.change(|state| state.end_process(self.node, self.number));
        self.tasks.stop().await;
    }
}

fn status(state: &State, node: NodeId, number: u64) -> Status {
    let here = state.nodes.get(&node);
    let process = here.and_then(|here| here.process.as_ref()).filter(|process| process.number == number);
    let now = state.clock.now();
    let peer = |(&id, endpoint): (&NodeId, &String)| Peer {
        node: Some(id),
        endpoint: endpoint.clone(),
        contact_age: state.takes_part(id).then_some(Duration::ZERO),
        matched: state.nodes.get(&id).map(|peer| peer.known),
        problem: match here {
            Some(here) if here.cut => Some("out of reach".to_owned()),
            _ => state.nodes.get(&id).and_then(Node::problem),
        },
    };
    let peers: Vec<Peer> = state.voters.iter().filter(|(id, _)| **id != node).map(peer).collect();
    let founding = || Founding {
        have: state.voters.keys().copied().filter(|&id| state.takes_part(id)).collect(),
        awaited: peers.iter().filter(|peer| peer.problem.is_some()).cloned().collect(),
    };
    let in_reach = state.takes_part(node) && state.has_quorum();
    let contact = process.and_then(|process| process.contact);
    Status {
        backend: "memory",
        log_id: state.founded.then_some(state.config.log_id),
        epoch: process.and_then(|process| process.announcer.last()).map_or(Epoch(0), |last| last.epoch),
        committed: here.map_or(LogIndex(0), |here| here.known),
        first: here.map_or(LogIndex(1), |here| here.first),
        quorum_contact_age: contact.map(|at| if in_reach { Duration::ZERO } else { now.since(at) }),
        voters: state.voters.clone(),
        founding: (!state.founded).then(founding),
        peers,
        max_entry_bytes: state.config.max_entry_bytes,
        fatal: process.and_then(|process| process.fatal.clone()),
    }
}

/// A reader of the log at one node.
struct Reader {
    shared: Arc<Shared>,
    node: NodeId,
    number: u64,
    changed: crate::runtime::watch::Receiver<u64>,
    after: LogIndex,
}

enum Read {
    Item(Committed),
    Wait,
    Ended,
}

impl Reader {
    async fn next(&mut self) -> Option<Committed> {
        loop {
            self.changed.borrow_and_update();
            match self.shared.look(|state| read(state, self.node, self.number, self.after)) {
                Read::Item(item) => {
                    self.after = match &item {
                        Committed::Entry { index, .. } => *index,
                        Committed::Snapshot(snapshot) => snapshot.meta.index,
                    };
                    return Some(item);
                }
                Read::Wait => self.changed.changed().await.ok()?,
                Read::Ended => return None,
            }
        }
    }
}

fn read(state: &State, node: NodeId, number: u64, after: LogIndex) -> Read {
    let Some(here) = state.nodes.get(&node).filter(|here| here.living(number).is_some()) else {
        return Read::Ended;
    };
    if here.paused {
        return Read::Wait;
    }
    let index = after.next();
    if let Some(kept) = here.snapshot.as_ref().filter(|_| index < here.first) {
        let chunks: VecDeque<Bytes> = kept.chunks.iter().cloned().collect();
        let chunks = stream::iter(chunks.into_iter().map(Ok)).boxed();
        return Read::Item(Committed::Snapshot(Snapshot { meta: kept.meta, chunks }));
    }
    match state.entry(index).filter(|_| index <= here.known || planted(Bug::YieldsUncommitted)) {
        Some(entry) => Read::Item(Committed::Entry { index, epoch: entry.epoch, data: entry.data.clone() }),
        None => Read::Wait,
    }
}
