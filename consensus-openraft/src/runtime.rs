//! openraft's tasks, in the backend's scope.
//!
//! openraft spawns by a function that belongs to a type and not to a value. Which scope it is to spawn in is therefore
//! known to the task that calls it: whoever is in a scope spawns in it, and what was spawned is in the same.

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use quorate_core::runtime::TaskScope;
use tokio::sync::oneshot;

tokio::task_local! {
    static SCOPE: TaskScope;
}

/// Runs `work` in a scope: what openraft spawns in it ends with the scope.
pub(crate) async fn within<T>(scope: &TaskScope, work: impl Future<Output = T>) -> T {
    SCOPE.scope(scope.clone(), work).await
}

/// Tokio, with tasks that belong to a [`TaskScope`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ScopedRuntime;

/// Why a task gave no result.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It panicked.
    Panicked,
    /// Its scope was killed.
    Killed,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panicked => "the task panicked",
            Self::Killed => "the task was ended",
        })
    }
}

/// The result of a task, once it has returned. Dropping it leaves the task alone.
pub(crate) struct JoinHandle<T>(oneshot::Receiver<Result<T, Box<dyn Any + Send>>>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Ended>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(context).map(|result| match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_panic)) => Err(Ended::Panicked),
            Err(_) => Err(Ended::Killed),
        })
    }
}

impl AsyncRuntime for ScopedRuntime {
    type JoinError = Ended;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = tokio::time::Instant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (done, result) = oneshot::channel();
        let scope = SCOPE.try_with(TaskScope::clone);
        let scope =
            scope.unwrap_or_else(|_| panic!("openraft spawned a task outside of the backend's scope"));
        let inner = scope.clone();
        scope.spawn(async move {
            let result = within(&inner, AssertUnwindSafe(future).catch_unwind()).await;
            // Whoever spawned it may not want to know.
            let _gone = done.send(result);
        });
        JoinHandle(result)
    }

    #[expect(clippy::disallowed_methods, reason = "as runtime::Clock, which runs on tokio's timer")]
    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline)
    }

    #[expect(clippy::disallowed_methods, reason = "as runtime::Clock, which runs on tokio's timer")]
    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        matches!(error, Ended::Panicked)
    }

    /// Only for the election timeout that openraft draws and this crate does not use.
    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn oneshot<T>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>)
    where
        T: OptionalSend,
    {
        TokioRuntime::oneshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_and_what_it_spawned_end_with_the_scope() {
        let scope = TaskScope::single_threaded();
        let (alive, mut ended) = tokio::sync::mpsc::channel::<()>(1);
        within(&scope, async {
            let _outer = ScopedRuntime::spawn(async {
                let inner = ScopedRuntime::spawn(async move {
                    let _alive = alive;
                    std::future::pending::<()>().await;
                });
                inner.await
            });
        })
        .await;
        tokio::task::yield_now().await;
        assert!(ended.try_recv() == Err(tokio::sync::mpsc::error::TryRecvError::Empty));
        scope.kill();
        assert_eq!(ended.recv().await, None, "everything was dropped");
    }

    #[tokio::test]
    async fn a_panic_is_told_from_an_end() {
        let scope = TaskScope::single_threaded();
        let (panicked, ended) = within(&scope, async {
            (
                ScopedRuntime::spawn(async { panic!("as it is meant to") }),
                ScopedRuntime::spawn(std::future::pending::<()>()),
            )
        })
        .await;
        let panicked: Result<(), _> = panicked.await;
        assert!(ScopedRuntime::is_panic(&panicked.unwrap_err()));
        scope.kill();
        assert!(!ScopedRuntime::is_panic(&ended.await.unwrap_err()));
    }
}
