//! Labs of the conformance suite: small clusters of the built-in backends, and mutants of one, under the suite's hands.

pub mod etcd;
pub mod library;
pub mod memory;
pub mod mutants;
pub mod raft;

use std::io;

use tokio::runtime::{Builder, Runtime};

/// A runtime of one thread with paused time, for what is simulated; else one of the machine's.
fn engine(simulated: bool) -> io::Result<Runtime> {
    let mut builder = match simulated {
        true => Builder::new_current_thread(),
        false => Builder::new_multi_thread(),
    };
    builder.enable_all().start_paused(simulated).build()
}
