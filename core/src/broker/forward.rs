//! Requests to the controller, wherever it is: this node, or another that is reached over its controller listener.

use std::{net::IpAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use thiserror::Error;
use uuid::Uuid;

use super::{Broker, service};
use crate::{
    ids::{DirectoryId, Epoch, LogIndex, NodeId},
    protocol::{
        apis::{self, ApiKey},
        bodies::{self, EnvelopeRequest, RequestBody},
        client::{Client, ClientError},
        errors::ErrorCode,
        header::{self, Extras, RequestHeader},
        internal::{HelloRequest, Purpose},
        primitives::Malformed,
    },
    runtime::{Elapsed, Moment, Runtime},
};

/// Before the controller is looked for again.
const PAUSE: Duration = Duration::from_millis(20);

/// Where the controller is, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ControllerAt {
    /// Nobody is known to lead.
    #[default]
    Unknown,
    /// This node is the controller.
    Here {
        /// Its leadership.
        epoch: Epoch,
    },
    /// Another node is.
    There {
        /// Its leadership.
        epoch: Epoch,
        /// The node.
        node: NodeId,
        /// Its controller listener, `host:port`.
        endpoint: String,
    },
}

/// Who sent the request that is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The principal, in Kafka's form `Type:name`.
    pub principal: String,
    /// Where the request came from.
    pub address: IpAddr,
}

/// The controller did not answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ForwardError {
    /// No controller was found in time; the request was not carried out.
    #[error("no controller was found in time; the cluster may be electing one")]
    NoController,
    /// The request was sent and the answer did not come: it may have been carried out or not.
    #[error("the controller's answer did not come: {0}")]
    Unknown(String),
    /// The request or its answer cannot be said on the wire.
    #[error("the request cannot be forwarded: {0}")]
    Codec(String),
}

impl ForwardError {
    /// What a client is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoController => ErrorCode::NOT_CONTROLLER,
            Self::Unknown(_) => ErrorCode::REQUEST_TIMED_OUT,
            Self::Codec(_) => ErrorCode::UNKNOWN_SERVER_ERROR,
        }
    }
}

impl From<Malformed> for ForwardError {
    fn from(error: Malformed) -> Self {
        Self::Codec(error.to_string())
    }
}

impl From<bodies::EncodeError> for ForwardError {
    fn from(error: bodies::EncodeError) -> Self {
        Self::Codec(error.to_string())
    }
}

/// What a request to the controller is: its key, its version, its body.
struct Question {
    key: ApiKey,
    version: i16,
    body: Bytes,
    /// Whether it does no harm twice, so that it is sent again when its answer does not come.
    repeatable: bool,
}

/// A connection to the controller, made when it is needed and kept while the controller stays.
#[derive(Debug, Default)]
pub(super) struct Link(Mutex<Option<(Epoch, Client)>>);

