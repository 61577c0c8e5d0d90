//! What the backend is given.

pub use quorate_consensus_kit::config::{MAX_ENTRY_BYTES, Timings, VoterConfig as OpenraftConfig};
use quorate_consensus_kit::shared;

use crate::types::{Members, Types};

/// The least room in the queue that a proposal takes, in bytes: as many fit as may wait.
pub(crate) const LEAST_ROOM: usize =
    quorate_consensus_kit::config::QUEUED_BYTES / quorate_consensus_kit::config::QUEUED_PROPOSALS;
/// Calls of peers that may be under way. More are not heard; their callers call again.
pub(crate) const CALLS_UNDER_WAY: usize = 128;
/// Entries that are sent to a peer at once, in number.
const MESSAGE_ENTRIES: u64 = 256;

pub(crate) type Shared = shared::Shared<Members>;
pub(crate) type Parts = shared::Parts<Members>;
pub(crate) type Raft = openraft::Raft<Types>;

/// openraft's own configuration.
///
/// Its clocks are made slow: this crate tells it when to say that it leads and when to ask for votes (see `election`).
/// What remains of them is how long an answer may take, and for how long a voter that has heard its leader refuses to
/// vote for another one.
pub(crate) fn engine_config(timings: &Timings, tail: u64) -> Result<openraft::Config, String> {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let lease = millis(timings.election_min).max(4);
    let config = openraft::Config {
        cluster_name: "quorate".to_owned(),
        // How long a follower may take to answer.
        heartbeat_interval: (lease / 2).max(1),
        // How long a voter may take to answer.
        election_timeout_min: lease - 1,
        // How long a voter that has heard its leader refuses others.
        election_timeout_max: lease,
        // A snapshot is sent as a whole; whether it goes on is watched by the transport.
        install_snapshot_timeout: 600_000,
        max_payload_entries: MESSAGE_ENTRIES,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: tail,
        purge_batch_size: 1,
        enable_heartbeat: false,
        enable_elect: false,
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}
