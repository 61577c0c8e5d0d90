//! The backend under a simulated clock, network and disk.

mod crashes;
mod lab;
mod one_node;
mod tcp;
mod three_nodes;
mod votes;
