//! The backend of a node that is no voter (`process.roles=broker`): it follows the log by asking the voters, and never
//! leads. The same for every real backend, because it speaks to their nodes and not to their engines.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::runtime::watch;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{
    consensus::{
        Committed, CompactError, Consensus, Leader, LeaderAnnouncer, LeaderEvents, LogId, MembershipChange,
        MembershipError, Peer, ProposeError, Resume, Running, Snapshot, SnapshotError, SnapshotMeta,
        StartError, Status, Unavailable, leader_channel,
    },
    ids::{BrokerEpoch, DirectoryId, Epoch, LogIndex, NodeId},
    protocol::{
        apis::{self, ApiKey},
        client::{Client, ClientError},
        header::Extras,
        internal::{HelloRequest, Purpose},
        observe::{ObserveRequest, ObserveResponse, Observed},
        primitives::Malformed,
    },
    runtime::{Moment, Runtime},
};

/// How long a voter lets a request wait for the next entry.
const WAIT: Duration = Duration::from_millis(500);
/// How long a voter may take beyond that before another one is asked.
const PATIENCE: Duration = Duration::from_millis(1000);
/// Before the next voter is asked after one that did not answer.
const PAUSE: Duration = Duration::from_millis(100);
/// After this long without an answer nobody is known to lead.
const LEADER_FORGOTTEN: Duration = Duration::from_secs(2);
/// Bytes of entries to ask for at a time.
const ENTRIES_BYTES: u32 = 1 << 20;

/// A node that follows the log, not started.
pub struct Observer {
    shared: Shared,
    announcer: LeaderAnnouncer,
}

impl Observer {
    /// An observer of the log of these voters: node and controller listener.
    #[must_use]
    pub fn new(
        runtime: Runtime,
        node: NodeId,
        directory: DirectoryId,
        voters: BTreeMap<NodeId, String>,
    ) -> Self {
        let hello = HelloRequest {
            cluster: Uuid::nil(),
            node,
            directory,
            incarnation: runtime.rng.uuid(),
            broker_epoch: BrokerEpoch::NONE,
            purpose: Purpose::Observe,
        };
        let peer = |(node, endpoint): (&NodeId, &String)| Peer {
            node: Some(*node),
            endpoint: endpoint.clone(),
            problem: Some("not asked yet".to_owned()),
            ..Peer::default()
        };
        let status = Status {
            backend: "observer",
            voters: voters.clone(),
            peers: voters.iter().map(peer).collect(),
            ..Status::default()
        };
        let (announcer, _) = leader_channel();
        let known = Known { status, answered: None, turn: 0 };
        let shared =
            Shared { runtime, hello, voters, known: Mutex::new(known), stopped: watch::Sender::new(false) };
        Self { shared, announcer }
    }
}

#[async_trait]
impl Consensus for Observer {
    async fn start(self: Box<Self>, resume: Resume) -> Result<Arc<dyn Running>, StartError> {
        if self.shared.voters.is_empty() {
            return Err(StartError::Config(
                "a node that is no controller needs to know the controllers: set controller.quorum.voters or \
                 controller.quorum.bootstrap.servers"
                    .to_owned(),
            ));
        }
        self.shared.known.lock().status.log_id = resume.log_id;
        let running = Observing { shared: Arc::new(self.shared), announcer: self.announcer };
        running.forget_leader_in_time();
        Ok(Arc::new(running))
    }
}

struct Shared {
    runtime: Runtime,
    hello: HelloRequest,
    voters: BTreeMap<NodeId, String>,
    known: Mutex<Known>,
    stopped: watch::Sender<bool>,
}

struct Known {
    status: Status,
    /// When a voter answered last.
    answered: Option<Moment>,
    /// Whose turn it is to be asked.
    turn: usize,
}

struct Observing {
    shared: Arc<Shared>,
    announcer: LeaderAnnouncer,
}

#[async_trait]
impl Running for Observing {
    fn leader_events(&self) -> LeaderEvents {
        self.announcer.subscribe()
    }

