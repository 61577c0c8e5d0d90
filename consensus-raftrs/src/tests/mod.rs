//! The backend under a simulated clock, network and disk.

mod lab;
mod one_node;
mod three_nodes;
