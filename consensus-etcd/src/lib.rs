//! Consensus by an external etcd: an ordered, fenced log whose entries are keys.
//!
//! Whatever decides something is one etcd transaction. A campaign writes the leader key, the next epoch and the
//! epoch's opening entry in one revision; a batch of proposals is written only while the leader key still holds this
//! leadership's random token and the tail has not moved. The lease of the leader key makes a takeover fast; it is
//! never what makes it safe. A watch only wakes readers up; every entry comes from a range read and is checked for
//! density and against the hash chain, so that a restored backup is noticed and never silently followed. What becomes of it then an operator decides
//! ([`restore`]).
//!
//! Decisions ([`head`], [`campaign`], [`proposal`], [`reader`]) are pure functions over the small vocabulary of
//! [`storage`]; [`observer`], [`session`], [`proposing`] and [`compaction`] carry them out; [`transport`] is the only place that
//! names the etcd client.
#![forbid(unsafe_code)]

mod backend;
mod campaign;
mod compaction;
mod config;
mod head;
mod observer;
mod proposal;
mod proposing;
mod queue;
mod reader;
pub mod restore;
mod session;
mod shared;
#[cfg(any(test, feature = "model"))]
pub mod simulation;
mod storage;
mod transport;
mod vigil;
mod watched;

pub use backend::Etcd;
pub use config::{ConfigError, Credentials, EtcdConfig, Tls};
