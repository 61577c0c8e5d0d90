//! What in-process consensus backends share: a durable log of votes and entries, snapshots in files, a framed peer
//! transport, the founding of a cluster, and what every such backend shows of itself.
//!
//! Nothing here knows a consensus algorithm. A backend decides what to write and what to send; this crate makes it
//! durable, in order, and carries it.
#![forbid(unsafe_code)]

pub mod change;
pub mod codec;
pub mod config;
pub mod disk;
pub mod founding;
#[cfg(feature = "lab")]
#[expect(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "these are tests, whose names are sentences, and what is wrong in them is to end them"
)]
pub mod lab;
pub mod listening;
pub mod log;
pub mod membership;
pub mod opening;
pub mod shared;
pub mod snapshot;
pub mod transport;

#[cfg(test)]
mod testing;
