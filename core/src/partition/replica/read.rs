//! Serving fetches: what consumers may see, what followers still need, and where a reader's history parts from the
//! leader's.

use std::sync::Arc;

use thiserror::Error;

use crate::{
    ids::{BrokerEpoch, LeaderEpoch, NodeId, Offset},
    log::{EpochEnd, ReadError, ReadRequest, Region},
    partition::leader::{FollowerFetch, Leadership, NotAFollower},
    planted::{Bug, planted},
    protocol::errors::ErrorCode,
};

use super::{Replica, Role, State};

/// Why a replica answers nothing about its partition.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotServed {
    /// Another node leads, or nobody, or the leader has not recovered from an unclean election.
    #[error("this node does not lead the partition")]
    NotLeader,
    /// The reader knows an older leadership (KIP-320).
    #[error("the leader epoch {asked} is older than {current}")]
    OldEpoch {
        /// What the reader knows.
        asked: LeaderEpoch,
        /// The present one.
        current: LeaderEpoch,
    },
    /// The reader knows a newer leadership than this node.
    #[error("the leader epoch {asked} is newer than {current}")]
    NewEpoch {
        /// What the reader knows.
        asked: LeaderEpoch,
        /// The present one, as far as this node knows.
        current: LeaderEpoch,
    },
}

impl NotServed {
    /// Kafka's code for it.
    #[must_use]
    pub fn error_code(self) -> ErrorCode {
        match self {
            Self::NotLeader => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            Self::OldEpoch { .. } => ErrorCode::FENCED_LEADER_EPOCH,
            Self::NewEpoch { .. } => ErrorCode::UNKNOWN_LEADER_EPOCH,
        }
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A client: it sees what is below the high watermark.
    Consumer,
    /// A follower, as its connection has proved: it sees everything.
    Replica {
        /// The follower.
        node: NodeId,
        /// Its registration.
        broker_epoch: BrokerEpoch,
        /// Up to where its log is durable; `None` where it does not say.
        synced_end: Option<Offset>,
    },
}

/// What a fetch wants of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchQuery {
    /// Who reads.
    pub reader: Reader,
    /// The first offset.
    pub from: Offset,
    /// The leadership that the reader knows; [`LeaderEpoch::NONE`] for any.
    pub leader_epoch: LeaderEpoch,
    /// The epoch of the last record that the reader has; [`LeaderEpoch::NONE`] if it does not say.
    pub last_epoch: LeaderEpoch,
    /// How many bytes at most.
    pub max_bytes: u32,
    /// Whether the first batch comes whole even if it is larger.
    pub at_least_one: bool,
}

/// The answer to a [`FetchQuery`].
#[derive(Clone, Debug)]
pub struct FetchAnswer {
    /// Where the batches lie; `None` if there is nothing now.
    pub region: Option<Region>,
    /// The reader's history is another one: where they part. There are no batches then.
    pub diverging: Option<EpochEnd>,
    /// What consumers may see ends here.
    pub high_watermark: Offset,
    /// The first offset of the log.
    pub log_start: Offset,
}

/// Why a fetch is not answered.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The partition is not served here, or not to this reader.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// The offset lies outside of the log. A follower goes on at its start.
    #[error("offset {asked} is not in the log from {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        asked: Offset,
        /// The first offset.
        start: Offset,
        /// The end of the log.
        end: Offset,
    },
    /// The node is no follower, as far as this leader knows. Its metadata may be newer.
    #[error("the node holds no replica that this leader knows of")]
    UnknownReplica,
    /// The log is out of service, or the disk failed.
    #[error(transparent)]
    Storage(ReadError),
}

impl From<ReadError> for FetchError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::OutOfRange { asked, start, end } => Self::OutOfRange { asked, start, end },
            other => Self::Storage(other),
        }
    }
}

impl From<NotAFollower> for FetchError {
    fn from(reason: NotAFollower) -> Self {
        match reason {
            NotAFollower::NoReplica => Self::UnknownReplica,
            NotAFollower::OldBroker => Self::NotServed(NotServed::NotLeader),
        }
    }
}

impl FetchError {
    /// Kafka's code for it.
    #[must_use]
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::NotServed(reason) => reason.error_code(),
            Self::OutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
            Self::UnknownReplica => ErrorCode::UNKNOWN_LEADER_EPOCH,
            Self::Storage(_) => ErrorCode::KAFKA_STORAGE_ERROR,
        }
    }
}

