//! Tasks that belong to somebody: every task has a scope that can stop it and wait for it.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A group of tasks that end together.
///
/// [`TaskScope::stop`] asks them to end and waits; [`TaskScope::kill`] drops them where they stand, as a crash would.
#[derive(Clone, Debug)]
pub struct TaskScope {
    stopping: CancellationToken,
    killed: CancellationToken,
    tracker: TaskTracker,
    runtime: Handle,
    threads: bool,
}

impl TaskScope {
    /// A scope on the current tokio runtime whose [`TaskScope::spawn_thread`] makes real threads.
    #[must_use]
    pub fn threaded() -> Self {
        Self::new(true)
    }

    /// A scope that runs everything on the current tokio runtime, for simulation in one thread.
    #[must_use]
    pub fn single_threaded() -> Self {
        Self::new(false)
    }

    fn new(threads: bool) -> Self {
        Self {
            stopping: CancellationToken::new(),
            killed: CancellationToken::new(),
            tracker: TaskTracker::new(),
            runtime: Handle::current(),
            threads,
        }
    }

    /// A scope that ends with this one and can be ended before it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            stopping: self.stopping.child_token(),
            killed: self.killed.child_token(),
            tracker: TaskTracker::new(),
            runtime: self.runtime.clone(),
            threads: self.threads,
        }
    }

    /// This scope, spawning on another runtime.
    #[must_use]
    pub fn on(&self, runtime: Handle) -> Self {
        Self { runtime, ..self.clone() }
    }

    /// This scope, spawning on the current tokio runtime: for what a [`TaskScope::spawn_thread`] spawns in turn.
    #[must_use]
    pub fn here(&self) -> Self {
        self.on(Handle::current())
    }

    /// Runs `task` until it returns or the scope is killed. A task that must end with the scope waits for
    /// [`TaskScope::stopping`] itself, so that it can finish what it began.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let killed = self.killed.clone();
        self.tracker.spawn_on(
            async move {
                tokio::select! { biased;
                    () = killed.cancelled() => {}
                    () = task => {}
                }
            },
            &self.runtime,
        );
    }

    /// Runs `task` on a thread of its own, so that it may block in its polls and no other task delays it. In a
    /// single-threaded scope it is an ordinary task.
    ///
    /// # Panics
    /// If the system has no thread to give.
    pub fn spawn_thread<F>(&self, name: &str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if !self.threads {
            return self.spawn(task);
        }
        let killed = self.killed.clone();
        let token = self.tracker.token();
        let body = move || {
            let _token = token;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime for a thread: {error}"));
            runtime.block_on(async {
                tokio::select! { biased;
                    () = killed.cancelled() => {}
                    () = task => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        thread.unwrap_or_else(|error| panic!("cannot start the thread '{name}': {error}"));
    }

    /// Resolves when the scope is asked to stop.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether the scope has been asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Asks every task to stop and waits until the last has returned. Idempotent.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Drops every task at its next poll, as a crash of the process would. Does not wait.
    pub fn kill(&self) {
        self.killed.cancel();
        self.stopping.cancel();
        self.tracker.close();
    }
}
