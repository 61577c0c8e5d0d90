//! Ports to the world: time, randomness, tasks, disk, network. Everything else in this crate reaches them only here,
//! which is what lets a simulator run the real code in one thread and replay it from a seed.
//!
//! Of tokio, code outside this folder uses `tokio::sync` (but [`watch`] for tokio's), `tokio::io` traits and biased `tokio::select!`. It iterates
//! over no `HashMap` (whose order is random).

mod clock;
mod disk;
mod network;
mod rng;
pub mod simulated;
mod tasks;
pub mod watch;

pub use clock::{Clock, Elapsed, Moment};
pub use disk::{Disk, DiskFile, Open, RealDisk, make_folder, read_file, replace_file};
pub use network::{Connection, Listener, Network, ReadHalf, RealNetwork, WriteHalf};
pub use rng::Rng;
pub use tasks::TaskScope;

use std::sync::Arc;

/// All ports of one node.
#[derive(Clone)]
pub struct Runtime {
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Connections.
    pub network: Arc<dyn Network>,
    /// The node's tasks.
    pub tasks: TaskScope,
}

impl Runtime {
    /// The machine itself. Must be called on a tokio runtime, which becomes the one that `tasks` spawns on.
    #[must_use]
    pub fn real() -> Self {
        Self {
            clock: Clock::system(),
            rng: Rng::system(),
            disk: Arc::new(RealDisk),
            network: Arc::new(RealNetwork),
            tasks: TaskScope::threaded(),
        }
    }
}
