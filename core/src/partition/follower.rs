//! What a follower concludes from its leader's answers: where to cut its log, which batches to append, how far the
//! high watermark has come. Pure.

use thiserror::Error;

use crate::{
    ids::{LeaderEpoch, Offset},
    log::{EpochCache, EpochEnd},
    planted::{Bug, planted},
    protocol::batch::{BatchError, Batches},
};

/// Where a follower cuts its log after the leader said where their logs part (KIP-279).
///
/// `leader` is the leader's largest epoch that is not larger than the follower's last, and where it ends there. If the
/// follower knows that epoch too, the logs agree up to the smaller of its two ends. If not, they part before it: the
/// follower keeps what belongs to smaller epochs and asks again with its next Fetch.
#[must_use]
pub fn truncation_point(epochs: &EpochCache, log_end: Offset, leader: EpochEnd) -> Offset {
    match epochs.end_of(leader.epoch, log_end) {
        Some(own) if own.epoch == leader.epoch => own.end.min(leader.end).min(log_end),
        Some(own) => own.end.min(log_end),
        // This log has no epoch that old, or none at all: nothing tells them apart but the leader's end.
        None => leader.end.min(log_end),
    }
}

/// Batches from a leader that must not be appended.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReplicationError {
    /// Damaged, on the leader's disk or on the way.
    #[error("the leader sent a damaged batch: {0}")]
    Damaged(#[from] BatchError),
    /// Not what follows the log.
    #[error("the leader sent offset {sent} and the log ends at {log_end}")]
    Gap {
        /// The base offset of the batch.
        sent: Offset,
        /// Where it should begin, or before.
        log_end: Offset,
    },
    /// The epochs of a log never fall.
    #[error("the leader sent a batch of epoch {sent} after one of epoch {last}")]
    EpochFell {
        /// The epoch of the batch.
        sent: LeaderEpoch,
        /// The epoch before.
        last: LeaderEpoch,
    },
    /// The batch claims a leadership that has not begun.
    #[error("the leader of epoch {current} sent a batch of epoch {sent}")]
    EpochAhead {
        /// The epoch of the batch.
        sent: LeaderEpoch,
        /// The leader's.
        current: LeaderEpoch,
    },
}

/// Checks what a leader's Fetch answer holds for a log that ends at `log_end` in `last_epoch`, and returns the whole
/// batches in it; a batch that is cut at the end is no error, since answers are cut at a number of bytes.
///
/// Offsets must follow the log's end without a gap, epochs must not fall, and every checksum must fit: what is damaged
/// is neither kept nor passed on. Gaps between batches are a compacted log's.
///
/// # Errors
/// What must not be appended; then nothing of it may be.
pub fn check_replicated(
    records: &[u8],
    log_end: Offset,
    last_epoch: LeaderEpoch,
    current: LeaderEpoch,
) -> Result<&[u8], ReplicationError> {
    let (mut end, mut last) = (log_end, last_epoch);
    let mut whole = 0;
    for batch in Batches::of(records) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(BatchError::Incomplete { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        if !planted(Bug::SkipsChecksum) {
            batch.check_crc()?;
        }
        let header = batch.header();
        if header.base_offset < end {
            return Err(ReplicationError::Gap { sent: header.base_offset, log_end: end });
        }
        let sent = header.leader_epoch;
        if sent < last {
            return Err(ReplicationError::EpochFell { sent, last });
        }
        if sent > current {
            return Err(ReplicationError::EpochAhead { sent, current });
        }
        (end, last) = (header.next_offset(), sent);
        whole += header.size_bytes;
    }
    Ok(records.get(..whole).unwrap_or_default())
}

/// The high watermark of a follower: the leader's, as far as its own log reaches, and never less than before.
#[must_use]
pub fn high_watermark(current: Offset, leader: Offset, log_end: Offset) -> Offset {
    leader.min(log_end).max(current)
}

#[cfg(test)]
#[path = "follower_test.rs"]
mod tests;
