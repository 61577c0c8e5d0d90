//! Why a request is refused, in Kafka's terms: the one place that maps what `apply` says to Kafka's error codes.

use crate::{
    metadata::{
        apply::{AlterRefusal, ElectRefusal, Rejection},
        configs::ConfigError,
    },
    protocol::errors::ErrorCode,
};

/// Kafka's error code and a sentence for whoever reads the log of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// The sentence.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let code = match &rejection {
            Rejection::Malformed(_) => ErrorCode::INVALID_REQUEST,
            Rejection::NoController(_) | Rejection::NotFounded => ErrorCode::NOT_CONTROLLER,
            Rejection::AlreadyFounded | Rejection::Exhausted => ErrorCode::UNKNOWN_SERVER_ERROR,
            Rejection::DuplicateBroker(_) | Rejection::DirectoryInUse { .. } => {
                ErrorCode::DUPLICATE_BROKER_REGISTRATION
            }
            Rejection::UnknownBroker(_) => ErrorCode::BROKER_ID_NOT_REGISTERED,
            Rejection::StaleBrokerEpoch { .. } => ErrorCode::STALE_BROKER_EPOCH,
            Rejection::TopicExists(_) => ErrorCode::TOPIC_ALREADY_EXISTS,
            Rejection::UnknownTopic => ErrorCode::UNKNOWN_TOPIC_ID,
            Rejection::InvalidAssignment(_) | Rejection::NoActiveReplica(_) => {
                ErrorCode::INVALID_REPLICA_ASSIGNMENT
            }
        };
        Self::new(code, rejection.to_string())
    }
}

impl From<AlterRefusal> for ErrorCode {
    fn from(refusal: AlterRefusal) -> Self {
        match refusal {
            AlterRefusal::UnknownPartition => Self::UNKNOWN_TOPIC_OR_PARTITION,
            AlterRefusal::NotController => Self::NOT_CONTROLLER,
            AlterRefusal::FencedLeaderEpoch => Self::FENCED_LEADER_EPOCH,
            AlterRefusal::Invalid(_) => Self::INVALID_REQUEST,
            AlterRefusal::InvalidUpdateVersion => Self::INVALID_UPDATE_VERSION,
            AlterRefusal::IneligibleReplica => Self::INELIGIBLE_REPLICA,
        }
    }
}

impl From<ElectRefusal> for ErrorCode {
    fn from(refusal: ElectRefusal) -> Self {
        match refusal {
            ElectRefusal::UnknownPartition => Self::UNKNOWN_TOPIC_OR_PARTITION,
            ElectRefusal::NotNeeded => Self::ELECTION_NOT_NEEDED,
            ElectRefusal::PreferredNotAvailable => Self::PREFERRED_LEADER_NOT_AVAILABLE,
            ElectRefusal::EligibleNotAvailable => Self::ELIGIBLE_LEADERS_NOT_AVAILABLE,
        }
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        let code = match error {
            ConfigError::Unknown { .. } | ConfigError::Invalid { .. } | ConfigError::NoList(_) => {
                ErrorCode::INVALID_CONFIG
            }
            ConfigError::ReadOnly(_) | ConfigError::ClusterWide(_) => ErrorCode::INVALID_REQUEST,
        };
        Self::new(code, error.to_string())
    }
}
