//! Log lines: text or JSON, to the standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

use crate::exit::Failure;

/// What is logged where nothing is said: warnings of libraries, and what Quorate has to say. openraft calls every message
/// to a node that is down an error; what comes of it, its backend says.
const FILTER: &str = "warn,quorate=info,quorate_core=info,quorate_consensus_kit=info,quorate_consensus_raftrs=info,\
                      quorate_consensus_openraft=info,quorate_consensus_etcd=info,openraft=off";

/// Begins to log. `filter` is `RUST_LOG`'s text, where it is set.
///
/// # Errors
/// If the filter is malformed.
pub(crate) fn start(json: bool, filter: Option<&str>) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter.unwrap_or(FILTER))
        .map_err(|error| Failure::config(format!("RUST_LOG: {error}")))?;
    let colour = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started =
        if json { lines.json().finish().try_init() } else { lines.with_ansi(colour).finish().try_init() };
    started.map_err(Failure::new)
}
