//! Consensus backends as shared libraries, over a C interface: `include/quorate_consensus.h`, version 0.
//!
//! [`Library`] is the host's side: it opens a file, checks it, and makes backends of it that the broker cannot tell from
//! those it was built with. [`export_consensus!`](crate::export_consensus) is the author's side: one line beside an
//! `impl Consensus` makes a library of a Rust crate. Authors in other languages include the header.
//!
//! The only crate with `unsafe` code. Each side copies what it is lent, and each side catches its own panics; the rules
//! stand in the header.
#![expect(unsafe_code, reason = "this is where the broker meets what other compilers made")]

mod answer;
#[doc(hidden)]
pub mod author;
mod capability;
mod config;
mod host;
pub mod raw;
mod report;
#[cfg(test)]
mod round_trip_test;

pub use capability::Capability;
pub use config::PluginConfig;
pub use host::{Library, Limits, LoadError, UnsafePath};
