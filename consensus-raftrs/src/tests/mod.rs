//! The backend under a simulated clock, network and disk.

mod crashes;
mod faults;
mod founders;
mod lab;
mod members;
mod one_node;
mod tcp;
mod three_nodes;
mod votes;
