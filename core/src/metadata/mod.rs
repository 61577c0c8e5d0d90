//! The cluster's metadata: an ordered log of small commands, and the image that is a pure function of it.
//!
//! [`command`] is what the log carries, [`image`] what it adds up to, [`mod@apply`] the only place that changes an image.
//! Nothing here waits, reads a clock, or depends on the order of a hash map: every node that has applied the same log
//! holds the same image, byte for byte ([`snapshot`]).

pub mod adoption;
pub mod apply;
pub mod check;
pub mod command;
pub mod configs;
pub mod diff;
mod election;
pub mod image;
pub mod settings;
pub mod snapshot;

#[cfg(test)]
mod apply_test;
#[cfg(test)]
mod command_test;
#[cfg(test)]
mod random_test;
#[cfg(test)]
pub(crate) mod testing;

pub use apply::{Accepted, ApplyError, Outcome, Rejection, apply};
pub use command::Command;
pub use image::Image;