    fn committed(&self, after: LogIndex) -> BoxStream<'static, Committed> {
        let (shared, announcer) = (self.shared.clone(), self.announcer.clone());
        let tail = Tail { shared, announcer, after, ready: VecDeque::new(), client: None };
        stream::unfold(tail, |mut tail| async move { tail.next().await.map(|item| (item, tail)) }).boxed()
    }

    async fn propose(&self, _epoch: Epoch, _entry: Bytes) -> Result<LogIndex, ProposeError> {
        Err(ProposeError::NotLeader { hint: None })
    }

    async fn read_barrier(&self) -> Result<LogIndex, Unavailable> {
        Err(Unavailable("an observer has no quorum to ask".to_owned()))
    }

    async fn compact(&self, _snapshot: Snapshot) -> Result<(), CompactError> {
        // There is no log here that could be shortened.
        Ok(())
    }

    async fn change_membership(&self, _change: MembershipChange) -> Result<(), MembershipError> {
        Err(MembershipError::NotLeader)
    }

    async fn resign(&self, _epoch: Epoch) {}

    fn status(&self) -> Status {
        let known = self.shared.known.lock();
        let age = known.answered.map(|answered| self.shared.runtime.clock.now().since(answered));
        Status { quorum_contact_age: age, ..known.status.clone() }
    }

    async fn shutdown(&self) {
        self.shared.stopped.send_replace(true);
        self.announcer.stop();
    }
}

impl Observing {
    /// While no voter answers, nobody is known to lead.
    fn forget_leader_in_time(&self) {
        let (shared, announcer) = (self.shared.clone(), self.announcer.clone());
        let tasks = shared.runtime.tasks.clone();
        tasks.spawn(async move {
            let mut stopped = shared.stopped.subscribe();
            loop {
                tokio::select! { biased;
                    () = shared.runtime.tasks.stopping() => return,
                    _ = stopped.wait_for(|stopped| *stopped) => return,
                    () = shared.runtime.clock.sleep(LEADER_FORGOTTEN / 4) => {}
                }
                let (age, epoch) = {
                    let known = shared.known.lock();
                    let now = shared.runtime.clock.now();
                    (known.answered.map(|answered| now.since(answered)), known.status.epoch)
                };
                if age.is_none_or(|age| age > LEADER_FORGOTTEN) && epoch > Epoch(0) {
                    announcer.announce(epoch, Leader::Unknown);
                }
            }
        });
    }
}

/// One reader of the log.
struct Tail {
    shared: Arc<Shared>,
    announcer: LeaderAnnouncer,
    after: LogIndex,
    ready: VecDeque<Committed>,
    client: Option<(NodeId, Client)>,
}

impl Tail {
    async fn next(&mut self) -> Option<Committed> {
        let mut stopped = self.shared.stopped.subscribe();
        loop {
            if *stopped.borrow() {
                return None;
            }
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            let turn = tokio::select! { biased;
                _ = stopped.wait_for(|stopped| *stopped) => return None,
                turn = self.ask() => turn,
            };
            if let Err(problem) = turn {
                self.client = None;
                tracing::debug!(%problem, "a voter does not answer");
                self.shared.runtime.clock.sleep(PAUSE).await;
            }
        }
    }

    /// Asks a voter for what follows and puts it in order.
    async fn ask(&mut self) -> Result<(), String> {
        let (node, client) = self.voter().await?;
        let request = ObserveRequest {
            after: self.after,
            max_bytes: ENTRIES_BYTES,
            wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or_default(),
            piece: None,
        };
        let answer = self.shared.observe(&client, &request, WAIT + PATIENCE).await;
        let answer = answer.map_err(|error| self.shared.failed(node, &error.to_string()))?;
        self.take_in(node, &answer)?;
        match answer.content {
            Observed::Entries(entries) => {
                for (epoch, data) in entries {
                    self.after = self.after.next();
                    self.ready.push_back(Committed::Entry { index: self.after, epoch, data });
                }
            }
            Observed::Snapshot(meta, pieces) if meta.index > self.after => {
                let chunks = self.shared.clone().pieces(client, meta, pieces);
                self.after = meta.index;
                self.ready.push_back(Committed::Snapshot(Snapshot { meta, chunks }));
            }
            Observed::Snapshot(..) | Observed::Piece(_) => {
                return Err(self.shared.failed(node, "it answered something else"));
            }
        }
        Ok(())
    }

