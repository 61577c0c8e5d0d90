//! `quorate consensus`: what only an operator can decide about the cluster's metadata.

#[cfg(feature = "etcd")]
mod accept_restore;

use crate::{cli::ConsensusCommand, exit::Failure};

/// Does what was asked for.
///
/// # Errors
/// If it is refused or fails; the sentence says what to do.
pub(crate) fn run(command: &ConsensusCommand) -> Result<(), Failure> {
    match command {
        #[cfg(feature = "etcd")]
        ConsensusCommand::AcceptRestore(args) => accept_restore::run(args),
        #[cfg(not(feature = "etcd"))]
        ConsensusCommand::AcceptRestore(_) => {
            Err(Failure::config("this build has no backend whose log can be lost by a restore"))
        }
    }
}