impl Broker {
    /// Forwards a client's request to the controller in an Envelope (KIP-590), and waits until this node's image shows
    /// what was done.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub async fn forward<R: RequestBody>(
        self: &std::sync::Arc<Self>,
        request: &R,
        caller: &Caller,
        deadline: Moment,
    ) -> Result<R::Response, ForwardError> {
        let api = apis::find(ApiKey(R::KEY)).ok_or(Malformed::Version)?;
        let version = api.max;
        let header = RequestHeader {
            key: api.key,
            version,
            correlation_id: 0,
            client_id: Some(b"forwarded"),
            extras: Extras::default(),
        };
        let mut inner = BytesMut::new();
        header::write_request(&mut inner, &header, api.is_flexible(version));
        bodies::encode(&mut inner, request, api.key, version)?;
        let address = match caller.address {
            IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
            IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
        };
        let envelope = EnvelopeRequest::default()
            .with_request_data(inner.freeze())
            .with_request_principal(Some(Bytes::copy_from_slice(caller.principal.as_bytes())))
            .with_client_host_address(address);
        let (answer, index) = loop {
            let (answer, extras) = self.ask(&self.link, &self.runtime, &envelope, false, deadline).await?;
            if ErrorCode(answer.error_code) != ErrorCode::NOT_CONTROLLER {
                break (answer, extras.image_index);
            }
            self.pause(deadline).await?;
        };
        let code = ErrorCode(answer.error_code);
        let Some(data) = answer.response_data.filter(|_| code.is_none()) else {
            return Err(ForwardError::Unknown(code.to_string()));
        };
        let (_, _, body) = header::read_response(data, api.has_flexible_response_header(version))?;
        let response = bodies::decode_response::<R>(body, version)?;
        if let Some(index) = index
            && self.image_at(index, deadline).await.is_err()
        {
            tracing::debug!(%index, "the answer is given before this node's image shows what was done");
        }
        Ok(response)
    }

    /// Asks the controller for something that does no harm twice, in Kafka's own schema. An answer that says
    /// NOT_CONTROLLER in its body is the caller's to repeat. The index is the entry that the answer is about.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub async fn ask_controller<R: RequestBody>(
        self: &std::sync::Arc<Self>,
        request: &R,
        deadline: Moment,
    ) -> Result<(R::Response, Option<LogIndex>), ForwardError> {
        let (answer, extras) = self.ask(&self.link, &self.runtime, request, true, deadline).await?;
        Ok((answer, extras.image_index))
    }

    /// Asks over `link`, whose tasks run on `runtime`.
    pub(super) async fn ask<R: RequestBody>(
        self: &std::sync::Arc<Self>,
        link: &Link,
        runtime: &Runtime,
        request: &R,
        repeatable: bool,
        deadline: Moment,
    ) -> Result<(R::Response, Extras), ForwardError> {
        let api = apis::find(ApiKey(R::KEY)).ok_or(Malformed::Version)?;
        let version = api.max;
        let mut body = BytesMut::new();
        bodies::encode(&mut body, request, api.key, version)?;
        let question = Question { key: api.key, version, body: body.freeze(), repeatable };
        let (extras, body) = self.exchange(link, runtime, &question, deadline).await?;
        Ok((bodies::decode_response::<R>(body, version)?, extras))
    }

    async fn exchange(
        self: &std::sync::Arc<Self>,
        link: &Link,
        runtime: &Runtime,
        question: &Question,
        deadline: Moment,
    ) -> Result<(Extras, Bytes), ForwardError> {
        let Question { key, version, body, repeatable } = question;
        loop {
            let (epoch, node, endpoint) = match self.known_controller(deadline).await? {
                ControllerAt::Unknown => continue,
                ControllerAt::Here { epoch } => {
                    let extras = Extras { controller_epoch: Some(epoch), image_index: None };
                    let peer = service::Peer { node: self.node(), incarnation: self.incarnation };
                    let serving = service::serve(self, &peer, (*key, *version), body.clone(), &extras);
                    let left = deadline.since(self.runtime.clock.now());
                    match self.runtime.clock.timeout(left, serving).await {
                        Ok(Ok((body, extras))) => return Ok((extras, body.freeze())),
                        Ok(Err(service::ServeError::NotController)) => {
                            self.pause(deadline).await?;
                            continue;
                        }
                        Ok(Err(error)) => return Err(ForwardError::Codec(error.to_string())),
                        Err(Elapsed) => return Err(ForwardError::Unknown("no time is left".to_owned())),
                    }
                }
                ControllerAt::There { epoch, node, endpoint } => (epoch, node, endpoint),
            };
            let client = match self.connected(link, runtime, epoch, node, &endpoint).await {
                Ok(client) => client,
                Err(error) => {
                    tracing::debug!(%endpoint, %error, "the controller cannot be reached");
                    self.pause(deadline).await?;
                    continue;
                }
            };
            let api = apis::find(*key).ok_or(Malformed::Version)?;
            let extras = Extras { controller_epoch: Some(epoch), image_index: Some(self.image().index) };
            let write = |buffer: &mut BytesMut| {
                buffer.extend_from_slice(body);
                Ok(())
            };
            let left = deadline.since(self.runtime.clock.now());
            let answer = tokio::select! { biased;
                answer = client.exchange(api, *version, extras, write, left) => answer.map_err(|e| e.to_string()),
                () = self.controller_moved(epoch) => Err("the controller has moved".to_owned()),
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            link.forget(&client);
            if !repeatable {
                return Err(ForwardError::Unknown(error));
            }
            self.pause(deadline).await?;
        }
    }

    /// Waits until somebody is known to lead.
    async fn known_controller(&self, deadline: Moment) -> Result<ControllerAt, ForwardError> {
        let mut at = self.controller_at.subscribe();
        let left = deadline.since(self.runtime.clock.now());
        let known = at.wait_for(|at| *at != ControllerAt::Unknown);
        match self.runtime.clock.timeout(left, known).await {
            Ok(Ok(at)) => Ok(at.clone()),
            Ok(Err(_)) | Err(Elapsed) => Err(ForwardError::NoController),
        }
    }

    /// Waits until the controller of this epoch is no longer the one.
    async fn controller_moved(&self, epoch: Epoch) {
        let mut at = self.controller_at.subscribe();
        let moved =
            |at: &ControllerAt| !matches!(at, ControllerAt::There { epoch: now, .. } if *now == epoch);
        if at.wait_for(moved).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn pause(&self, deadline: Moment) -> Result<(), ForwardError> {
        if self.runtime.clock.now().plus(PAUSE) >= deadline {
            return Err(ForwardError::NoController);
        }
        self.runtime.clock.sleep(PAUSE).await;
        Ok(())
    }

    async fn connected(
        &self,
        link: &Link,
        runtime: &Runtime,
        epoch: Epoch,
        node: NodeId,
        endpoint: &str,
    ) -> Result<Client, ClientError> {
        if let Some((of, client)) = link.0.lock().clone()
            && of == epoch
            && !client.is_closed()
        {
            return Ok(client);
        }
        let timeout = self.config.timings.connect;
        let client = Client::connect(runtime, endpoint, "quorate", timeout).await?;
        let answer = client.hello(&self.hello(Purpose::Controller), timeout).await?;
        if answer.node != node {
            let message = format!("node {} was expected there, node {} answered", node, answer.node);
            let (endpoint, error) = (endpoint.to_owned(), ErrorCode::NOT_CONTROLLER);
            return Err(ClientError::Refused { endpoint, error, message: Some(message) });
        }
        *link.0.lock() = Some((epoch, client.clone()));
        Ok(client)
    }

    /// What this node says of itself when it opens an internal connection.
    #[must_use]
    pub fn hello(&self, purpose: Purpose) -> HelloRequest {
        let directory = self.facts().and_then(|facts| facts.directories.first().copied());
        HelloRequest {
            cluster: self.image().founding.map_or(Uuid::nil(), |founding| founding.cluster),
            node: self.node(),
            directory: directory.unwrap_or(DirectoryId(Uuid::nil())),
            incarnation: self.incarnation,
            broker_epoch: self.broker_epoch(),
            purpose,
        }
    }
}

impl Link {
    fn forget(&self, client: &Client) {
        let mut kept = self.0.lock();
        if kept.as_ref().is_some_and(|(_, kept)| kept.endpoint() == client.endpoint()) {
            *kept = None;
        }
    }
}
