//! The controller's side of requests between nodes, in Kafka's schemas: BrokerRegistration, BrokerHeartbeat,
//! AlterPartition, AllocateProducerIds, and Envelope around what clients ask of the controller.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use uuid::Uuid;

use super::{
    Broker, admin,
    controller::{Leadership, disconnected, propose},
};
use crate::{
    consensus::ProposeError,
    controller::{Heartbeat, PRODUCER_ID_BLOCK, Refusal, RegistrationPlan, plan_registration},
    ids::{BrokerEpoch, DirectoryId, LogIndex, NodeId, base64_id},
    metadata::{
        Accepted, Command, Image, Outcome,
        command::{AllocateProducerIds, AlterPartitions, IsrChange, IsrMember},
        image::{Endpoint, Partition, Roles},
    },
    protocol::{
        apis::{self, ApiKey},
        bodies::{
            self, AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterPartitionRequest,
            AlterPartitionResponse, Body, BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerId,
            BrokerRegistrationRequest, BrokerRegistrationResponse, EnvelopeRequest, EnvelopeResponse,
            ProducerId, alter_partition_request, alter_partition_response,
        },
        errors::ErrorCode,
        header::{self, Extras},
        internal::{HelloRequest, HelloResponse},
        primitives::{Malformed, Reader},
    },
    runtime::Moment,
};

/// Tag of BrokerRegistration: 1 if what was only in the page cache is lost.
pub(super) const TAG_PAGE_CACHE_LOST: i32 = 10_000;
/// Tag of BrokerRegistration: 1 if an fsync failed in the broker's last life.
pub(super) const TAG_SYNC_FAILED: i32 = 10_001;
/// Tag of BrokerRegistration: 1 if the node is a controller as well.
pub(super) const TAG_CONTROLLER: i32 = 10_002;

/// For how long the outcome of a proposal is looked for in the image when the backend did not tell it.
const UNKNOWN: std::time::Duration = std::time::Duration::from_secs(5);

/// The node at the other end of an internal connection, as its hello proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its process.
    pub incarnation: Uuid,
}

/// Why there is no answer in the request's own schema.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ServeError {
    /// This node is not the controller, or not in the epoch that the request names.
    #[error("this node is not the controller that the request is for")]
    NotController,
    /// The request is not for a controller.
    #[error("{0} is no request to a controller")]
    NotServed(ApiKey),
    /// The body cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The answer cannot be said.
    #[error("{0}")]
    Encode(String),
}

impl From<bodies::EncodeError> for ServeError {
    fn from(error: bodies::EncodeError) -> Self {
        Self::Encode(error.to_string())
    }
}

type Answer = Result<(BytesMut, Extras), ServeError>;

/// A request as it came: its version and its body.
pub(super) struct Question {
    version: i16,
    body: Bytes,
}

/// What a request to the controller is served with.
pub(super) struct Service<'a> {
    pub(super) broker: &'a Arc<Broker>,
    pub(super) leadership: Arc<Leadership>,
    pub(super) image: Arc<Image>,
}

/// Answers the hello that opens an internal connection, as `on` says its own identity.
#[must_use]
pub fn greet(broker: &Broker, hello: &HelloRequest) -> HelloResponse {
    let cluster = broker.image().founding.map_or(Uuid::nil(), |founding| founding.cluster);
    let foreign = !cluster.is_nil() && !hello.cluster.is_nil() && cluster != hello.cluster;
    let message = foreign.then(|| {
        format!(
            "node {} is of cluster {}, this is cluster {}",
            hello.node,
            base64_id(hello.cluster),
            base64_id(cluster)
        )
    });
    HelloResponse {
        error: if foreign { ErrorCode::INCONSISTENT_CLUSTER_ID } else { ErrorCode::NONE },
        message,
        cluster,
        node: broker.node(),
        incarnation: broker.incarnation,
    }
}

