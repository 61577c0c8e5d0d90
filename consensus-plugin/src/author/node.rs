//! One node of an author's library: its runtime, its backend, and the calls that it has not answered yet.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use quorate_core::consensus::{Consensus, Resume, Running, StartError};
use tokio::runtime::{Builder, Handle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Author, incoming::Incoming, link::Link, log::ToHost, outgoing::Outgoing, readers::Readers};
use crate::{PluginConfig, answer::Answer, raw::status};

/// How long `destroy` waits for the node's thread. A backend that blocks it longer has broken the port's contract.
const JOIN_MAX: Duration = Duration::from_secs(5);
/// How long the thread waits for blocking work, such as a sync, once everything else is gone.
const BLOCKING_MAX: Duration = Duration::from_secs(2);

/// A node. The host's tokio is another copy with other thread-locals, so the node has a runtime of its own, which one
/// thread of its own drives from `start` on.
pub(super) struct Node {
    link: Arc<Link>,
    runtime: OnceLock<Handle>,
    engine: Mutex<Engine>,
    running: Mutex<Option<Arc<dyn Running>>>,
    /// Cancelled when whatever is not answered yet is answered without the backend.
    stopping: CancellationToken,
    /// Cancelled when the thread is to end.
    ended: CancellationToken,
    unanswered: TaskTracker,
    pub(super) readers: Readers,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
}

/// The author's constructor.
type Construct = fn(PluginConfig) -> Result<Box<dyn Consensus>, StartError>;

enum Engine {
    /// Configured.
    Idle(PluginConfig, Construct),
    /// Driven by a thread, which lets go of the sender when it ends.
    Driven(mpsc::Receiver<()>),
    Ended,
}

impl Node {
    /// Makes a node from its configuration: no disk, no network, no thread, and no file left open. A runtime with
    /// clock and sockets has some, so that what refuses the configuration here is made anew for the start.
    pub(super) fn new<A: Author>(link: Link, config: &str) -> Result<Arc<Self>, StartError> {
        let config = PluginConfig::parse(config)?;
        let bare = Builder::new_current_thread().build().map_err(no_runtime)?;
        let refused = {
            let _entered = bare.enter();
            A::construct(config.clone()).map(let_go)
        };
        bare.shutdown_background();
        refused?;
        Ok(Arc::new(Self {
            link: Arc::new(link),
            runtime: OnceLock::new(),
            engine: Mutex::new(Engine::Idle(config, A::construct)),
            running: Mutex::new(None),
            stopping: CancellationToken::new(),
            ended: CancellationToken::new(),
            unanswered: TaskTracker::new(),
            readers: Readers::default(),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
        }))
    }

    pub(super) fn complete(&self, token: u64, answer: &Answer) {
        self.link.complete(token, answer);
    }

    pub(super) fn running(&self) -> Option<Arc<dyn Running>> {
        self.running.lock().clone()
    }

    /// Runs `work` on the node's thread and answers with what it returns, or with `without` if the node is shut down
    /// before it has.
    pub(super) fn answer(
        self: &Arc<Self>,
        token: u64,
        without: i32,
        work: impl Future<Output = Answer> + Send + 'static,
    ) {
        let node = self.clone();
        let task = async move {
            let answer = tokio::select! { biased;
                done = AssertUnwindSafe(work).catch_unwind() => {
                    done.unwrap_or_else(|_| Answer::of(status::PANIC))
                }
                () = node.stopping.cancelled() => Answer::of(without),
            };
            node.complete(token, &answer);
        };
        self.run(task);
    }

    /// Runs `work` on the node's thread until it returns or the node is shut down.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        let task = async move {
            tokio::select! { biased;
                () = work => {}
                () = stopping.cancelled() => {}
            }
        };
        self.run(task);
    }

    /// Nothing runs before the start.
    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = self.runtime.get() {
            self.unanswered.spawn_on(task, runtime);
        }
    }

    pub(super) fn start(self: &Arc<Self>, token: u64, resume: Resume) {
        let idle = match self.drive() {
            Ok(idle) => idle,
            Err(error) => return self.complete(token, &refused(&error)),
        };
        let node = self.clone();
        self.answer(token, status::STORAGE, async move {
            match idle.start(resume).await {
                Ok(running) => {
                    *node.running.lock() = Some(running);
                    Answer::of(status::OK)
                }
                Err(error) => refused(&error),
            }
        });
    }

    /// Starts the thread; the backend is given out to be started on it.
    fn drive(&self) -> Result<Box<dyn Consensus>, StartError> {
        let mut engine = self.engine.lock();
        let Engine::Idle(config, construct) = std::mem::replace(&mut *engine, Engine::Ended) else {
            return Err(StartError::Config("started a second time".to_owned()));
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
        let idle = {
            let _entered = runtime.enter();
            construct(config)
        };
        let idle = match idle {
            Ok(idle) => idle,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let handle = runtime.handle().clone();
        let (living, gone) = mpsc::channel();
        let (ended, dispatch) = (self.ended.clone(), tracing::Dispatch::new(ToHost(self.link.clone())));
        let body = move || {
            tracing::dispatcher::with_default(&dispatch, || runtime.block_on(ended.cancelled()));
            runtime.shutdown_timeout(BLOCKING_MAX);
            drop(living);
        };
        let thread = thread::Builder::new().name("consensus".to_owned()).spawn(body);
        thread.map_err(|error| StartError::Storage(format!("no thread to run on: {error}")))?;
        *engine = Engine::Driven(gone);
        let _ = self.runtime.set(handle);
        Ok(idle)
    }

    pub(super) fn shutdown(self: &Arc<Self>, token: u64) {
        let Some(runtime) = self.runtime.get() else {
            return self.complete(token, &Answer::of(status::OK));
        };
        let node = self.clone();
        drop(runtime.spawn(async move {
            let running = node.running();
            let shut = async {
                if let Some(running) = running {
                    running.shutdown().await;
                }
            };
            let shut = AssertUnwindSafe(shut).catch_unwind().await;
            node.stopping.cancel();
            node.unanswered.close();
            node.unanswered.wait().await;
            let status = if shut.is_ok() { status::OK } else { status::PANIC };
            node.complete(token, &Answer::of(status));
        }));
    }

    /// Ends everything, as a crash does where there was no shutdown before.
    pub(super) fn destroy(&self) {
        self.link.close();
        self.stopping.cancel();
        self.readers.clear();
        self.outgoing.clear();
        self.incoming.clear();
        let running = self.running.lock().take();
        let_go(running);
        let engine = std::mem::replace(&mut *self.engine.lock(), Engine::Ended);
        self.ended.cancel();
        if let Engine::Driven(gone) = engine {
            // Nothing is ever sent: the wait ends with the thread, or with the time.
            let _ = gone.recv_timeout(JOIN_MAX);
        }
    }
}

fn no_runtime(error: std::io::Error) -> StartError {
    StartError::Storage(format!("no tokio runtime: {error}"))
}

/// Drops something of the author's, which may panic.
fn let_go<T>(of: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(of)));
}

/// The answer that a refused start stands for.
pub(super) fn refused(error: &StartError) -> Answer {
    match error {
        StartError::Config(why) => Answer::because(status::CONFIG, why.as_str()),
        StartError::Storage(why) => Answer::because(status::STORAGE, why.as_str()),
        StartError::Foreign(why) => Answer::because(status::FOREIGN, why.as_str()),
    }
}
