//! Following: where to fetch from, taking in what the leader answers, cutting what it does not have.

use std::sync::Arc;

use thiserror::Error;

use crate::{
    ids::{LeaderEpoch, NodeId, Offset},
    log::{AppendError, EpochEnd, ReadError, TruncateError},
    partition::follower::{ReplicationError, check_replicated, high_watermark, truncation_point},
    planted::{Bug, planted},
    protocol::batch::{BatchHeader, Batches},
};

use super::{Replica, Role, State};

/// Where a follower stands, and what it asks for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Who leads; [`NodeId::NONE`] if nobody does.
    pub leader: NodeId,
    /// The leadership that is followed.
    pub leader_epoch: LeaderEpoch,
    /// The first offset to fetch: the end of the log.
    pub offset: Offset,
    /// The epoch of the last record; [`LeaderEpoch::NONE`] for an empty log.
    pub last_epoch: LeaderEpoch,
    /// The first offset of the log.
    pub log_start: Offset,
    /// Up to where the log is durable.
    pub synced_end: Offset,
    /// The high watermark that is known.
    pub high_watermark: Offset,
}

/// A leader's answer.
#[derive(Clone, Copy, Debug)]
pub struct FromLeader<'a> {
    /// Batches; the last may be cut.
    pub records: &'a [u8],
    /// The leader's high watermark.
    pub high_watermark: Offset,
    /// The leader's first offset.
    pub log_start: Offset,
}

/// Why a follower did not take something in.
#[derive(Debug, Error)]
pub enum FollowError {
    /// The replica follows another leadership now, or none; the answer is of no use.
    #[error("another leadership is followed by now")]
    Overtaken,
    /// The leader's answer must not be appended.
    #[error(transparent)]
    Refused(#[from] ReplicationError),
    /// The disk failed, or the log is out of service.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The same, while cutting.
    #[error(transparent)]
    Truncate(#[from] TruncateError),
    /// The same, while reading.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Replica {
    /// Where this follower stands. `None` if it follows nobody, or its log is out of service.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let state = self.state.lock();
        let Role::Follower(following) = state.role else { return None };
        if following.leader == NodeId::NONE || state.log.unusable().is_some() {
            return None;
        }
        Some(Position {
            leader: following.leader,
            leader_epoch: following.epoch,
            offset: state.log.end_offset(),
            last_epoch: state
                .log
                .latest_epoch()
                .filter(|_| !planted(Bug::HidesLastEpoch))
                .unwrap_or(LeaderEpoch::NONE),
            log_start: state.log.start_offset(),
            synced_end: state.log.synced_end(),
            high_watermark: state.high_watermark,
        })
    }

    /// Says that the news of this replica is in somebody's hands: from now on more of it is told anew.
    pub fn take_news(&self) {
        self.has_news.store(false, std::sync::atomic::Ordering::Release);
    }

    /// Takes in what the leader of `asked` answered to a fetch from that position.
    ///
    /// # Errors
    /// [`FollowError`]: nothing was appended.
    pub fn append_as_follower(
        self: &Arc<Self>,
        asked: &Position,
        answer: &FromLeader<'_>,
    ) -> Result<(), FollowError> {
        let first = BatchHeader::parse(answer.records).ok();
        let first =
            first.filter(|first| first.base_offset < asked.offset && first.next_offset() > asked.offset);
        let from = first.map_or(asked.offset, |first| first.base_offset);
        let mut flipped = Vec::new();
        let answer = if planted(Bug::SkipsChecksum) {
            flipped.extend_from_slice(answer.records);
            flipped.last_mut().into_iter().for_each(|byte| *byte ^= 1);
            &FromLeader { records: &flipped, ..*answer }
        } else {
            answer
        };
        // The checksums are computed without the lock; nobody else appends to a follower.
        let records = check_replicated(answer.records, from, asked.last_epoch, asked.leader_epoch)?;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.check_following(asked)?;
        if let Some(first) = first {
            state.begin_inside_batch(&first)?;
        }
        if !records.is_empty() {
            state.append_replicated(records)?;
        }
        state.follow_offsets(answer)?;
        self.settle(guard, self.clock.now());
        Ok(())
    }

    /// Cuts the log where the leader says that the histories part. What was acknowledged is never cut, but after an
    /// unclean election; then this says so.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn truncate(self: &Arc<Self>, asked: &Position, leader: EpochEnd) -> Result<Offset, FollowError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.check_following(asked)?;
        let point = truncation_point(state.log.epochs(), state.log.end_offset(), leader);
        tracing::info!(
            "{}-{}: cut from {} to {point}, where the histories part from the leader of epoch {}",
            self.topic,
            self.partition.index,
            state.log.end_offset(),
            asked.leader_epoch
        );
        let end = state.log.truncate_to(point)?;
        self.after_cut(state)?;
        self.settle(guard, self.clock.now());
        Ok(end)
    }

