//! The backend against a model of etcd, in one thread on paused time: random faults from a seed, an oracle that knows
//! all, and planted bugs that it has to find. And the model against a real etcd ([`script`]).

mod link;
#[cfg_attr(not(test), expect(dead_code, reason = "the faults are the simulation's"))]
mod model;
#[cfg(test)]
mod oracle;
pub mod script;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
