//! A small Kafka client over one connection: requests go out as they come, answers come back in order. Brokers use it
//! between each other, and the command line uses it.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt as _,
    sync::{mpsc, oneshot},
};

use crate::runtime::watch;

use super::{
    apis::{self, Api, ApiKey},
    bodies::{self, EncodeError, RequestBody},
    errors::ErrorCode,
    fetch::FetchRequest,
    fetch_response::FetchResponse,
    frame::FrameReader,
    header::{self, Extras, RequestHeader},
    internal::{HelloRequest, HelloResponse},
    primitives::Malformed,
    produce::{ProduceRequest, ProduceResponse},
};
use crate::runtime::{Clock, Connection, ReadHalf, Runtime, TaskScope, WriteHalf};

/// Requests that wait to be written; one more waits for room.
const QUEUE_MAX: usize = 64;

/// The largest answer that is read, 256 MiB: more than the largest `fetch.max.bytes` that is sensible.
const RESPONSE_BYTES_MAX: usize = 256 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The endpoint could not be reached.
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect {
        /// `host:port`.
        endpoint: String,
        /// As the system says.
        reason: io::Error,
    },
    /// The connection ended before the answer came. The request may have been carried out.
    #[error("the connection to {0} was closed")]
    Closed(String),
    /// No answer within the time given. The request may have been carried out.
    #[error("{0} did not answer in time")]
    Timeout(String),
    /// The request does not exist in this version.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The answer cannot be read.
    #[error("the answer cannot be read: {0}")]
    Malformed(#[from] Malformed),
    /// The other side refused the connection's purpose.
    #[error("{endpoint} refused the connection: {error}{}", .message.as_ref().map(|m| format!(": {m}")).unwrap_or_default())]
    Refused {
        /// `host:port`.
        endpoint: String,
        /// Why.
        error: ErrorCode,
        /// Why, in words.
        message: Option<String>,
    },
}

/// One connection to a broker. Clones share it; it is closed when the last is dropped.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: String,
    client_id: String,
    clock: Clock,
    requests: mpsc::Sender<Call>,
    waiting: Waiting,
    /// Dropped with the last clone, which ends both tasks.
    _alive: watch::Sender<()>,
}

/// A request on its way: the frame but for its length and correlation id, and who waits for the answer.
struct Call {
    frame: BytesMut,
    flexible: bool,
    answer: oneshot::Sender<(Extras, Bytes)>,
}

/// Who waits for answers, in order. `None` once the connection has failed.
type Waiting = Arc<Mutex<Option<VecDeque<(i32, bool, oneshot::Sender<(Extras, Bytes)>)>>>>;

impl Client {
    /// Connects to `host:port` within `timeout`.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::Timeout`].
    pub async fn connect(
        runtime: &Runtime,
        endpoint: &str,
        client_id: &str,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let connecting = runtime.clock.timeout(timeout, runtime.network.connect(endpoint)).await;
        let connected = connecting.map_err(|_| ClientError::Timeout(endpoint.to_owned()))?;
        let connection =
            connected.map_err(|reason| ClientError::Connect { endpoint: endpoint.to_owned(), reason })?;
        Ok(Self::over(connection, &runtime.tasks, runtime.clock.clone(), (endpoint, client_id)))
    }

    /// Speaks over a connection that exists. `names` are the other end, for messages, and what this end calls itself.
    #[must_use]
    pub fn over(connection: Connection, tasks: &TaskScope, clock: Clock, names: (&str, &str)) -> Self {
        let (read, write) = connection.into_split();
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let (alive, dropped) = watch::channel(());
        let waiting: Waiting = Arc::new(Mutex::new(Some(VecDeque::new())));
        tasks.spawn(until_stopping(tasks.clone(), send_all(write, queue, waiting.clone()), waiting.clone()));
        tasks.spawn(until_stopping(
            tasks.clone(),
            receive_all(read, dropped, waiting.clone()),
            waiting.clone(),
        ));
        let (endpoint, client_id) = (names.0.to_owned(), names.1.to_owned());
        Self(Arc::new(Inner { endpoint, client_id, clock, requests, waiting, _alive: alive }))
    }