    /// Begins anew at the leader's first offset: what this log holds is older than everything that the leader has.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn start_over(self: &Arc<Self>, asked: &Position, leader_start: Offset) -> Result<(), FollowError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.check_following(asked)?;
        tracing::info!(
            "{}-{}: begins anew at offset {leader_start}, where the leader's log begins",
            self.topic,
            self.partition.index
        );
        state.log.truncate_fully_and_start_at(leader_start)?;
        state.high_watermark = state.high_watermark.max(leader_start);
        self.after_cut(state)?;
        self.settle(guard, self.clock.now());
        Ok(())
    }

    fn after_cut(self: &Arc<Self>, state: &mut State) -> Result<(), FollowError> {
        state.producers = state.log.load_producers()?;
        let end = state.log.end_offset();
        if end < state.high_watermark {
            tracing::error!(
                "{}-{}: the leader lacks offsets {end} to {}, which were visible: it was elected uncleanly",
                self.topic,
                self.partition.index,
                state.high_watermark
            );
            state.high_watermark = end;
        }
        self.tell(&self.has_news, &self.duties.news);
        Ok(())
    }
}

impl State {
    /// Whether the log is still where it was when the question was asked, and follows the same leadership.
    fn check_following(&self, asked: &Position) -> Result<(), FollowError> {
        match &self.role {
            Role::Follower(following)
                if following.epoch == asked.leader_epoch && self.log.end_offset() == asked.offset =>
            {
                Ok(())
            }
            _ => Err(FollowError::Overtaken),
        }
    }

    /// The leader's log begins inside of its first batch, whose earlier records were deleted: the batch comes whole, so
    /// that an empty log begins where the batch does.
    fn begin_inside_batch(&mut self, first: &BatchHeader) -> Result<(), FollowError> {
        if self.log.start_offset() == self.log.end_offset() {
            self.log.truncate_fully_and_start_at(first.base_offset)?;
            self.high_watermark = self.high_watermark.min(first.base_offset);
            return Ok(());
        }
        let gap = ReplicationError::Gap { sent: first.base_offset, log_end: self.log.end_offset() };
        Err(gap.into())
    }

    fn append_replicated(&mut self, records: &[u8]) -> Result<(), FollowError> {
        let appended = self.log.append(&[records])?;
        if let Some(base) = appended.rolled
            && let Err(error) = self.log.keep_producers(&self.producers, base)
        {
            tracing::warn!(
                "a snapshot of producers was not written, so that a restart takes longer: {error}"
            );
        }
        for batch in Batches::of(records).map_while(Result::ok).filter(|_| !planted(Bug::ForgetsProducers)) {
            self.producers.apply(&batch);
        }
        Ok(())
    }

    fn follow_offsets(&mut self, answer: &FromLeader<'_>) -> Result<(), FollowError> {
        if answer.log_start > self.log.start_offset() {
            self.log.delete_before(answer.log_start)?;
        }
        let (start, end) = (self.log.start_offset(), self.log.end_offset());
        self.high_watermark = high_watermark(self.high_watermark, answer.high_watermark, end).max(start);
        Ok(())
    }
}
