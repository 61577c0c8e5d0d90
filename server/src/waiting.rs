//! Says in the log what a node waits for, so that nobody has to ask /readyz to learn who is missing.

use std::{sync::Arc, time::Duration};

use quorate_core::runtime::{Clock, TaskScope};
use tracing::{info, warn};

use crate::{
    http::Pages,
    readiness::{Readiness, State},
};

/// How often the node is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// What lasts shorter than this is an ordinary start or election, and not worth a line.
const WORTH_A_LINE: u32 = 4;

/// Tells until `scope` stops.
pub(crate) fn tell(pages: Arc<dyn Pages>, scope: &TaskScope) {
    let tasks = scope.clone();
    scope.spawn(async move {
        let mut teller = Teller::default();
        let clock = Clock::system();
        loop {
            tokio::select! { biased;
                () = tasks.stopping() => return,
                () = clock.sleep(LOOK) => {}
            }
            match teller.look(&pages.readiness()) {
                Some(Line::Ready) => info!("ready"),
                Some(Line::Waits(reason)) => warn!("not ready: {reason}"),
                None => {}
            }
        }
    });
}

/// What to write.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Ready,
    Waits(String),
}

/// Each thing once: a reason when it has lasted, being ready when it comes.
#[derive(Debug, Default)]
struct Teller {
    told: Option<String>,
    ready: bool,
    lasts: u32,
}

impl Teller {
    fn look(&mut self, now: &Readiness) -> Option<Line> {
        if now.ready {
            self.lasts = 0;
            self.told = None;
            return (!std::mem::replace(&mut self.ready, true)).then_some(Line::Ready);
        }
        // What ends the process is told where it ends.
        let reason = now.reason.clone().filter(|_| !matches!(now.state, State::Stopping | State::Fatal))?;
        self.lasts = self.lasts.saturating_add(1);
        if self.lasts < WORTH_A_LINE || self.told.as_ref() == Some(&reason) {
            return None;
        }
        self.ready = false;
        self.told = Some(reason.clone());
        Some(Line::Waits(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::{Progress, readiness};
    use quorate_core::ids::NodeId;

    fn answer(ready: bool, reason: &str) -> Readiness {
        let mut answer = readiness(NodeId(1), &Progress::default());
        (answer.ready, answer.reason) = (ready, Some(reason.to_owned()));
        answer
    }

    #[test]
    fn a_reason_that_lasts_is_told_once_and_another_anew() {
        let mut teller = Teller::default();
        let mut lines = |reason, times| {
            (0..times).filter_map(|_| teller.look(&answer(false, reason))).collect::<Vec<_>>()
        };
        assert_eq!(lines("node 3", 3), []);
        assert_eq!(lines("node 3", 9), [Line::Waits("node 3".to_owned())]);
        assert_eq!(lines("node 2", 2), [Line::Waits("node 2".to_owned())]);
    }

    #[test]
    fn being_ready_is_told_when_it_comes_and_short_waits_are_not() {
        let mut teller = Teller::default();
        assert_eq!(teller.look(&answer(true, "")), Some(Line::Ready));
        assert_eq!(teller.look(&answer(false, "an election")), None);
        assert_eq!(teller.look(&answer(true, "")), None);
        for _ in 0..WORTH_A_LINE {
            teller.look(&answer(false, "an election"));
        }
        assert_eq!(teller.look(&answer(true, "")), Some(Line::Ready));
    }
}
