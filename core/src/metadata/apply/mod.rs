//! The only place that changes an image: one function of the image and the next entry of the log, the same on every
//! node. A command that does not fit the image is *rejected*, which is an outcome like any other and changes nothing;
//! an entry that this build cannot read is an *error*, and the node must stop rather than diverge from the others.
//!
//! What a command does is frozen once it is released: every node replays it, whatever version it runs. A changed rule
//! is a new command, or gated by a feature level in the image.

mod brokers;
mod cluster;
mod partitions;
mod topics;

use thiserror::Error;

use super::{
    command::{Command, CommandError},
    election::Exhausted,
    image::{Image, Partition},
};
use crate::ids::{BrokerEpoch, DirectoryId, Epoch, LogIndex, NodeId};

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The engine's own entry, which says nothing to the image.
    Engine,
    /// The image has changed, or already was as asked.
    Accepted(Accepted),
    /// The image did not change.
    Rejected(Rejection),
}

/// What an accepted command answers to whoever proposed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Nothing more to say.
    Done,
    /// The registration that the broker has now.
    Registered(BrokerEpoch),
    /// For each change that was asked for: the partition's state now, or why it was refused.
    Altered(Vec<Result<Partition, AlterRefusal>>),
    /// For each partition that was named: whether it has the leader that was asked for.
    Elected(Vec<Result<(), ElectRefusal>>),
    /// The first of the producer ids.
    ProducerIds(i64),
}

/// Why a command was rejected.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Rejection {
    /// The command cannot be meant: nobody who obeys the rules writes it.
    #[error("the command is malformed: {0}")]
    Malformed(&'static str),
    /// The epoch has no announced controller, or another.
    #[error("epoch {0} has no announced controller yet, or another one")]
    NoController(Epoch),
    /// The cluster is not founded yet.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// The cluster is founded already.
    #[error("the cluster is founded already")]
    AlreadyFounded,
    /// A live broker has this node id, and it is not the process that asks.
    #[error(
        "node {0} is registered by another live process with other log directories; if that process has ended, its \
         session ends soon: try again"
    )]
    DuplicateBroker(NodeId),
    /// Another node has one of the log directories.
    #[error(
        "the log directory {directory} is registered by node {owner}: a copied folder must not be started twice"
    )]
    DirectoryInUse {
        /// The directory.
        directory: DirectoryId,
        /// Who has it.
        owner: NodeId,
    },
    /// The broker has no registration.
    #[error("node {0} is not registered")]
    UnknownBroker(NodeId),
    /// The broker has registered again since.
    #[error("node {node} has the broker epoch {present} now")]
    StaleBrokerEpoch {
        /// The broker.
        node: NodeId,
        /// Its registration.
        present: BrokerEpoch,
    },
    /// The name is taken.
    #[error("topic '{0}' exists already")]
    TopicExists(String),
    /// No such topic.
    #[error("there is no such topic")]
    UnknownTopic,
    /// A replica is on a broker that is not registered, or on the same broker twice.
    #[error("the assignment of partition {0} names a broker twice, or one that is not registered, or none")]
    InvalidAssignment(i32),
    /// No replica of a partition can lead.
    #[error("no broker that partition {0} is assigned to is live")]
    NoActiveReplica(i32),
    /// A number has come to the end of its range.
    #[error("a number has come to the end of its range")]
    Exhausted,
}

/// Why an ISR did not change, in Kafka's order of checks.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AlterRefusal {
    /// There is no such partition.
    #[error("there is no such partition")]
    UnknownPartition,
    /// The leader knows a later state than this: whoever asks should look for a newer controller.
    #[error("the leader is ahead of this controller")]
    NotController,
    /// The leadership has ended.
    #[error("the leader epoch is old")]
    FencedLeaderEpoch,
    /// The request contradicts itself or the state.
    #[error("invalid: {0}")]
    Invalid(&'static str),
    /// The state has changed since.
    #[error("the partition epoch is old")]
    InvalidUpdateVersion,
    /// A member of the new ISR is fenced, shutting down, or has registered again.
    #[error("a replica may not be in the ISR")]
    IneligibleReplica,
}

