//! What is said to recovery, and what it reports.

use std::path::PathBuf;

use thiserror::Error;

use super::log::{Damage, DiskFailure};
use crate::ids::Offset;

/// Whether what the last process wrote was still in the page cache when this one started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// The same boot of the machine: everything that was written can be read.
    Kept,
    /// Another boot, or nobody knows: only what was synced is sure.
    Lost,
}

/// What is known of a log before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Durable up to here, as the checkpoint of the log directory says; `None` if it says nothing.
    pub recovery_point: Option<Offset>,
    /// Where the log begins, as the checkpoint says; `None` leaves it to the first segment. It must be at least as new as
    /// the recovery point: write that one later.
    pub log_start: Option<Offset>,
    /// What became of unsynced writes.
    pub page_cache: PageCache,
    /// A sync has failed since the machine started. The system then takes pages for written that are not, and no later
    /// sync would tell: what is not known to be durable is written once more.
    pub rewrite: bool,
}

impl Opening {
    /// A log of which nothing is known: everything in it is checked.
    #[must_use]
    pub fn unknown() -> Self {
        Self { recovery_point: None, log_start: None, page_cache: PageCache::Lost, rewrite: false }
    }
}

/// A tail that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub file: PathBuf,
    /// Where it ends now.
    pub position: u32,
    /// The end of the log.
    pub end: Offset,
    /// Bytes that were cut, later segments included.
    pub bytes: u64,
    /// Why.
    pub reason: String,
    /// Whether a whole batch lay behind: after a power cut writes may reach the disk in another order.
    pub batches_behind: bool,
}

/// What recovery did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes of batches past the recovery point that were read and checked.
    pub checked_bytes: u64,
    /// A tail that was cut.
    pub cut: Option<Cut>,
    /// A broken batch that is not a torn tail. The log is `Unusable::Damaged`.
    pub damage: Option<Damage>,
    /// Whether an index was built from the batches.
    pub indexes_rebuilt: bool,
    /// Whether the epochs were built from the batches.
    pub epochs_rebuilt: bool,
}

/// Why a log cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskFailure),
    /// A segment larger than positions in an index can say.
    #[error("{} has {bytes} bytes; a segment has at most 2147483647: move it away and let the replica be filled anew", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its length.
        bytes: u64,
    },
}
