//! Consensus by raft-rs: the default backend.
//!
//! [`Raftrs`] is the configured backend, and [`quorate_core::consensus::Consensus::start`] makes it run. One task
//! owns the Raft node (`engine`); it alone decides, and it writes before it answers. Whoever reads the log reads it by
//! index, without the engine.
#![forbid(unsafe_code)]

mod backend;
mod config;
mod engine;
mod logger;
mod node;
mod proposals;
mod reads;
mod storage;
#[cfg(test)]
mod tests;
mod transport;

pub use backend::Raftrs;
pub use config::{MAX_ENTRY_BYTES, RaftrsConfig, Timings};
