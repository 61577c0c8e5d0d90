//! One connection: reads requests ahead, begins them in order, answers them in order.
//!
//! ```text
//!  socket ──► received ──► begun ──► answered
//!             (frames,      (some wait,
//!              bounded)      bounded)
//! ```
//! A Produce may begin while earlier ones wait for replicas, and a request to the controller while others of its kind
//! wait; every other request begins when all before it are done, so that a client sees what those did. When the peer goes, a waiting Fetch is given up.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;

use super::{
    Handlers, controller,
    request::{Begun, Caller, Closed, Reply},
};
use crate::{
    broker::config::ListenerConfig,
    protocol::{
        apis::ApiKey,
        frame::{Frame, FrameError, FrameReader},
        header,
        outgoing::{Outgoing, write_frames},
    },
    runtime::{Clock, Connection, ReadHalf, TaskScope, WriteHalf},
};

/// Requests that are read ahead of the one that is served; the rest stays in the sender's socket.
const RECEIVED_MAX: usize = 16;
/// Produce requests of one connection that wait for replicas at once. Clients have five under way.
const BEGUN_MAX: usize = 16;
/// Answers that are put together before they are written, in bytes.
const WRITE_BYTES: usize = 256 << 10;
/// How often a connection looks at what it waits for; deadlines are kept to this.
const TICK: Duration = Duration::from_secs(10);
/// A request whose bytes do not come within this many ticks is given up.
const FRAME_TICKS: u32 = 6;
/// A peer that does not take its answers for this long is gone.
const WRITE_MAX: Duration = Duration::from_secs(600);

/// Serves a connection until the peer goes, breaks the protocol, or `tasks` stop.
pub async fn serve(
    handlers: Arc<Handlers>,
    tasks: TaskScope,
    connection: Connection,
    peer: SocketAddr,
    listener: &ListenerConfig,
) {
    let caller = Arc::new(Caller::new(listener, peer));
    let (read, output) = connection.into_split();
    let limits = handlers.limits;
    let input = FrameReader::new(read, limits.request_bytes, Some(handlers.memory.clone()));
    let clock = handlers.broker.runtime.clock.clone();
    let mut served = Served {
        handlers,
        caller,
        input,
        output,
        clock,
        received: VecDeque::new(),
        begun: VecDeque::new(),
        open: true,
    };
    let idle_ticks = u32::try_from(limits.idle.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX);
    let ended = tokio::select! { biased;
        () = tasks.stopping() => Ok(()),
        ended = served.run(idle_ticks.max(1)) => ended,
    };
    controller::ended(&served.handlers, &served.caller);
    if let Err(Closed(reason)) = ended {
        tracing::debug!(%peer, listener = %listener.name, "connection closed: {reason}");
    }
}

async fn pause(clock: Clock) {
    clock.sleep(TICK).await;
}

/// Resolves when one of the answers that wait has come.
fn answered(begun: &mut VecDeque<Begun>, context: &mut Context<'_>) -> Poll<()> {
    let mut any = Poll::Pending;
    for one in begun {
        if let Begun::Waiting { reply, .. } = one
            && let Poll::Ready(reply) = reply.as_mut().poll(context)
        {
            *one = Begun::Ready(reply);
            any = Poll::Ready(());
        }
    }
    any
}

struct Served {
    handlers: Arc<Handlers>,
    caller: Arc<Caller>,
    input: FrameReader<ReadHalf>,
    output: WriteHalf,
    clock: Clock,
    received: VecDeque<Frame>,
    begun: VecDeque<Begun>,
    /// Whether more requests may come.
    open: bool,
}

/// What happened first.
enum Event {
    Answered,
    Received(Result<Option<Frame>, FrameError>),
    Tick,
}

impl Served {
    async fn run(&mut self, idle_ticks: u32) -> Result<(), Closed> {
        let (mut idle, mut partial) = (0, 0);
        let mut tick = Box::pin(pause(self.clock.clone()));
        loop {
            self.work().await?;
            if !self.open && self.begun.is_empty() && self.received.is_empty() {
                return Ok(());
            }
            match self.next_event(tick.as_mut()).await {
                Event::Answered => idle = 0,
                Event::Received(frame) => {
                    self.take(frame)?;
                    (idle, partial) = (0, 0);
                }
                Event::Tick => {
                    tick.set(pause(self.clock.clone()));
                    idle = if self.begun.is_empty() { idle + 1 } else { 0 };
                    partial = if self.input.is_inside_frame() { partial + 1 } else { 0 };
                    if partial > FRAME_TICKS {
                        return Err(Closed("a request did not come to its end".to_owned()));
                    }
                    if idle > idle_ticks {
                        return Err(Closed("idle".to_owned()));
                    }
                }
            }
        }
    }

