//! A request on its way through a handler, and what comes of it.

use std::{net::SocketAddr, sync::OnceLock};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    broker::config::{ListenerConfig, ListenerPurpose},
    protocol::{
        apis::{Api, ApiKey, Purposes},
        bodies::{self, Body, RequestBody},
        header::{self, Extras},
        internal::HelloRequest,
        outgoing::Outgoing,
        primitives::Malformed,
    },
};

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Caller {
    /// The listener's name: answers hold the addresses of listeners of this name.
    pub listener: String,
    /// What may be asked here.
    pub purposes: Purposes,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// What the other end proved by its hello, once it has.
    pub hello: OnceLock<HelloRequest>,
}

impl Caller {
    /// Nobody in particular, as every connection begins.
    #[must_use]
    pub fn new(listener: &ListenerConfig, peer: SocketAddr) -> Self {
        let purposes = match listener.purpose {
            ListenerPurpose::Client => Purposes::CLIENTS,
            ListenerPurpose::InterBroker => Purposes::CLIENTS.and(Purposes::INTER_BROKER),
            ListenerPurpose::Controller => Purposes::CONTROLLER,
        };
        Self { listener: listener.name.clone(), purposes, peer, hello: OnceLock::new() }
    }
}

/// A request whose header was read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) api: &'static Api,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    pub(super) extras: Extras,
    pub(super) body: Bytes,
    /// The memory of the frame; to be let go together with `body`.
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

/// What comes of a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// This answer.
    Frame(Outgoing),
    /// None: acks=0.
    Nothing,
    /// The connection is closed, for this reason.
    Close(Closed),
}

/// Why a connection is closed from this side.
#[derive(Debug)]
pub(super) struct Closed(pub(super) String);

impl From<Malformed> for Closed {
    fn from(malformed: Malformed) -> Self {
        Self(malformed.to_string())
    }
}

/// What may begin while a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlap {
    /// Nothing: whoever sends the next request may count on this one having been done.
    Nothing,
    /// Another Produce: what must be in order has happened when it waits.
    Produce,
    /// Another request to the controller: the sender does not care for their order.
    Controller,
}

impl Overlap {
    /// Whether a request of this kind may begin while one of kind `self` waits.
    pub(super) fn permits(self, key: ApiKey) -> bool {
        match self {
            Self::Nothing => false,
            Self::Produce => key == ApiKey::PRODUCE,
            Self::Controller => is_for_controller(key),
        }
    }
}

/// Whether brokers send the request to the controller.
pub(super) fn is_for_controller(key: ApiKey) -> bool {
    matches!(
        key,
        ApiKey::BROKER_REGISTRATION
            | ApiKey::BROKER_HEARTBEAT
            | ApiKey::ALTER_PARTITION
            | ApiKey::ALLOCATE_PRODUCER_IDS
            | ApiKey::ENVELOPE
    )
}

/// A request that was begun: answered already, or waiting for something.
pub(super) enum Begun {
    /// Answered.
    Ready(Reply),
    /// The answer comes when it comes.
    Waiting {
        /// The answer. Dropping it gives the request up.
        reply: BoxFuture<'static, Reply>,
        /// Of a Fetch: told when the same replica fetches again; the answer then comes at once, with what there is.
        hurry: Option<oneshot::Sender<()>>,
        /// What may begin before this is answered.
        overlap: Overlap,
    },
}

impl Begun {
    /// An answer that takes time.
    pub(super) fn later(reply: impl Future<Output = Reply> + Send + 'static) -> Self {
        Self::Waiting { reply: Box::pin(reply), hurry: None, overlap: Overlap::Nothing }
    }
}

impl Request {
    /// Reads the body.
    pub(super) fn decode<R: RequestBody>(&self) -> Result<R, Malformed> {
        bodies::decode_request(self.body.clone(), self.version)
    }

    /// An answer with a body of the control plane.
    pub(super) fn reply<B: Body>(&self, body: &B) -> Reply {
        self.reply_with(body, &Extras::default())
    }

    /// An answer with a body of the control plane and what brokers tell each other.
    pub(super) fn reply_with<B: Body>(&self, body: &B, extras: &Extras) -> Reply {
        let mut frame = self.begin_reply(extras);
        match bodies::encode(frame.buffer(), body, self.api.key, self.version) {
            Ok(()) => Reply::Frame(frame),
            Err(error) => {
                // The handler set a field that the version does not have: a bug, which costs this connection only.
                tracing::error!("{error}");
                Reply::Close(Closed(error.to_string()))
            }
        }
    }

    /// An answer whose body `write` appends.
    pub(super) fn reply_raw(&self, write: impl FnOnce(&mut BytesMut)) -> Reply {
        let mut frame = self.begin_reply(&Extras::default());
        write(frame.buffer());
        Reply::Frame(frame)
    }

    /// The header of an answer.
    pub(super) fn begin_reply(&self, extras: &Extras) -> Outgoing {
        let mut frame = Outgoing::new();
        let flexible = self.api.has_flexible_response_header(self.version);
        header::write_response(frame.buffer(), self.correlation_id, flexible, extras);
        frame
    }
}
