//! What an operator's signals mean.

use std::{io, time::Duration};

use quorate_core::runtime::{Clock, Moment};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Programs that pass a signal on often send it to the process and again to its group. Nobody means two by that.
const ECHO: Duration = Duration::from_millis(100);

/// What was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Stop: TERM, or INT as Ctrl-C sends it.
    Stop,
    /// The terminal has gone, or a daemon is to read its files again: HUP.
    Hangup,
}

/// The signals of this process. The defaults do not apply from the first of these on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    clock: Clock,
    told: Option<Moment>,
}

impl Signals {
    /// Begins to listen. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            clock: Clock::system(),
            told: None,
        })
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Told {
        loop {
            tokio::select! { biased;
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => return Told::Hangup,
            }
            let now = self.clock.now();
            let echo = self.told.is_some_and(|told| now.since(told) < ECHO);
            self.told = Some(now);
            if !echo {
                return Told::Stop;
            }
        }
    }

    /// The next request to stop, whatever else is said. Cancel safe.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
    }
}
