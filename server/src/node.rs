//! One node: what is made, bound and started, in that order, and what ends it.

use quorate_core::runtime::Runtime;
use tokio::sync::mpsc;

use crate::{backend, config::ServerConfig, exit::Failure, listener};

/// Peers that knock before the backend has taken the earlier ones; more wait in the listener's backlog.
const PEERS_MAX: usize = 64;

/// Constructs what would be started, and drops it.
///
/// # Errors
/// If the backend refuses its configuration.
pub(crate) fn check(config: &ServerConfig) -> Result<(), Failure> {
    let engine = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let _entered = engine.enter();
    let (_peers, accepted) = mpsc::channel(PEERS_MAX);
    backend::select(config, &Runtime::real(), accepted).map(drop).map_err(Failure::Config)
}

/// Runs the node until it is told to stop.
///
/// # Errors
/// If it cannot start, or fails for good.
pub(crate) fn run(config: &ServerConfig) -> Result<(), Failure> {
    let engine = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let _entered = engine.enter();
    let runtime = Runtime::real();
    let (_peers, accepted) = mpsc::channel(PEERS_MAX);
    let _consensus = backend::select(config, &runtime, accepted).map_err(Failure::Config)?;
    let bound: Result<Vec<_>, _> = config.listeners.iter().map(listener::bind).collect();
    let _bound = bound.map_err(Failure::new)?;
    Err(Failure::new("this build has no broker to start yet"))
}
