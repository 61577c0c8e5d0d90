//! One partition's log in Kafka's files: segments of batches, sparse indexes, the leader-epoch cache, recovery,
//! retention. Knows files and batches, and neither requests nor replication.
//!
//! ```text
//!  start        synced end       end
//!    |--------------|-------------|
//!  00000000000000000000.log  .index  .timeindex      sealed segments
//!  00000000000000004711.log  .index  .timeindex      the active segment: the only one that grows
//!  leader-epoch-checkpoint, partition.metadata, *.snapshot
//! ```
//! - A [`Log`] has one owner, the replica, and is called under the replica's lock. Its methods are synchronous. What
//!   takes long is handed out as a job that needs no lock: [`SyncJob`], [`PendingAppend`].
//! - Everything below the *synced end* survives a power cut. The *recovery point* follows it with the indexes, and is
//!   what the next start trusts: recovery reads only what lies past it.
//! - Past the recovery point the longest valid prefix stays and a torn tail is cut. Below it a broken batch is
//!   [`Damage`]: reported, kept as it is, never served.
//! - Files are opened when they are needed, through [`Handles`].

mod append;
mod config;
#[cfg(test)]
mod damage_test;
mod durable_index;
mod epochs;
mod files;
mod handles;
mod health;
mod index;
#[expect(clippy::module_inception, reason = "the folder is the room, the file its main type")]
mod log;
#[cfg(test)]
mod log_test;
#[cfg(test)]
mod model_test;
mod names;
mod opening;
pub mod producers;
mod read;
mod recent;
mod recovery;
mod retention;
mod search;
mod segment;
mod snapshots;
mod sync;
mod table;
#[cfg(test)]
mod testing;
mod truncate;
mod walk;

pub use append::{AppendError, Appended, PendingAppend};
pub use config::LogConfig;
pub use epochs::{EpochCache, EpochEnd, EpochFileError, EpochStart};
pub use handles::Handles;
pub use health::DiskHealth;
pub use log::{Damage, DiskFailure, Log, LogParts, Unusable};
pub use names::{parse_partition_folder, partition_folder};
pub use opening::{Cut, OpenError, Opening, PageCache, Recovery};
pub use read::{BatchAt, ReadError, ReadRequest, Region};
pub use retention::Expired;
pub use sync::{SyncDepth, SyncJob};
pub use truncate::TruncateError;
