//! What in-process consensus backends share: a durable log of votes and entries, snapshots in files, a framed peer
//! transport, and the founding of a cluster.
//!
//! Nothing here knows a consensus algorithm. A backend decides what to write and what to send; this crate makes it
//! durable, in order, and carries it.
#![forbid(unsafe_code)]

pub mod codec;
pub mod disk;
pub mod founding;
pub mod log;
pub mod membership;
pub mod snapshot;
pub mod transport;

#[cfg(test)]
mod testing;
