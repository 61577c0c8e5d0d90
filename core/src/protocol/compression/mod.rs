//! The codecs of record batches. Decompression streams through a cap, so that a small batch cannot become a large
//! memory; compression writes what every Kafka client reads.

mod compressor;
mod decompressor;

use std::io;

use thiserror::Error;

pub use compressor::{compress, recompress};
pub(super) use decompressor::CHUNK_BYTES;
pub use decompressor::{Decompressor, decompressed_bytes_max};

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy in the frames of the library snappy-java ("xerial"), or one raw block.
    Snappy,
    /// The LZ4 frame format with independent blocks.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// The codec that a batch's attributes name.
    #[must_use]
    pub fn from_id(id: i16) -> Option<Self> {
        Some(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// Its number in a batch's attributes.
    #[must_use]
    pub fn id(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec that a config value names; `uncompressed` is a topic's word for none, `none` a producer's.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" | "uncompressed" => Self::None,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }
}

/// A codec and how hard it tries: `compression.type` with `compression.gzip.level` or `compression.zstd.level`
/// (KIP-390). Snappy has no levels; LZ4 is written at its fastest, whatever the level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compression {
    /// The codec.
    pub codec: Codec,
    /// The codec's own scale; `None` is its default (gzip 6, zstd 3). Values beyond the scale are its ends.
    pub level: Option<i32>,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        Self { codec, level: None }
    }
}

/// Why bytes do not decompress.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CompressionError {
    /// They are not what the codec makes.
    #[error("the records do not decompress: {0}")]
    Corrupt(String),
    /// They become more than the caller takes.
    #[error("the records decompress to more than {0} bytes")]
    TooLarge(u64),
}

impl From<io::Error> for CompressionError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::FileTooLarge {
            return Self::TooLarge(0);
        }
        Self::Corrupt(error.to_string())
    }
}

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];

#[cfg(test)]
#[path = "../compression_test.rs"]
mod tests;
