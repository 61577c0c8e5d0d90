//! One partition on one node: the rules of replication, pure, and the replica that holds log and rules under one lock.
//!
//! ```text
//!             log start      high watermark       synced end    log end
//!                 |                |                   |            |
//!   deleted ……… ..|----------------|-------------------|------------|
//!                 |   consumers    |      replicas read to the end  |
//! ```
//! `log start ≤ high watermark ≤ log end` and `synced end ≤ log end` at all times. What Kafka decides by the log end
//! offset (the high watermark, joining the ISR, lag) is decided here by the *end that counts*: the synced end in a
//! `synced` topic, the log end in a `replicated` one.

pub mod backlog;
pub mod follower;
pub mod isr;
pub mod leader;
pub mod replica;
pub mod settings;
