//! Kafka on the wire and in the log: frames, requests and responses, record batches. Versions end here.

pub mod apis;
pub mod batch;
pub mod bodies;
pub mod builder;
pub mod client;
pub mod compression;
pub mod errors;
pub mod fetch;
pub mod fetch_response;
pub mod frame;
pub mod guard;
pub mod header;
pub mod hints;
pub mod internal;
pub mod observe;
pub mod outgoing;
pub mod primitives;
pub mod produce;
pub mod records;
pub mod shapes;
pub mod topics;
pub mod validate;