impl Replica {
    /// Answers a fetch with what is there now, and takes a follower's position in. Who wants to wait watches
    /// [`Replica::watch`] and asks again.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn read(self: &Arc<Self>, query: &FetchQuery) -> Result<FetchAnswer, FetchError> {
        let now = self.clock.now();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.leading(query.leader_epoch)?;
        let log_start = state.log.start_offset();
        let mut answer =
            FetchAnswer { region: None, diverging: None, high_watermark: state.high_watermark, log_start };
        if let Some(diverging) = state.divergence(query)? {
            answer.diverging = Some(diverging);
            return Ok(answer);
        }
        let end = state.log.end_offset();
        if query.from < log_start || query.from > end {
            return Err(FetchError::OutOfRange { asked: query.from, start: log_start, end });
        }
        let mut below = state.high_watermark;
        if planted(Bug::ServesInvisible) || planted(Bug::CallsAllVisible) {
            below = end;
        }
        if planted(Bug::CallsAllVisible) {
            answer.high_watermark = end;
        }
        if let Reader::Replica { node, broker_epoch, synced_end } = query.reader {
            let settings = self.settings.load();
            let follower_end = if settings.is_synced() && !planted(Bug::CountsUnsynced) {
                synced_end.unwrap_or_default().min(query.from)
            } else {
                query.from
            };
            let own_end = state.own_end(&settings);
            let high_watermark = state.high_watermark;
            if let Role::Leader(leader) = &mut state.role {
                let fetch = FollowerFetch { node, broker_epoch, end: follower_end };
                leader.fetched(fetch, own_end, high_watermark, now)?;
            }
            state.advance(&settings, now);
            answer.high_watermark = state.high_watermark;
            below = end;
        }
        let FetchQuery { from, max_bytes, at_least_one, .. } = *query;
        let region = state.log.read(ReadRequest { from, below, max_bytes, at_least_one });
        self.settle(guard, now);
        answer.region = region?;
        Ok(answer)
    }

    /// Where an epoch ends in the leader's log, for a reader that looks for where its history parts (KIP-320).
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn epoch_end(
        &self,
        leader_epoch: LeaderEpoch,
        asked: LeaderEpoch,
    ) -> Result<Option<EpochEnd>, NotServed> {
        let state = self.state.lock();
        state.leading(leader_epoch)?;
        Ok(state.log.epoch_end(asked))
    }
}

impl State {
    /// The leadership, if this node leads and the reader knows no other.
    pub(super) fn leading(&self, asked: LeaderEpoch) -> Result<&Leadership, NotServed> {
        let Role::Leader(leader) = &self.role else {
            // A follower knows its leader's epoch, and can tell a reader that is behind.
            let current = self.leader_epoch();
            return Err(match &self.role {
                Role::Follower(_) if asked != LeaderEpoch::NONE && asked < current => {
                    NotServed::OldEpoch { asked, current }
                }
                Role::Follower(_) if asked > current => NotServed::NewEpoch { asked, current },
                _ => NotServed::NotLeader,
            });
        };
        let current = leader.epoch();
        match asked {
            LeaderEpoch::NONE => {}
            asked if asked < current => return Err(NotServed::OldEpoch { asked, current }),
            asked if asked > current => return Err(NotServed::NewEpoch { asked, current }),
            _ => {}
        }
        if leader.in_sync().is_recovering() {
            return Err(NotServed::NotLeader);
        }
        Ok(leader)
    }

    /// Where the reader's history parts from this log, if it says what it has and that is not what is here (KIP-595).
    fn divergence(&self, query: &FetchQuery) -> Result<Option<EpochEnd>, FetchError> {
        if query.last_epoch == LeaderEpoch::NONE || planted(Bug::BelievesOffsets) {
            return Ok(None);
        }
        let (start, end) = (self.log.start_offset(), self.log.end_offset());
        let out_of_range = FetchError::OutOfRange { asked: query.from, start, end };
        let Some(own) = self.log.epoch_end(query.last_epoch) else { return Err(out_of_range) };
        if query.from < start {
            return Err(out_of_range);
        }
        Ok((own.epoch < query.last_epoch || own.end < query.from).then_some(own))
    }
}