    /// `host:port` of the other end.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.waiting.lock().is_none()
    }

    /// Sends a request in the newest version and waits for its answer, at most `timeout`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<R: RequestBody>(
        &self,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Response, ClientError> {
        Ok(self.call_with(request, Extras::default(), timeout).await?.0)
    }

    /// As [`Client::call`], with what brokers tell each other in the headers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call_with<R: RequestBody>(
        &self,
        request: &R,
        extras: Extras,
        timeout: Duration,
    ) -> Result<(R::Response, Extras), ClientError> {
        let (api, version) = served(ApiKey(R::KEY))?;
        // The newest ApiVersions has no codec but the server's own.
        let version = version.min(R::VERSIONS.max);
        let write = |buffer: &mut BytesMut| bodies::encode(buffer, request, api.key, version);
        let (extras, body) = self.exchange(api, version, extras, write, timeout).await?;
        Ok((bodies::decode_response::<R>(body, version)?, extras))
    }

    /// Fetches records.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fetch(
        &self,
        request: &FetchRequest,
        timeout: Duration,
    ) -> Result<FetchResponse, ClientError> {
        let (api, version) = served(ApiKey::FETCH)?;
        let write = |buffer: &mut BytesMut| {
            request.encode(buffer, version);
            Ok(())
        };
        let (_, body) = self.exchange(api, version, Extras::default(), write, timeout).await?;
        Ok(FetchResponse::decode(&body, version)?)
    }

    /// Appends records. `acks` must not be 0, which has no answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn produce(
        &self,
        request: &ProduceRequest,
        timeout: Duration,
    ) -> Result<ProduceResponse, ClientError> {
        let (api, version) = served(ApiKey::PRODUCE)?;
        let write = |buffer: &mut BytesMut| {
            request.encode(buffer, version);
            Ok(())
        };
        let (_, body) = self.exchange(api, version, Extras::default(), write, timeout).await?;
        Ok(ProduceResponse::decode(&body, version)?)
    }

    /// Says who this is: the first request on an internal connection.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] if the other end wants no such connection.
    pub async fn hello(&self, hello: &HelloRequest, timeout: Duration) -> Result<HelloResponse, ClientError> {
        let (api, version) = served(ApiKey::HELLO)?;
        let write = |buffer: &mut BytesMut| {
            hello.encode(buffer);
            Ok(())
        };
        let (_, body) = self.exchange(api, version, Extras::default(), write, timeout).await?;
        let answer = HelloResponse::decode(&body)?;
        if answer.error.is_none() {
            return Ok(answer);
        }
        let (endpoint, error, message) = (self.0.endpoint.clone(), answer.error, answer.message);
        Err(ClientError::Refused { endpoint, error, message })
    }

    /// Sends a request whose body `write` appends, and returns what the response header says and the body. The request
    /// is sent in the order of the first polls. Dropping the future does not take the request back.
    ///
    /// # Errors
    /// [`ClientError`]; what `write` returns.
    pub async fn exchange(
        &self,
        api: &Api,
        version: i16,
        extras: Extras,
        write: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
        timeout: Duration,
    ) -> Result<(Extras, Bytes), ClientError> {
        let client_id = Some(self.0.client_id.as_bytes());
        let header = RequestHeader { key: api.key, version, correlation_id: 0, client_id, extras };
        let mut frame = BytesMut::zeroed(4);
        header::write_request(&mut frame, &header, api.is_flexible(version));
        write(&mut frame)?;
        let (answer, answered) = oneshot::channel();
        let call = Call { frame, flexible: api.has_flexible_response_header(version), answer };
        let exchanged = self.0.clock.timeout(timeout, async {
            self.0.requests.send(call).await.map_err(|_| ())?;
            answered.await.map_err(|_| ())
        });
        let exchanged = exchanged.await.map_err(|_| ClientError::Timeout(self.0.endpoint.clone()))?;
        exchanged.map_err(|()| ClientError::Closed(self.0.endpoint.clone()))
    }
}

fn served(key: ApiKey) -> Result<(&'static Api, i16), Malformed> {
    apis::find(key).map(|api| (api, api.max)).ok_or(Malformed::Version)
}

/// A client that somebody still holds must not keep its scope from ending.
async fn until_stopping(tasks: TaskScope, work: impl Future<Output = ()>, waiting: Waiting) {
    tokio::select! { biased;
        () = tasks.stopping() => {
            waiting.lock().take();
        }
        () = work => {}
    }
}

/// Numbers and writes requests until the client is dropped or the connection fails.
async fn send_all(mut output: WriteHalf, mut queue: mpsc::Receiver<Call>, waiting: Waiting) {
    let mut correlation_id = 0i32;
    while let Some(Call { mut frame, flexible, answer }) = queue.recv().await {
        let length = i32::try_from(frame.len().saturating_sub(4)).unwrap_or(i32::MAX);
        // The length, then after key and version the correlation id.
        for (at, number) in [(0, length), (8, correlation_id)] {
            if let Some(place) = frame.get_mut(at..at + 4) {
                place.copy_from_slice(&number.to_be_bytes());
            }
        }
        match waiting.lock().as_mut() {
            Some(waiting) => waiting.push_back((correlation_id, flexible, answer)),
            None => break,
        }
        correlation_id = correlation_id.wrapping_add(1);
        while frame.has_remaining() {
            match output.write_buf(&mut frame).await {
                Ok(count) if count > 0 => {}
                _ => {
                    waiting.lock().take();
                    return;
                }
            }
        }
    }
}

/// Hands answers out until the client is dropped or the connection fails; then nobody waits any more.
async fn receive_all(input: ReadHalf, mut dropped: watch::Receiver<()>, waiting: Waiting) {
    let mut frames = FrameReader::new(input, RESPONSE_BYTES_MAX, None);
    loop {
        let frame = tokio::select! { biased;
            _ = dropped.changed() => break,
            frame = frames.next() => frame,
        };
        let Ok(Some(frame)) = frame else { break };
        let next = waiting.lock().as_mut().and_then(VecDeque::pop_front);
        let Some((correlation_id, flexible, answer)) = next else { break };
        match header::read_response(frame.bytes.freeze(), flexible) {
            Ok((read, extras, body)) if read == correlation_id => {
                // Whoever asked may have stopped waiting.
                let _ = answer.send((extras, body));
            }
            _ => break,
        }
    }
    waiting.lock().take();
}

#[cfg(test)]
#[path = "client_test.rs"]
mod tests;