/// A connection that was opened for requests to the controller has ended. If this node is the controller, it looks
/// whether the process at the other end has ended too.
pub fn connection_lost(broker: &Arc<Broker>, peer: &Peer) {
    let registered = broker.image().brokers.get(&peer.node).map(|known| known.incarnation);
    if registered == Some(peer.incarnation) {
        disconnected(broker, peer.node);
    }
}

/// Serves a request to the controller: `api` is key and version. The answer is the response's body and what belongs
/// into its header.
///
/// # Errors
/// [`ServeError`]. [`error_answer`] turns [`ServeError::NotController`] into a body.
pub async fn serve(
    broker: &Arc<Broker>,
    peer: &Peer,
    api: (ApiKey, i16),
    body: Bytes,
    extras: &Extras,
) -> Result<(BytesMut, Extras), ServeError> {
    let leadership = broker.leadership.load_full().ok_or(ServeError::NotController)?;
    if extras.controller_epoch != Some(leadership.epoch) {
        return Err(ServeError::NotController);
    }
    let service = Service { broker, leadership, image: broker.image_arc() };
    let (key, version) = api;
    let question = Question { version, body };
    match key {
        ApiKey::BROKER_REGISTRATION => service.register(peer, question).await,
        ApiKey::BROKER_HEARTBEAT => service.heartbeat(peer, question),
        ApiKey::ALTER_PARTITION => service.alter_partition(peer, question).await,
        ApiKey::ALLOCATE_PRODUCER_IDS => service.allocate_producer_ids(peer, question).await,
        ApiKey::ENVELOPE => service.envelope(question).await,
        other => Err(ServeError::NotServed(other)),
    }
}

/// The body that says `code` to a request to the controller; `None` for a key that is none.
#[must_use]
pub fn error_answer(key: ApiKey, version: i16, code: ErrorCode) -> Option<BytesMut> {
    let mut buffer = BytesMut::new();
    let encoded = match key {
        ApiKey::BROKER_REGISTRATION => {
            let answer = BrokerRegistrationResponse::default().with_error_code(code.0).with_broker_epoch(-1);
            bodies::encode(&mut buffer, &answer, key, version)
        }
        ApiKey::BROKER_HEARTBEAT => {
            let answer = BrokerHeartbeatResponse::default().with_error_code(code.0);
            bodies::encode(&mut buffer, &answer, key, version)
        }
        ApiKey::ALTER_PARTITION => {
            let answer = AlterPartitionResponse::default().with_error_code(code.0);
            bodies::encode(&mut buffer, &answer, key, version)
        }
        ApiKey::ALLOCATE_PRODUCER_IDS => {
            let answer = AllocateProducerIdsResponse::default().with_error_code(code.0);
            bodies::encode(&mut buffer, &answer, key, version)
        }
        ApiKey::ENVELOPE => {
            let answer = EnvelopeResponse::default().with_error_code(code.0);
            bodies::encode(&mut buffer, &answer, key, version)
        }
        _ => return None,
    };
    encoded.ok().map(|()| buffer)
}

