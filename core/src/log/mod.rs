//! One partition's log: its files in Kafka's formats. It knows files and batches, and no requests.

pub mod producers;
