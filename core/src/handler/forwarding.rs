//! Requests that change metadata: sent on to the controller, and answered when this broker's own image shows what was
//! done, so that a client reads here what it wrote here.

use std::time::Duration;

use super::{Handlers, request::Caller};
use crate::{broker, runtime::Moment};

/// The longest that a client may have a request wait; more would keep its connection busy for nothing.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(300);

impl Handlers {
    /// When a request must be answered whose client waits for `timeout_ms`.
    pub(super) fn deadline(&self, timeout_ms: i32) -> Moment {
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).min(WAIT_MAX);
        self.broker.runtime.clock.now().plus(timeout)
    }
}

/// Whom the controller is told. Nobody has a name until there is authentication.
pub(super) fn told(caller: &Caller) -> broker::Caller {
    broker::Caller { principal: "User:ANONYMOUS".to_owned(), address: caller.peer.ip() }
}
