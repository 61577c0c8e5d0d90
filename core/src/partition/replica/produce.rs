//! Appending as a leader, and waiting until others have what was appended.

use std::sync::Arc;

use thiserror::Error;

use crate::{
    ids::{LeaderEpoch, Offset},
    log::{
        AppendError, Appended,
        producers::{SequenceError, Verdict},
    },
    planted::{Bug, planted},
    protocol::{
        batch::{BatchHeader, HEADER_BYTES, patch_position},
        errors::ErrorCode,
        validate::{InvalidBatch, Produced, validate_produced},
    },
};

use super::{Progress, Replica, Role, State};

/// How many must have a batch before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Nobody.
    None,
    /// The leader; in a `synced` topic on its disk.
    Leader,
    /// Every member of the ISR; in a `synced` topic on their disks.
    All,
}

/// A batch that is in the leader's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The offset after its last record.
    pub end: Offset,
    /// The leader's time stamp in ms, where the topic has the leader's.
    pub append_time_ms: Option<i64>,
    /// The first offset of the log.
    pub log_start: Offset,
    /// The leadership that holds it.
    pub leader_epoch: LeaderEpoch,
    /// Whether it was there before: a producer sent it again (KIP-98).
    pub is_duplicate: bool,
}

/// Why a batch is not appended.
#[derive(Debug, Error)]
pub enum ProduceError {
    /// Another node leads, or nobody.
    #[error("this node does not lead the partition")]
    NotLeader,
    /// Too few replicas are in sync for acks=all.
    #[error("fewer replicas are in sync than min.insync.replicas asks for")]
    NotEnoughReplicas,
    /// The batch is not valid, or not what the topic takes.
    #[error(transparent)]
    Invalid(#[from] InvalidBatch),
    /// It is not the producer's next batch.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// It is larger than a segment.
    #[error("the batch has more than the {0} bytes of a segment; see the topic's segment.bytes")]
    LargerThanSegment(u32),
    /// The partition has no offsets left.
    #[error("the partition has no offsets left")]
    OffsetsUsedUp,
    /// The log directory has too little space left.
    #[error("the log directory has too little space left for records; see quorate.log.reserve.bytes")]
    DiskFull,
    /// The disk failed or is full, or the log is out of service.
    #[error(transparent)]
    Storage(#[from] AppendError),
}

impl ProduceError {
    /// Kafka's code for it.
    #[must_use]
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::NotLeader => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            Self::NotEnoughReplicas => ErrorCode::NOT_ENOUGH_REPLICAS,
            Self::Invalid(invalid) => invalid.error_code(),
            Self::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            Self::Sequence(SequenceError::OldEpoch { .. }) => ErrorCode::INVALID_PRODUCER_EPOCH,
            Self::Sequence(SequenceError::OutsideTransaction(_)) => ErrorCode::INVALID_TXN_STATE,
            Self::LargerThanSegment(_) => ErrorCode::RECORD_LIST_TOO_LARGE,
            Self::OffsetsUsedUp => ErrorCode::INVALID_RECORD,
            Self::DiskFull | Self::Storage(_) => ErrorCode::KAFKA_STORAGE_ERROR,
        }
    }
}

/// Why a batch that was appended is not acknowledged. It may still be, as far as the client can tell.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AckError {
    /// The leadership ended first.
    #[error("the leadership ended before the batch was replicated")]
    NotLeader,
    /// The ISR fell below its minimum meanwhile.
    #[error("the batch was appended, and then fewer replicas were in sync than min.insync.replicas asks for")]
    NotEnoughReplicas,
}

impl AckError {
    /// Kafka's code for it.
    #[must_use]
    pub fn error_code(self) -> ErrorCode {
        match self {
            Self::NotLeader => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            Self::NotEnoughReplicas => ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        }
    }
}

impl Replica {
    /// Appends what a client has produced: exactly one batch. Returns once it is in the leader's log;
    /// [`Replica::acknowledged`] waits for the rest.
    ///
    /// # Errors
    /// [`ProduceError`]: nothing was appended.
    pub fn append_as_leader(self: &Arc<Self>, records: &[u8], acks: Acks) -> Result<Written, ProduceError> {
        // Before the work of validation; what counts is said under the lock.
        if !self.progress.borrow().leads {
            return Err(ProduceError::NotLeader);
        }
        let settings = self.settings.load();
        let produced = validate_produced(records, &settings.rules(self.clock.wall_ms()))?;
        if produced.bytes.len() > settings.log.segment_bytes as usize {
            return Err(ProduceError::LargerThanSegment(settings.log.segment_bytes));
        }
        let now = self.clock.now();
        let mut guard = self.state.lock();
        let end_before = guard.log.end_offset();
        let written = guard.append(&produced, acks)?;
        if written.is_duplicate {
            return Ok(written);
        }
        if let Role::Leader(leader) = &mut guard.role {
            leader.appended(end_before, now);
        }
        self.settle(guard, now);
        Ok(written)
    }

