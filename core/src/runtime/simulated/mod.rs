//! The world in one process: a disk that loses what was not synced, a network that can be cut. Both take all their
//! choices from a seed and all their delays from a [`Clock`](super::Clock), so that a run can be replayed.

mod content;
mod digest;
mod disk;
#[cfg(test)]
mod disk_test;
mod names;
mod network;
#[cfg(test)]
mod network_test;

pub use disk::{Fault, Keep, SimulatedDisk};
pub use network::SimulatedNetwork;
