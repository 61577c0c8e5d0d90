//! Messages between voters, over framed connections.
//!
//! Every node dials every other member and sends on that connection; it receives on those that it was dialled on. A
//! peer has its own connection, task and bounded queue, so that one who accepts and never answers holds nobody else
//! up. Snapshots travel on connections of their own. Messages may be lost, and never arrive changed.

mod accept;
mod dial;
mod frame;
mod hello;
mod link;
mod snapshot;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{
    ids::{DirectoryId, LogIndex, NodeId},
    runtime::{Connection, Runtime, TaskScope},
};
use tokio::sync::{mpsc, oneshot};

pub use frame::PREAMBLE;
pub use hello::Purpose;

use crate::{
    founding::{Founding, Phase},
    membership::{Member, Membership},
    snapshot::{SnapshotFile, Snapshots, Staged},
};
use link::Link;

/// How a transport behaves.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// The backend's name. A peer with another one is refused.
    pub engine: &'static str,
    /// This node.
    pub node: NodeId,
    /// Its log directory.
    pub directory: DirectoryId,
    /// Where the configuration says that founders are reached. Outranks what the charter says.
    pub endpoints: BTreeMap<NodeId, String>,
    /// The largest message.
    pub message_bytes: usize,
    /// A peer that takes longer to accept, to say hello, or to take the next bytes is given up for a while.
    pub patience: Duration,
}

/// What a transport tells its backend.
pub enum Event {
    /// A message arrived.
    Message {
        /// From whom; the hello proved it.
        from: NodeId,
        /// What was sent.
        body: Bytes,
    },
    /// A whole snapshot arrived. It is not durable.
    Snapshot {
        /// From whom.
        from: NodeId,
        /// The message that it belongs to.
        body: Bytes,
        /// The backend's part of the snapshot.
        engine: Bytes,
        /// The snapshot itself.
        staged: Staged,
        /// Tells the sender whether it was taken.
        taken: oneshot::Sender<bool>,
    },
    /// Messages to a peer were lost.
    Unreachable(NodeId),
    /// The sending of a snapshot has ended.
    SnapshotSent {
        /// To whom.
        to: NodeId,
        /// Whether the peer took it.
        taken: bool,
    },
}

/// Messages that have arrived and wait for the backend. More make their senders wait.
const ARRIVED: usize = 256;

/// The transport of one node. Clones are the same transport.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

struct Inner {
    config: TransportConfig,
    runtime: Runtime,
    founding: Arc<Founding>,
    events: mpsc::Sender<Event>,
    members: Mutex<Members>,
    links: Mutex<BTreeMap<NodeId, Link>>,
    /// The newest connection of each peer and purpose; an older one ends.
    receiving: Mutex<BTreeMap<(NodeId, bool), TaskScope>>,
    snapshots: Mutex<Option<Arc<Snapshots>>>,
}

#[derive(Default)]
struct Members {
    membership: Membership,
    /// The entry of the last change; later ones are not known here yet.
    at: LogIndex,
}

impl Transport {
    /// A transport that accepts what arrives on `incoming`, meets the listed voters until the cluster is founded, and
    /// sends nothing before [`Transport::set_members`]. The receiver gets what happens.
    #[must_use]
    pub fn start(
        config: TransportConfig,
        founding: Arc<Founding>,
        incoming: mpsc::Receiver<(Connection, SocketAddr)>,
        runtime: &Runtime,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(ARRIVED);
        let inner = Arc::new(Inner {
            config,
            runtime: runtime.clone(),
            founding,
            events,
            members: Mutex::default(),
            links: Mutex::default(),
            receiving: Mutex::default(),
            snapshots: Mutex::default(),
        });
        runtime.tasks.spawn(accept::accept(inner.clone(), incoming));
        dial::meet_listed(&inner);
        (Self(inner), receiver)
    }

    /// Where snapshots that arrive are kept. Until this is called they are refused.
    pub fn set_snapshots(&self, snapshots: Arc<Snapshots>) {
        *self.0.snapshots.lock() = Some(snapshots);
    }

    /// Who is sent to and listened to from now on: the members as the entry at `at` left them.
    pub fn set_members(&self, membership: &Membership, at: LogIndex) {
        *self.0.members.lock() = Members { membership: membership.clone(), at };
        let mut links = self.0.links.lock();
        let me = self.0.config.node;
        let wanted: BTreeMap<NodeId, &Member> =
            membership.members().filter(|(node, _)| *node != me).collect();
        links.retain(|node, link| wanted.get(node).is_some_and(|member| link.leads_to(member)));
        for (node, member) in wanted {
            links.entry(node).or_insert_with(|| Link::start(&self.0, node, member));
        }
    }

    /// Queues a message. False, and nothing, if the peer's queue is full or nobody is known by that id.
    #[must_use]
    pub fn send(&self, to: NodeId, body: Bytes) -> bool {
        self.0.links.lock().get(&to).is_some_and(|link| link.send(body))
    }

    /// Sends a snapshot with the message that it belongs to, on a connection of its own. [`Event::SnapshotSent`] tells
    /// the outcome.
    pub fn send_snapshot(&self, to: NodeId, body: Bytes, file: Arc<SnapshotFile>) {
        let inner = self.0.clone();
        self.0.runtime.tasks.spawn(async move {
            let taken = match snapshot::send(&inner, to, body, file).await {
                Ok(()) => true,
                Err(problem) => {
                    tracing::info!(node = to.0, problem, "a snapshot was not sent");
                    false
                }
            };
            // The backend is gone: nobody needs to know.
            let _gone = inner.events.send(Event::SnapshotSent { to, taken }).await;
        });
    }

    /// Asks a node that is no member yet who it is.
    ///
    /// # Errors
    /// Why it did not answer, in a few words.
    pub async fn meet(&self, node: NodeId, endpoint: &str) -> Result<(DirectoryId, Phase), String> {
        let claim = dial::meet(&self.0, node, endpoint).await?;
        Ok((claim.directory, claim.phase))
    }

    /// Why each peer cannot be sent to; peers that can are not named.
    #[must_use]
    pub fn problems(&self) -> BTreeMap<NodeId, String> {
        let links = self.0.links.lock();
        links.iter().filter_map(|(node, link)| Some((*node, link.problem()?))).collect()
    }
}

impl Inner {
    /// Where a member is reached.
    fn endpoint(&self, node: NodeId, member: &Member) -> String {
        let configured = self.config.endpoints.get(&node).filter(|_| member.since.0 == 0);
        configured.unwrap_or(&member.endpoint).clone()
    }

    fn member(&self, node: NodeId) -> Option<Member> {
        self.members.lock().membership.member(node).cloned()
    }

    fn is_learner(&self, node: NodeId) -> bool {
        self.members.lock().membership.learners.contains_key(&node)
    }

    /// Waits for something that a peer does, as long as its patience.
    async fn in_time<T>(
        &self,
        what: &str,
        work: impl Future<Output = std::io::Result<T>>,
    ) -> Result<T, String> {
        match self.runtime.clock.timeout(self.config.patience, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(format!("{what}: the connection was closed"))
            }
            Ok(Err(error)) => Err(format!("{what}: {error}")),
            Err(_) => Err(format!("{what}: no answer within {} ms", self.config.patience.as_millis())),
        }
    }
}