    /// The voter that is asked, connected.
    async fn voter(&mut self) -> Result<(NodeId, Client), String> {
        if let Some((node, client)) = self.client.clone().filter(|(_, client)| !client.is_closed()) {
            return Ok((node, client));
        }
        let turn = {
            let mut known = self.shared.known.lock();
            known.turn = known.turn.wrapping_add(1);
            known.turn
        };
        let at = turn.checked_rem(self.shared.voters.len()).unwrap_or_default();
        let Some((node, endpoint)) = self.shared.voters.iter().nth(at) else {
            return Err("there are no voters".to_owned());
        };
        let greeted = async {
            let client = Client::connect(&self.shared.runtime, endpoint, "quorate", PATIENCE).await?;
            client.hello(&self.shared.hello, PATIENCE).await?;
            Ok::<_, ClientError>(client)
        };
        let client = greeted.await.map_err(|error| self.shared.failed(*node, &error.to_string()))?;
        self.client = Some((*node, client.clone()));
        Ok((*node, client))
    }

    /// What the answer says of the log and of its leader.
    fn take_in(&self, node: NodeId, answer: &ObserveResponse) -> Result<(), String> {
        let mut known = self.shared.known.lock();
        let status = &mut known.status;
        if answer.log_id != LogId::default() {
            let log_id = *status.log_id.get_or_insert(answer.log_id);
            if log_id != answer.log_id {
                let fatal = format!(
                    "the controllers keep the metadata of cluster {}, this node's folder is of cluster {log_id}",
                    answer.log_id
                );
                status.fatal = Some(fatal.clone());
                drop(known);
                self.shared.stopped.send_replace(true);
                self.announcer.stop();
                return Err(fatal);
            }
        }
        status.epoch = status.epoch.max(answer.epoch);
        status.committed = status.committed.max(answer.committed);
        if let Some(peer) = status.peers.iter_mut().find(|peer| peer.node == Some(node)) {
            peer.problem = None;
        }
        known.answered = Some(self.shared.runtime.clock.now());
        drop(known);
        let leader = answer.leader.map_or(Leader::Unknown, Leader::Other);
        if answer.epoch > Epoch(0) {
            self.announcer.announce(answer.epoch, leader);
        }
        Ok(())
    }
}

impl Shared {
    async fn observe(
        &self,
        client: &Client,
        request: &ObserveRequest,
        timeout: Duration,
    ) -> Result<ObserveResponse, ClientError> {
        let api = apis::find(ApiKey::OBSERVE).ok_or(Malformed::Version)?;
        let write = |buffer: &mut BytesMut| {
            request.encode(buffer);
            Ok(())
        };
        let (_, body) = client.exchange(api, api.max, Extras::default(), write, timeout).await?;
        Ok(ObserveResponse::decode(&body)?)
    }

    /// Notes that a voter does not take part, and why.
    fn failed(&self, node: NodeId, problem: &str) -> String {
        let mut known = self.known.lock();
        if let Some(peer) = known.status.peers.iter_mut().find(|peer| peer.node == Some(node)) {
            peer.problem = Some(problem.to_owned());
        }
        problem.to_owned()
    }

    /// The pieces of a snapshot, from the voter that offered it.
    fn pieces(
        self: Arc<Self>,
        client: Client,
        meta: SnapshotMeta,
        count: u32,
    ) -> BoxStream<'static, Result<Bytes, SnapshotError>> {
        let ask = move |number: u32| {
            let (shared, client) = (self.clone(), client.clone());
            async move {
                let piece = Some((meta.index, number));
                let request = ObserveRequest { after: meta.index, max_bytes: 0, wait_ms: 0, piece };
                let answer = shared.observe(&client, &request, PATIENCE * 5).await;
                match answer.map_err(|error| SnapshotError(error.to_string()))?.content {
                    Observed::Piece(bytes) if !bytes.is_empty() => Ok(bytes),
                    _ => Err(SnapshotError("the voter does not keep it any more".to_owned())),
                }
            }
        };
        stream::iter(0..count).then(ask).boxed()
    }
}
