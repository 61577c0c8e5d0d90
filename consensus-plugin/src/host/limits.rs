//! How long a library may take.

use std::time::Duration;

/// The time within which a library must answer. A backend bounds its own calls; these are for one that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `start`, which may read a long log. Afterwards the node does not start.
    pub start: Duration,
    /// A proposal. Afterwards its outcome is unknown.
    pub propose: Duration,
    /// A read barrier, a change of voters, a chunk of a snapshot. Afterwards the answer is that no quorum answered.
    pub call: Duration,
    /// `resign` and `shutdown`. Afterwards the node goes on without the answer.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(300),
            propose: Duration::from_secs(30),
            call: Duration::from_secs(60),
            stop: Duration::from_secs(30),
        }
    }
}