    /// Waits until a batch has as many holders as `acks` asks for. The caller sets the deadline; dropping the future
    /// changes nothing.
    ///
    /// # Errors
    /// [`AckError`]: whether the batch stays is not known.
    pub async fn acknowledged(&self, written: &Written, acks: Acks) -> Result<(), AckError> {
        let epoch = written.leader_epoch;
        let leads = |progress: &Progress| progress.leads && progress.leader_epoch == epoch;
        let is_synced = self.settings.load().is_synced();
        let has_arrived = |progress: &Progress| match acks {
            Acks::None => true,
            Acks::Leader => !is_synced || progress.synced_end >= written.end,
            Acks::All => progress.high_watermark >= written.end || planted(Bug::AcksAtOnce),
        };
        let mut watch = self.watch();
        // The sender lives in `self`.
        let progress = watch.wait_for(|progress| !leads(progress) || has_arrived(progress)).await;
        if !progress.is_ok_and(|progress| leads(&progress)) {
            return Err(AckError::NotLeader);
        }
        if acks == Acks::All && !self.has_min_isr() {
            return Err(AckError::NotEnoughReplicas);
        }
        Ok(())
    }

    fn has_min_isr(&self) -> bool {
        matches!(&self.state.lock().role, Role::Leader(leader) if leader.has_min_isr())
    }
}

impl State {
    fn append(&mut self, produced: &Produced<'_>, acks: Acks) -> Result<Written, ProduceError> {
        let leader_epoch = match &self.role {
            Role::Leader(leader) if leader.in_sync().is_recovering() => return Err(ProduceError::NotLeader),
            Role::Leader(leader) if acks == Acks::All && !leader.can_acknowledge() => {
                return Err(ProduceError::NotEnoughReplicas);
            }
            Role::Leader(leader) => leader.epoch(),
            _ => return Err(ProduceError::NotLeader),
        };
        let is_log_append_time = produced.header.attributes.is_log_append_time();
        let mut written = Written {
            base_offset: self.log.end_offset(),
            end: self.log.end_offset(),
            append_time_ms: is_log_append_time.then_some(produced.header.max_timestamp),
            log_start: self.log.start_offset(),
            leader_epoch,
            is_duplicate: false,
        };
        if self.log.health().is_full() {
            return Err(ProduceError::DiskFull);
        }
        if let Verdict::Duplicate(before) = self.producers.check(&produced.header)? {
            return Ok(Written {
                base_offset: before.base_offset(),
                end: before.last_offset.plus(1),
                append_time_ms: is_log_append_time.then_some(before.timestamp),
                is_duplicate: true,
                ..written
            });
        }
        let (header, appended) = self.write(produced, leader_epoch)?;
        if let Some(base) = appended.rolled
            && let Err(error) = self.log.keep_producers(&self.producers, base)
        {
            tracing::warn!(
                "a snapshot of producers was not written, so that a restart takes longer: {error}"
            );
        }
        self.producers.apply_data(&header);
        written.end = appended.end;
        Ok(written)
    }

    /// Gives the batch its place and writes it: the producer's bytes, behind a head with offset and epoch.
    fn write(
        &mut self,
        produced: &Produced<'_>,
        leader_epoch: LeaderEpoch,
    ) -> Result<(BatchHeader, Appended), ProduceError> {
        let gap = i64::from(planted(Bug::LeavesGaps));
        let base_offset = self.log.end_offset().plus(gap);
        let count = i64::from(produced.header.last_offset_delta) + 1;
        if base_offset.0.checked_add(count).is_none() {
            return Err(ProduceError::OffsetsUsedUp);
        }
        let header = BatchHeader { base_offset, leader_epoch, ..produced.header };
        let Some((head, records)) = produced.bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(ProduceError::Invalid(InvalidBatch::NotOne));
        };
        let mut head = *head;
        patch_position(&mut head, base_offset, leader_epoch).map_err(InvalidBatch::from)?;
        let appended = self.log.append_pieces(header, &[&head, records])?;
        Ok((header, appended))
    }
}
