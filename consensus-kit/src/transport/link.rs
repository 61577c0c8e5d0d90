//! The way to one peer: a bounded queue, and a task that connects and sends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::{
    ids::NodeId,
    runtime::{Connection, TaskScope},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

use super::{
    Event, Inner, Purpose,
    dial::{Call, dial},
    frame::put_frame,
};
use crate::membership::Member;

/// Messages that wait for one peer. A healthy one takes them at once; behind more it is better to begin anew.
const QUEUE: usize = 4096;
/// Bytes that wait for one peer.
const QUEUE_BYTES: usize = 32 << 20;
/// Messages are put together up to this size before they are written.
const WRITE_BYTES: usize = 256 << 10;
/// The first and the last pause between two tries to connect. The last one bounds how late a peer that came back is
/// found again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));

/// The way to one peer. Dropping it ends it.
pub(super) struct Link {
    member: Member,
    queue: mpsc::Sender<Bytes>,
    state: Arc<State>,
    scope: TaskScope,
}

struct State {
    queued_bytes: AtomicUsize,
    problem: Mutex<Option<String>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.scope.kill();
    }
}

impl Link {
    pub(super) fn start(inner: &Arc<Inner>, node: NodeId, member: &Member) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE);
        let problem = Mutex::new(Some("not connected yet".to_owned()));
        let state = Arc::new(State { queued_bytes: AtomicUsize::new(0), problem });
        let scope = inner.runtime.tasks.child();
        let task = Task { inner: inner.clone(), node, member: member.clone(), queued, state: state.clone() };
        // The transport's own scope waits for it; its child ends it alone.
        scope.spawn(task.run());
        Self { member: member.clone(), queue, state, scope }
    }

    /// Whether this is the way to that member, rather than to another one with its id.
    pub(super) fn leads_to(&self, member: &Member) -> bool {
        self.member == *member
    }

    pub(super) fn send(&self, body: Bytes) -> bool {
        let length = body.len();
        if self.state.queued_bytes.load(Ordering::Relaxed).saturating_add(length) > QUEUE_BYTES {
            return false;
        }
        let sent = self.queue.try_send(body).is_ok();
        if sent {
            self.state.queued_bytes.fetch_add(length, Ordering::Relaxed);
        }
        sent
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.state.problem.lock().clone()
    }
}

struct Task {
    inner: Arc<Inner>,
    node: NodeId,
    member: Member,
    queued: mpsc::Receiver<Bytes>,
    state: Arc<State>,
}

impl Task {
    async fn run(mut self) {
        let mut pause = PAUSES.0;
        loop {
            let endpoint = self.inner.endpoint(self.node, &self.member);
            let directory = Some(self.member.directory);
            let call = Call { to: self.node, directory, endpoint: &endpoint, purpose: Purpose::Messages };
            let problem = match dial(&self.inner, call).await {
                Ok((connection, _)) => {
                    pause = PAUSES.0;
                    *self.state.problem.lock() = None;
                    self.serve(connection).await
                }
                Err(problem) => problem,
            };
            tracing::debug!(node = self.node.0, problem, "not connected");
            *self.state.problem.lock() = Some(problem);
            if self.drain() && self.inner.events.send(Event::Unreachable(self.node)).await.is_err() {
                return;
            }
            self.inner.runtime.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Sends what is queued until that fails; says why it did.
    async fn serve(&mut self, connection: Connection) -> String {
        let (mut read, mut write) = tokio::io::split(connection);
        let mut byte = [0; 1];
        let mut out = Vec::new();
        loop {
            let body = tokio::select! { biased;
                body = self.queued.recv() => body,
                // Nothing is ever sent this way: whatever happens here is the end.
                _ = read.read(&mut byte) => return "the connection was closed".to_owned(),
            };
            let Some(body) = body else { return "stopped".to_owned() };
            out.clear();
            self.take(&mut out, &body);
            while out.len() < WRITE_BYTES {
                let Ok(body) = self.queued.try_recv() else { break };
                self.take(&mut out, &body);
            }
            if let Err(problem) = self.inner.in_time("sending", write.write_all(&out)).await {
                return problem;
            }
        }
    }

    fn take(&self, out: &mut Vec<u8>, body: &Bytes) {
        self.state.queued_bytes.fetch_sub(body.len(), Ordering::Relaxed);
        put_frame(out, body);
    }

    /// Lets go of what has waited: it is old. Whether there was anything.
    fn drain(&mut self) -> bool {
        let mut any = false;
        while let Ok(body) = self.queued.try_recv() {
            self.state.queued_bytes.fetch_sub(body.len(), Ordering::Relaxed);
            any = true;
        }
        any
    }
}
