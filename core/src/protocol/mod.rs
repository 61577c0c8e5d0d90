//! Kafka on the wire and in the log: frames, requests and responses, record batches. Versions end here.

pub mod apis;
pub mod batch;
pub mod bodies;
pub mod builder;
pub mod compression;
pub mod errors;
pub mod frame;
pub mod guard;
pub mod header;
pub mod primitives;
pub mod records;
pub mod shapes;
pub mod validate;