impl Service<'_> {
    async fn register(&self, peer: &Peer, question: Question) -> Answer {
        let request: BrokerRegistrationRequest = bodies::decode_request(question.body, question.version)?;
        let answer = match self.registration(peer, &request).await {
            Ok((index, epoch)) => {
                let answer = BrokerRegistrationResponse::default().with_broker_epoch(epoch.0);
                return say(ApiKey::BROKER_REGISTRATION, question.version, &answer, Some(index));
            }
            Err(refusal) => {
                tracing::warn!(node = %peer.node, reason = %refusal.message, "a registration is refused");
                BrokerRegistrationResponse::default().with_error_code(refusal.code.0).with_broker_epoch(-1)
            }
        };
        say(ApiKey::BROKER_REGISTRATION, question.version, &answer, None)
    }

    async fn registration(
        &self,
        peer: &Peer,
        request: &BrokerRegistrationRequest,
    ) -> Result<(LogIndex, BrokerEpoch), Refusal> {
        if request.broker_id.0 != peer.node.0 || request.incarnation_id != peer.incarnation {
            return Err(not_yours());
        }
        let command = plan_registration(&self.image, &registration_plan(request)?)?;
        let incarnation = request.incarnation_id;
        let registered = |image: &Image| {
            let broker = image.brokers.get(&peer.node).filter(|broker| broker.incarnation == incarnation)?;
            Some(Accepted::Registered(broker.epoch))
        };
        let (index, accepted) = self.carry_out(&command, registered).await?;
        let Accepted::Registered(epoch) = accepted else { return Err(unexpected()) };
        self.leadership.liveness.lock().registered(peer.node, epoch, self.now());
        self.leadership.wake.notify_one();
        Ok((index, epoch))
    }

    fn heartbeat(&self, peer: &Peer, question: Question) -> Answer {
        let request: BrokerHeartbeatRequest = bodies::decode_request(question.body, question.version)?;
        let node = NodeId(request.broker_id.0);
        let heartbeat = Heartbeat {
            node,
            epoch: BrokerEpoch(request.broker_epoch),
            applied: LogIndex(u64::try_from(request.current_metadata_offset).unwrap_or_default()),
            wants_fence: request.want_fence,
            wants_shutdown: request.want_shut_down,
        };
        let result = if node == peer.node {
            self.leadership.liveness.lock().heartbeat(&self.image, &heartbeat, self.now())
        } else {
            Err(not_yours())
        };
        self.leadership.wake.notify_one();
        let answer = match result {
            Ok(answer) => BrokerHeartbeatResponse::default()
                .with_is_caught_up(answer.caught_up)
                .with_is_fenced(answer.fenced)
                .with_should_shut_down(answer.may_stop),
            Err(refusal) => {
                BrokerHeartbeatResponse::default().with_error_code(refusal.code.0).with_is_fenced(true)
            }
        };
        say(ApiKey::BROKER_HEARTBEAT, question.version, &answer, None)
    }

    async fn alter_partition(&self, peer: &Peer, question: Question) -> Answer {
        let request: AlterPartitionRequest = bodies::decode_request(question.body, question.version)?;
        let (answer, index) = match self.altered(peer, &request).await {
            Ok((index, partitions)) => (alter_answer(&request, partitions), Some(index)),
            Err(refusal) => (AlterPartitionResponse::default().with_error_code(refusal.code.0), None),
        };
        say(ApiKey::ALTER_PARTITION, question.version, &answer, index)
    }

    async fn altered(
        &self,
        peer: &Peer,
        request: &AlterPartitionRequest,
    ) -> Result<(LogIndex, Vec<Result<Partition, ErrorCode>>), Refusal> {
        if request.broker_id.0 != peer.node.0 {
            return Err(not_yours());
        }
        let topics = request.topics.iter();
        let changes = topics.flat_map(|topic| topic.partitions.iter().map(|p| isr_change(topic.topic_id, p)));
        let command = Command::AlterPartitions(AlterPartitions {
            node: request.broker_id.0,
            broker_epoch: request.broker_epoch,
            changes: changes.collect(),
        });
        let (index, accepted) = self.carry_out(&command, |_| None).await?;
        let Accepted::Altered(verdicts) = accepted else { return Err(unexpected()) };
        Ok((index, verdicts.into_iter().map(|verdict| verdict.map_err(ErrorCode::from)).collect()))
    }

    async fn allocate_producer_ids(&self, peer: &Peer, question: Question) -> Answer {
        let request: AllocateProducerIdsRequest = bodies::decode_request(question.body, question.version)?;
        let command = Command::AllocateProducerIds(AllocateProducerIds {
            node: request.broker_id.0,
            broker_epoch: request.broker_epoch,
            count: PRODUCER_ID_BLOCK,
        });
        let result = if request.broker_id.0 == peer.node.0 {
            self.carry_out(&command, |_| None).await
        } else {
            Err(not_yours())
        };
        let (answer, index) = match result {
            Ok((index, Accepted::ProducerIds(first))) => {
                let answer = AllocateProducerIdsResponse::default()
                    .with_producer_id_start(ProducerId(first))
                    .with_producer_id_len(PRODUCER_ID_BLOCK);
                (answer, Some(index))
            }
            Ok(_) => (AllocateProducerIdsResponse::default().with_error_code(unexpected().code.0), None),
            Err(refusal) => (AllocateProducerIdsResponse::default().with_error_code(refusal.code.0), None),
        };
        say(ApiKey::ALLOCATE_PRODUCER_IDS, question.version, &answer, index)
    }

    async fn envelope(&self, question: Question) -> Answer {
        let envelope: EnvelopeRequest = bodies::decode_request(question.body, question.version)?;
        let mut reader = Reader::new(&envelope.request_data);
        let Ok((header, api)) = header::read_request(&mut reader) else {
            return Err(Malformed::Value.into());
        };
        let inner = Question {
            version: header.version,
            body: envelope.request_data.slice(reader.position().min(envelope.request_data.len())..),
        };
        let mut data = BytesMut::new();
        header::write_response(
            &mut data,
            header.correlation_id,
            api.has_flexible_response_header(header.version),
            &Extras::default(),
        );
        let served = admin::serve(self, api.key, inner.version, inner.body, &mut data).await?;
        let answer = match served {
            Ok(_) => EnvelopeResponse::default().with_response_data(Some(data.freeze())),
            Err(code) => EnvelopeResponse::default().with_error_code(code.0),
        };
        say(ApiKey::ENVELOPE, question.version, &answer, served.unwrap_or_default())
    }

    /// Proposes a command and says what became of it. Where the backend cannot tell, `done` looks in the image of the
    /// epoch that follows.
    pub(super) async fn carry_out(
        &self,
        command: &Command,
        done: impl Fn(&Image) -> Option<Accepted>,
    ) -> Result<(LogIndex, Accepted), Refusal> {
        let Some(consensus) = self.broker.consensus() else { return Err(not_controller()) };
        let proposed = propose(self.broker, consensus, self.leadership.epoch, command.to_entry()).await;
        match proposed {
            Ok((index, Outcome::Accepted(accepted))) => Ok((index, accepted)),
            Ok((_, Outcome::Rejected(rejection))) => Err(rejection.into()),
            Ok((_, Outcome::Engine)) => Err(unexpected()),
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => Err(not_controller()),
            Err(ProposeError::TooLarge) => {
                let message = "The request makes an entry of the metadata log that is too large: split it.";
                Err(Refusal::new(ErrorCode::POLICY_VIOLATION, message))
            }
            Err(ProposeError::Busy) => {
                Err(Refusal::new(ErrorCode::REQUEST_TIMED_OUT, "The controller has too much to do."))
            }
            Err(ProposeError::Unknown) => {
                let image = self.after_this_epoch().await;
                let accepted = image.as_ref().and_then(|image| done(image));
                match (image, accepted) {
                    (Some(image), Some(accepted)) => Ok((image.index, accepted)),
                    _ => Err(Refusal::new(
                        ErrorCode::REQUEST_TIMED_OUT,
                        "The controller changed while the request was carried out: it may have been or not.",
                    )),
                }
            }
        }
    }

    /// The image once another controller is up: an entry of this epoch is in it or never will be.
    async fn after_this_epoch(&self) -> Option<Arc<Image>> {
        let mut applied = self.broker.applied();
        let epoch = self.leadership.epoch;
        let ended = applied.wait_for(|applied| applied.controller.is_some_and(|(now, _)| now > epoch));
        match self.broker.runtime.clock.timeout(UNKNOWN, ended).await {
            Ok(Ok(_)) => Some(self.broker.image_arc()),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn now(&self) -> Moment {
        self.broker.runtime.clock.now()
    }
}

fn say<B: Body>(key: ApiKey, version: i16, body: &B, index: Option<LogIndex>) -> Answer {
    let mut buffer = BytesMut::new();
    bodies::encode(&mut buffer, body, key, version)?;
    Ok((buffer, Extras { controller_epoch: None, image_index: index }))
}

fn not_controller() -> Refusal {
    Refusal::new(ErrorCode::NOT_CONTROLLER, "This node is not the controller any more.")
}

fn not_yours() -> Refusal {
    Refusal::new(ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "A node speaks for itself alone.")
}

fn unexpected() -> Refusal {
    Refusal::new(ErrorCode::UNKNOWN_SERVER_ERROR, "The metadata log answered something else.")
}

fn registration_plan(request: &BrokerRegistrationRequest) -> Result<RegistrationPlan, Refusal> {
    let endpoint = |listener: &bodies::broker_registration_request::Listener| {
        Some(Endpoint {
            listener: listener.name.to_string(),
            host: listener.host.to_string(),
            port: listener.port,
            protocol: i32::from(listener.security_protocol).try_into().ok()?,
        })
    };
    let endpoints: Option<Vec<Endpoint>> = request.listeners.iter().map(endpoint).collect();
    let endpoints = endpoints.ok_or_else(|| {
        Refusal::new(ErrorCode::INVALID_REGISTRATION, "A listener has a security protocol that is unknown.")
    })?;
    let level = |number: i16| u32::try_from(number).unwrap_or_default();
    let features = request.features.iter();
    let features = features
        .map(|f| (f.name.to_string(), level(f.min_supported_version), level(f.max_supported_version)));
    let flag = |tag: i32| request.unknown_tagged_fields.get(&tag).is_some_and(|bytes| **bytes == [1]);
    Ok(RegistrationPlan {
        node: NodeId(request.broker_id.0),
        cluster: request.cluster_id.to_string(),
        incarnation: request.incarnation_id,
        directories: request.log_dirs.iter().map(|id| DirectoryId(*id)).collect(),
        endpoints,
        rack: request.rack.as_ref().map(ToString::to_string),
        roles: Roles { broker: true, controller: flag(TAG_CONTROLLER) },
        features: features.collect(),
        page_cache_lost: flag(TAG_PAGE_CACHE_LOST),
        sync_failed: flag(TAG_SYNC_FAILED),
    })
}

fn isr_change(topic: Uuid, partition: &alter_partition_request::PartitionData) -> IsrChange {
    let old = partition.new_isr.iter().map(|node| IsrMember { node: node.0, broker_epoch: -1 });
    let new = partition.new_isr_with_epochs.iter();
    let new = new.map(|member| IsrMember { node: member.broker_id.0, broker_epoch: member.broker_epoch });
    IsrChange {
        topic: Some(topic.into()),
        partition: partition.partition_index,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        isr: old.chain(new).collect(),
        recovering: partition.leader_recovery_state == 1,
    }
}

fn alter_answer(
    request: &AlterPartitionRequest,
    verdicts: Vec<Result<Partition, ErrorCode>>,
) -> AlterPartitionResponse {
    let mut verdicts = verdicts.into_iter();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let index = asked.partition_index;
            let answer = alter_partition_response::PartitionData::default().with_partition_index(index);
            partitions.push(match verdicts.next() {
                Some(Ok(state)) => answer
                    .with_leader_id(BrokerId(state.leader.0))
                    .with_leader_epoch(state.leader_epoch.0)
                    .with_isr(state.isr.iter().map(|node| BrokerId(node.0)).collect())
                    .with_leader_recovery_state(i8::from(state.recovering))
                    .with_partition_epoch(state.partition_epoch.0),
                Some(Err(code)) => answer.with_error_code(code.0),
                None => answer.with_error_code(ErrorCode::UNKNOWN_SERVER_ERROR.0),
            });
        }
        let answer = alter_partition_response::TopicData::default();
        topics.push(answer.with_topic_id(topic.topic_id).with_partitions(partitions));
    }
    AlterPartitionResponse::default().with_topics(topics)
}

/// Whether the key is a request to the controller, served by [`serve`].
#[must_use]
pub fn is_for_controller(key: ApiKey) -> bool {
    apis::find(key).is_some_and(|api| api.listeners == apis::Purposes::CONTROLLER) && key != ApiKey::OBSERVE
}
