//! An image as bytes: what a node keeps on its disk, what a backend keeps in place of its log, what a backup is. The
//! same image gives the same bytes on every node, so that equal hashes mean equal images.
//!
//! ```text
//!   "QUORIMG1" | length, record | length, record | … | length, trailer: count of records, SHA-256 of all before it
//! ```
//! A length is 4 bytes, big-endian; a record is protobuf. Large things are spread over records of bounded size, so
//! that neither writer nor reader holds more than a record besides the image itself. The bytes are cut into chunks of
//! at most [`SNAPSHOT_CHUNK_BYTES`], wherever the cut falls.

mod reader;
mod record;
mod writer;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use reader::Reader;
pub use writer::Chunks;

use super::Image;
pub use crate::consensus::SNAPSHOT_CHUNK_BYTES;
use crate::consensus::SnapshotMeta;

/// The first bytes; the last one is the format.
const MAGIC: &[u8; 8] = b"QUORIMG1";
/// Partitions in one record: at 5 replicas each some 64 bytes apiece.
const PARTITIONS_PER_RECORD: usize = 1000;
/// Configs in one record.
const CONFIGS_PER_RECORD: usize = 64;
/// No record is longer. An entry of the log has at most 1 MiB, and no record has more than a few entries set.
const RECORD_BYTES_MAX: usize = 80 << 20;

/// The bytes are no image.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// They are not ours, or damaged.
    #[error("the image is damaged: {0}")]
    Damaged(String),
    /// They come to an end too early.
    #[error("the image is cut off after {records} records")]
    CutOff {
        /// Complete records so far.
        records: u64,
    },
    /// The hash at the end is another.
    #[error("the image's hash differs: it has changed since it was written")]
    HashDiffers,
}

/// The hash of an image's bytes.
#[must_use]
pub fn hash(image: &std::sync::Arc<Image>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for chunk in Chunks::of(image.clone()) {
        hash.update(&chunk);
    }
    hash.finalize().into()
}

/// What a backend is told of an image. Encodes the image once to learn its length.
#[must_use]
pub fn meta(image: &std::sync::Arc<Image>) -> SnapshotMeta {
    let bytes = Chunks::of(image.clone()).map(|chunk| chunk.len() as u64).sum();
    SnapshotMeta { index: image.index, epoch: image.epoch, chain: image.chain, bytes }
}
