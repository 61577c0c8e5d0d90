//! Time: a monotonic clock for every decision, a wall clock for record timestamps only.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use thiserror::Error;
use tokio::time::Instant;

/// A point on a node's monotonic clock, in nanoseconds since an arbitrary origin. Not comparable between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the deadline passed")]
pub struct Elapsed;

/// A node's clocks. Runs on tokio's timer, so that a runtime with paused time is a simulated clock.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Option<Instant>,
    wall: Wall,
}

#[derive(Clone, Debug)]
enum Wall {
    System,
    /// Milliseconds since the epoch at the origin, for a simulated clock; a test may make it jump.
    Set(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self { origin: None, wall: Wall::System }
    }

    /// A clock for a runtime with paused time: monotonic from now, the wall clock at `wall_ms` now. The returned
    /// number moves the wall clock while it runs.
    #[must_use]
    pub fn simulated(wall_ms: i64) -> (Self, Arc<AtomicI64>) {
        let start = Arc::new(AtomicI64::new(wall_ms));
        (Self { origin: Some(Instant::now()), wall: Wall::Set(start.clone()) }, start)
    }

    /// Now, on the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        let nanos = match self.origin {
            Some(origin) => origin.elapsed().as_nanos(),
            None => process_start().elapsed().as_nanos(),
        };
        // One second is added so that no moment of a running process is the default one.
        Moment(u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(1_000_000_000))
    }

    /// Milliseconds since the Unix epoch. May jump either way; decides nothing but timestamps and retention.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the port")]
    pub fn wall_ms(&self) -> i64 {
        match &self.wall {
            Wall::System => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Wall::Set(start) => {
                let since = self.origin.map_or(0, |origin| origin.elapsed().as_millis());
                start.load(Ordering::Relaxed).saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
            }
        }
    }

    /// Waits for `duration`.
    #[expect(clippy::disallowed_methods, reason = "this is the port")]
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Waits until `moment`; returns at once if it has passed.
    pub async fn sleep_until(&self, moment: Moment) {
        self.sleep(moment.since(self.now())).await;
    }

    /// Waits for `future`, at most for `duration`.
    ///
    /// # Errors
    /// [`Elapsed`] if the time is up first; `future` is dropped then.
    #[expect(clippy::disallowed_methods, reason = "this is the port")]
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(duration, future).await.map_err(|_| Elapsed)
    }
}

/// The origin of the machine's clock, the same for every [`Clock::system`] of the process.
#[expect(clippy::disallowed_methods, reason = "this is the port")]
fn process_start() -> std::time::Instant {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    *START.get_or_init(std::time::Instant::now)
}
