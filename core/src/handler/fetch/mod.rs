//! Fetch: records for consumers below the high watermark, and for replicas to the end of the log (KIP-74, KIP-227,
//! KIP-320, KIP-951).
//!
//! A request reads what has changed of its session, and answers when that is enough; until then it waits on the
//! progress of its partitions, with a deadline.

mod session;
mod sessions;

#[cfg(test)]
mod fetch_test;

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use self::session::{Limits, Pass};
pub(super) use self::sessions::Sessions;
use self::sessions::{CheckedOut, SessionError};
use super::{
    Handlers,
    partitions::Hints,
    request::{Begun, Caller, Closed, Overlap, Reply, Request},
};
use crate::{
    ids::{BrokerEpoch, NodeId},
    protocol::{
        apis::Purposes,
        errors::ErrorCode,
        fetch::FetchRequest,
        fetch_response::{FetchResponse, FetchedPartition},
        header::Extras,
        internal::Purpose,
    },
    runtime::Moment,
};

/// The most bytes that one answer holds besides its first batch, whatever was asked for and configured: a frame must
/// stay well below what a client can take.
const BYTES_MAX: usize = 128 << 20;

/// Who fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetcher {
    /// A client.
    Consumer,
    /// Another broker, as its hello proved.
    Replica {
        /// The node.
        node: NodeId,
        /// Its registration.
        broker_epoch: BrokerEpoch,
    },
}

impl Fetcher {
    /// The node; [`NodeId::NONE`] for a consumer.
    fn node(self) -> NodeId {
        match self {
            Self::Consumer => NodeId::NONE,
            Self::Replica { node, .. } => node,
        }
    }
}

pub(super) fn begin(
    handlers: &Arc<Handlers>,
    caller: &Arc<Caller>,
    request: Request,
) -> Result<Begun, Closed> {
    let mut asked = FetchRequest::decode(&request.body, request.version)?;
    let fetcher = match fetcher(caller, &asked) {
        Ok(fetcher) => fetcher,
        Err(error) => return Ok(Begun::Ready(refused(&request, &asked, error))),
    };
    let session = match handlers.sessions.open(&mut asked, fetcher, request.version, handlers) {
        Ok(session) => session,
        Err(SessionError(error)) => return Ok(Begun::Ready(failed(&request, error))),
    };
    let now = handlers.broker.runtime.clock.now();
    let wait = Duration::from_millis(u64::try_from(asked.max_wait_ms).unwrap_or(0));
    let mut fetching = Fetching {
        limits: limits(handlers, fetcher, &asked),
        min_bytes: usize::try_from(asked.min_bytes).unwrap_or(0),
        deadline: now.plus(wait.min(super::forwarding::WAIT_MAX)),
        read_committed: asked.isolation == 1,
        fetcher,
        session,
        handlers: handlers.clone(),
        caller: caller.clone(),
        version: request.version,
    };
    let pass = fetching.pass();
    if wait.is_zero() || fetching.is_enough(&pass) {
        return Ok(Begun::Ready(reply(&request, fetching.finish())));
    }
    let (hurry, hurried) = oneshot::channel();
    // The request is small, and what it asks for is in the session.
    let Request { api, version, correlation_id, extras, .. } = request;
    let request = Request { api, version, correlation_id, extras, body: bytes::Bytes::new(), memory: None };
    let waiting = async move {
        fetching.wait(hurried).await;
        reply(&request, fetching.finish())
    };
    Ok(Begun::Waiting { reply: Box::pin(waiting), hurry: Some(hurry), overlap: Overlap::Nothing })
}

/// Who fetches: a replica only on a listener of brokers, and only the node that the connection's hello named.
fn fetcher(caller: &Caller, asked: &FetchRequest) -> Result<Fetcher, ErrorCode> {
    if asked.replica.0 < 0 {
        return Ok(Fetcher::Consumer);
    }
    let hello = caller.hello.get().filter(|hello| hello.purpose == Purpose::Replication);
    match hello {
        Some(hello) if hello.node == asked.replica && caller.purposes.meets(Purposes::INTER_BROKER) => {
            Ok(Fetcher::Replica { node: hello.node, broker_epoch: hello.broker_epoch })
        }
        _ => Err(ErrorCode::CLUSTER_AUTHORIZATION_FAILED),
    }
}

fn limits(handlers: &Handlers, fetcher: Fetcher, asked: &FetchRequest) -> Limits {
    let configured = match fetcher {
        Fetcher::Consumer => handlers.limits.fetch_bytes,
        Fetcher::Replica { .. } => BYTES_MAX,
    };
    Limits { bytes: usize::try_from(asked.max_bytes).unwrap_or(0).min(configured).min(BYTES_MAX) }
}

/// A request under way.
struct Fetching {
    handlers: Arc<Handlers>,
    caller: Arc<Caller>,
    fetcher: Fetcher,
    session: CheckedOut,
    limits: Limits,
    min_bytes: usize,
    deadline: Moment,
    read_committed: bool,
    version: i16,
}

impl Fetching {
    /// Reads what has changed.
    fn pass(&mut self) -> Pass {
        self.session.get().pass(&self.handlers, self.fetcher, self.limits)
    }

    /// Whether the answer need not wait: enough bytes, or something that the reader must hear of.
    fn is_enough(&self, pass: &Pass) -> bool {
        pass.bytes >= self.min_bytes.max(1) || pass.is_urgent || (self.min_bytes == 0) || pass.is_empty
    }

    /// Waits until there is enough, the time is up, or a newer request of the same replica has come.
    async fn wait(&mut self, mut hurried: oneshot::Receiver<()>) {
        let clock = self.handlers.broker.runtime.clock.clone();
        let mut deadline = Box::pin(clock.sleep_until(self.deadline));
        loop {
            tokio::select! { biased;
                _ = &mut hurried => return,
                () = self.session.get().changed() => {}
                () = &mut deadline => return,
            }
            let pass = self.pass();
            if self.is_enough(&pass) {
                return;
            }
        }
    }

    fn finish(self) -> FetchResponse {
        let Self { handlers, caller, mut session, read_committed, version, .. } = self;
        let image = handlers.broker.image_arc();
        let mut hints = Hints::new(&image, &caller.listener);
        let mut partitions = session.get().take_answers();
        for partition in &mut partitions {
            partition.leader = hints.about(&partition.topic, partition.index, partition.error);
            // Without transactions nothing is aborted; a reader of committed records wants to be told so.
            partition.aborted = (read_committed && partition.error.is_none()).then(Vec::new);
        }
        let session_id = session.give_back();
        let endpoints = if version >= 16 { hints.into_endpoints() } else { Vec::new() };
        FetchResponse { session_id, partitions, endpoints, ..FetchResponse::default() }
    }
}

fn reply(request: &Request, response: FetchResponse) -> Reply {
    let mut frame = request.begin_reply(&Extras::default());
    response.encode(&mut frame, request.version);
    Reply::Frame(frame)
}

fn failed(request: &Request, error: ErrorCode) -> Reply {
    reply(request, FetchResponse::failed(error))
}

/// The same error for the request and for every partition, since old versions have no other place for it.
fn refused(request: &Request, asked: &FetchRequest, error: ErrorCode) -> Reply {
    let mut response = FetchResponse::failed(error);
    let partitions = asked.partitions.iter();
    response.partitions =
        partitions.map(|asked| FetchedPartition::failed(asked.topic.clone(), asked.index, error)).collect();
    reply(request, response)
}
