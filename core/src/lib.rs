//! The broker of Quorate: everything but the process around it and the consensus under it.
//!
//! See `ARCHITECTURE.md` for the map. Nothing here names a consensus backend, and nothing here opens a socket or a
//! file but through [`runtime`].
#![forbid(unsafe_code)]

pub mod broker;
pub mod consensus;
pub mod controller;
pub mod handler;
pub mod ids;
pub mod log;
pub mod metadata;
pub mod partition;
pub mod planted;
pub mod protocol;
pub mod runtime;