    async fn next_event(&mut self, tick: impl Future<Output = ()>) -> Event {
        let room = self.open && self.received.len() < RECEIVED_MAX;
        let begun = &mut self.begun;
        tokio::select! { biased;
            () = poll_fn(|context| answered(begun, context)) => Event::Answered,
            frame = self.input.next(), if room => Event::Received(frame),
            () = tick => Event::Tick,
        }
    }

    /// Begins and answers whatever can be, until something must be waited for.
    async fn work(&mut self) -> Result<(), Closed> {
        loop {
            // Requests that are here already are begun before answers are written, so that one write takes several.
            while self.may_begin() && self.ready_bytes() < WRITE_BYTES {
                if let Some(frame) = self.received.pop_front() {
                    self.begun.push_back(self.handlers.begin(&self.caller, frame));
                }
                self.take_buffered()?;
            }
            if !self.write_ready().await? {
                return Ok(());
            }
        }
    }

    fn take_buffered(&mut self) -> Result<(), Closed> {
        while self.open && self.received.len() < RECEIVED_MAX && self.input.has_frame() {
            match self.input.next().now_or_never() {
                Some(frame) => self.take(frame)?,
                None => break,
            }
        }
        Ok(())
    }

    fn take(&mut self, frame: Result<Option<Frame>, FrameError>) -> Result<(), Closed> {
        match frame {
            Ok(Some(frame)) => {
                self.hurry(&frame);
                self.received.push_back(frame);
                Ok(())
            }
            Err(error @ FrameError::Length { .. }) => Err(Closed(error.to_string())),
            // The peer has gone. What was received whole is still carried out, since a producer with acks=0 sends and
            // goes; what waits for records is given up.
            Ok(None) | Err(FrameError::Io(_) | FrameError::Truncated) => {
                self.open = false;
                self.begun.retain(|begun| !matches!(begun, Begun::Waiting { hurry: Some(_), .. }));
                Ok(())
            }
        }
    }

    /// A newer Fetch of a replica ends the one that waits.
    fn hurry(&mut self, frame: &Frame) {
        let is_fetch = header::peek(&frame.bytes).is_ok_and(|peek| peek.key == ApiKey::FETCH);
        if !is_fetch || self.caller.hello.get().is_none() {
            return;
        }
        if let Some(Begun::Waiting { hurry, .. }) = self.begun.back_mut()
            && let Some(hurry) = hurry.take()
        {
            // It may have been answered just now.
            let _ = hurry.send(());
        }
    }

    fn may_begin(&self) -> bool {
        let Some(next) = self.received.front() else { return false };
        let Ok(peek) = header::peek(&next.bytes) else { return self.begun.is_empty() };
        let permits = |begun: &Begun| match begun {
            Begun::Ready(_) => true,
            Begun::Waiting { overlap, .. } => overlap.permits(peek.key),
        };
        self.begun.len() < BEGUN_MAX && self.begun.iter().all(permits)
    }

    fn ready_bytes(&self) -> usize {
        let bytes = |begun: &Begun| match begun {
            Begun::Ready(Reply::Frame(frame)) => frame.len(),
            _ => 0,
        };
        self.begun.iter().map(bytes).sum()
    }

    /// Writes the answers that are there, up to the first that is not. Whether there were any.
    async fn write_ready(&mut self) -> Result<bool, Closed> {
        let mut frames: Vec<Outgoing> = Vec::new();
        let mut closed = Ok(());
        let mut any = false;
        while let Some(Begun::Ready(_)) = self.begun.front() {
            any = true;
            match self.begun.pop_front() {
                Some(Begun::Ready(Reply::Frame(frame))) => frames.push(frame),
                Some(Begun::Ready(Reply::Close(reason))) => {
                    closed = Err(reason);
                    break;
                }
                _ => {}
            }
        }
        if !frames.is_empty() {
            let written = self.clock.timeout(WRITE_MAX, write_frames(frames, &mut self.output)).await;
            let written = written.map_err(|_| Closed("the peer takes no answers".to_owned()))?;
            written.map_err(|error| Closed(error.to_string()))?;
        }
        closed?;
        Ok(any)
    }
}

#[cfg(test)]
#[path = "connection_test.rs"]
mod tests;