/// Why there was no election.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ElectRefusal {
    /// There is no such partition.
    #[error("there is no such partition")]
    UnknownPartition,
    /// The right one leads already.
    #[error("the leader is the right one already")]
    NotNeeded,
    /// The first replica is not in the ISR.
    #[error("the preferred leader is not in the ISR")]
    PreferredNotAvailable,
    /// No replica is live.
    #[error("no replica is live")]
    EligibleNotAvailable,
}

/// The node cannot follow the log any further.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ApplyError {
    /// Entries are dense.
    #[error("entry {found} of the metadata log follows entry {last}")]
    Hole {
        /// The image's last entry.
        last: LogIndex,
        /// The entry that came.
        found: LogIndex,
    },
    /// Epochs never fall.
    #[error("entry {index} of the metadata log has epoch {found}, after epoch {last}")]
    EpochFell {
        /// The entry.
        index: LogIndex,
        /// The image's epoch.
        last: Epoch,
        /// The entry's epoch.
        found: Epoch,
    },
    /// Not a command of this build.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl From<Exhausted> for Rejection {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}

/// The image after one more entry, and what became of it. `data` is empty for the engine's own entries.
///
/// # Errors
/// The node must stop: it cannot know what the others make of the entry.
pub fn apply(
    image: &Image,
    index: LogIndex,
    epoch: Epoch,
    data: &[u8],
) -> Result<(Image, Outcome), ApplyError> {
    if index != image.index.next() {
        return Err(ApplyError::Hole { last: image.index, found: index });
    }
    if epoch < image.epoch {
        return Err(ApplyError::EpochFell { index, last: image.epoch, found: epoch });
    }
    let mut next = Image { index, epoch, chain: image.chain.link(epoch, data), ..image.clone() };
    if data.is_empty() {
        return Ok((next, Outcome::Engine));
    }
    let command = Command::from_entry(data)?;
    let mut draft = next.clone();
    let outcome = match run(&mut draft, command) {
        Ok(accepted) => {
            next = draft;
            Outcome::Accepted(accepted)
        }
        Err(rejection) => Outcome::Rejected(rejection),
    };
    // Every entry of a debug build looks at everything, so that a simulation finds the entry that broke a rule.
    const CHECKED_TOPICS_MAX: usize = 16;
    let is_unchecked = next.topics.len() > CHECKED_TOPICS_MAX || crate::planted::any();
    debug_assert!(is_unchecked || super::check::problem(&next).is_none());
    Ok((next, outcome))
}

/// Changes the draft, which is thrown away if the command is rejected.
fn run(draft: &mut Image, command: Command) -> Result<Accepted, Rejection> {
    if let Command::ControllerUp(command) = command {
        return cluster::controller_up(draft, command);
    }
    // An ex-leader cannot append in a later epoch, and the leader of this one announces itself first. So a command
    // was decided by the controller that the image names, on an image in which that controller was up.
    if draft.controller.as_ref().is_none_or(|controller| controller.epoch != draft.epoch) {
        return Err(Rejection::NoController(draft.epoch));
    }
    if let Command::FoundCluster(command) = command {
        return cluster::found(draft, command);
    }
    if draft.founding.is_none() {
        return Err(Rejection::NotFounded);
    }
    match command {
        Command::NoOp(_) | Command::ControllerUp(_) | Command::FoundCluster(_) => Ok(Accepted::Done),
        Command::RegisterBroker(command) => brokers::register(draft, command),
        Command::FenceBroker(command) => brokers::fence(draft, command),
        Command::UnfenceBroker(command) => brokers::unfence(draft, command),
        Command::BrokerShuttingDown(command) => brokers::shutting_down(draft, command),
        Command::CreateTopic(command) => topics::create(draft, command),
        Command::DeleteTopic(command) => topics::delete(draft, command),
        Command::AlterPartitions(command) => partitions::alter(draft, &command),
        Command::ElectLeaders(command) => partitions::elect(draft, &command),
        Command::SetConfigs(command) => cluster::set_configs(draft, command),
        Command::ControllerDeaf(command) => cluster::controller_deaf(draft, &command),
        Command::AllocateProducerIds(command) => cluster::allocate_producer_ids(draft, command),
    }
}
