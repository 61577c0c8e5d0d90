//! Consensus by openraft.
//!
//! [`Openraft`] is the configured backend, and [`quorate_core::consensus::Consensus::start`] makes it run. openraft's
//! core decides what is appended and committed; this crate gives it a disk (`storage`), a state machine that is a
//! cursor (`machine`), peers (`network`, `peers`) and the clock's orders (`engine`).
//!
//! What openraft 0.9 lacks is done here, by messages that any Raft node must bear with:
//! - Its election timeout is drawn once in a process, so that two nodes may collide for ever. `election` draws it anew.
//! - It can be initialised only before it gives a vote. Founding writes what it would write (`engine::founding`).
//! - It has no check of the quorum. A leader that no quorum has answered for the least election timeout says that it
//!   does not know who leads, and takes no proposals; it may resume the same epoch.
//! - It has no Pre-Vote. Before a node asks for votes, it asks the others whether they would vote (`election`).
//! - It has no transfer of leadership and no way to step down. A leader that resigns tells itself and the others that a
//!   higher term has begun in which nobody has a vote yet, and asks the one that has its whole log to campaign.
//! - It panics when a follower has lost what it had acknowledged. Here the follower is told, and stops (`network`).
//!
//! A term has one leader (feature `single-term-leader`), so that a term is an epoch. Every proposal is an entry of its
//! own with a sync of its own: openraft 0.9 does not gather them.

mod backend;
mod calls;
mod config;
mod election;
mod engine;
mod machine;
mod network;
mod peers;
mod runtime;
mod storage;
#[cfg(test)]
mod tests;
mod transport;
mod types;

pub use backend::Openraft;
pub use config::{MAX_ENTRY_BYTES, OpenraftConfig, Timings};
