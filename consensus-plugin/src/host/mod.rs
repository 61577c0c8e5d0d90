//! The host's side: opens a library and makes its nodes look like any other backend.

mod backend;
mod calls;
mod committed;
mod library;
mod limits;
mod node;
mod path;
mod registry;
mod running;

pub use library::{Library, LoadError};
pub use limits::Limits;
pub use path::UnsafePath;
