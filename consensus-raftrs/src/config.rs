//! What the backend is given.

pub use quorate_consensus_kit::config::{MAX_ENTRY_BYTES, Timings, VoterConfig as RaftrsConfig};
use quorate_consensus_kit::{membership::Membership, shared};

/// Entries that are not committed yet, in bytes. More are refused as busy.
pub(crate) const UNCOMMITTED_BYTES: u64 = 16 << 20;

pub(crate) type Shared = shared::Shared<Membership>;
pub(crate) type Parts = shared::Parts<Membership>;
