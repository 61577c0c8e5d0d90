//! The codecs of record batches. Decompression streams through a cap, so that a small batch cannot become a large
//! memory; compression writes what every Kafka client reads.

use std::io::{self, Read, Write};

use thiserror::Error;

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
        Self::Corrupt(error.to_string())
    }
}

/// What `compressed` bytes may decompress to, at most. Data repeats itself, logs above all, but a batch that grows
/// a hundredfold past the first 64 MiB is a bomb.
#[must_use]
pub fn decompressed_bytes_max(compressed: usize) -> u64 {
    const ALLOWANCE: u64 = 64 << 20;
    ALLOWANCE.saturating_add((compressed as u64).saturating_mul(100))
}

/// 2²⁷ bytes, the largest zstd window that Kafka's reader takes; the memory is touched only as output fills it.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Decompresses borrowed bytes piece by piece.
pub struct Decompressor<'a> {
    decoder: Decoder<'a>,
    made: u64,
    cap: u64,
    ended: bool,
}

enum Decoder<'a> {
    None(&'a [u8]),
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    Snappy(Snappy<'a>),
    Lz4(Box<lz4_flex::frame::FrameDecoder<Input<'a>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, &'a [u8]>>),
}

impl<'a> Decompressor<'a> {
    /// A decompressor of `bytes` that refuses to make more than `cap` bytes.
    ///
    /// # Errors
    /// [`CompressionError::Corrupt`] if the codec's own header is already wrong.
    pub fn new(codec: Codec, bytes: &'a [u8], cap: u64) -> Result<Self, CompressionError> {
        let decoder = match codec {
            Codec::None => Decoder::None(bytes),
            Codec::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(bytes))),
            Codec::Snappy => Decoder::Snappy(Snappy::new(bytes)?),
            Codec::Lz4 => {
                check_lz4_header(bytes)?;
                let input = Input { rest: bytes, starved: false };
                Decoder::Lz4(Box::new(lz4_flex::frame::FrameDecoder::new(input)))
            }
            Codec::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { decoder, made: 0, cap, ended: false })
    }

    /// Fills the beginning of `buffer` and says how much of it; 0 only at the end, once all input is used up.
    ///
    /// # Errors
    /// Input that is corrupt, ends early, goes on after its end, or makes too much.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, CompressionError> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let left = self.cap.saturating_sub(self.made);
        let count = match self.decoder.read(buffer, left) {
            Err(CompressionError::TooLarge(_)) => return Err(CompressionError::TooLarge(self.cap)),
            other => other?,
        };
        if count == 0 {
            self.ended = true;
            self.decoder.check_end()?;
        }
        self.made = self.made.saturating_add(count as u64);
        if self.made > self.cap {
            return Err(CompressionError::TooLarge(self.cap));
        }
        Ok(count)
    }

    /// Everything, appended to `into`.
    ///
    /// # Errors
    /// As [`Decompressor::fill`].
    pub fn read_to_end(&mut self, into: &mut Vec<u8>) -> Result<(), CompressionError> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            let count = self.fill(&mut chunk)?;
            if count == 0 {
                return Ok(());
            }
            into.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }
}

/// Bytes that are decompressed at a time.
pub(super) const CHUNK_BYTES: usize = 16 << 10;

impl Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8], left: u64) -> Result<usize, CompressionError> {
        Ok(match self {
            Self::None(rest) => rest.read(buffer)?,
            Self::Gzip(decoder) => decoder.read(buffer)?,
            Self::Snappy(decoder) => decoder.read(buffer, left)?,
            Self::Lz4(decoder) => decoder.read(buffer)?,
            Self::Zstd(decoder) => decoder.read(buffer)?,
        })
    }

    /// What the decoders take for an end and a reader elsewhere would not.
    fn check_end(&self) -> Result<(), CompressionError> {
        let Self::Lz4(decoder) = self else { return Ok(()) };
        let input = decoder.get_ref();
        if input.starved {
            return Err(CompressionError::Corrupt("the LZ4 frame has no end mark".to_owned()));
        }
        if !input.rest.is_empty() {
            return Err(CompressionError::Corrupt("bytes follow the LZ4 frame".to_owned()));
        }
        Ok(())
    }
}

/// The readers of Kafka's clients know the current frame format with independent blocks, nothing else.
fn check_lz4_header(bytes: &[u8]) -> Result<(), CompressionError> {
    const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
    const INDEPENDENT_BLOCKS: u8 = 1 << 5;
    match bytes.split_first_chunk() {
        Some((&MAGIC, [flags, ..])) if flags & INDEPENDENT_BLOCKS != 0 => Ok(()),
        Some((&MAGIC, _)) => Err(CompressionError::Corrupt("the LZ4 blocks depend on each other".to_owned())),
        _ => Err(CompressionError::Corrupt("no LZ4 frame".to_owned())),
    }
}

/// Borrowed input that remembers whether more was asked of it than it had.
struct Input<'a> {
    rest: &'a [u8],
    starved: bool,
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.rest.read(buffer)?;
        self.starved |= count < buffer.len();
        Ok(count)
    }
}

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Magic, version and lowest compatible version.
const XERIAL_HEADER_BYTES: usize = 16;
/// What snappy-java puts into one block.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// A copy of Snappy takes at least two bytes of input and makes at most 64 of output.
const SNAPPY_RATIO_MAX: usize = 32;

struct Snappy<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    used: usize,
    decoder: snap::raw::Decoder,
}

impl<'a> Snappy<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, CompressionError> {
        let framed = bytes.starts_with(&XERIAL_MAGIC);
        let rest = if framed { bytes.get(XERIAL_HEADER_BYTES..) } else { Some(bytes) };
        let rest = rest.ok_or_else(|| CompressionError::Corrupt("the Snappy header is cut".to_owned()))?;
        Ok(Self { rest, framed, block: Vec::new(), used: 0, decoder: snap::raw::Decoder::new() })
    }

    fn read(&mut self, buffer: &mut [u8], left: u64) -> Result<usize, CompressionError> {
        // Every round takes input, so that the loop ends however small the blocks are.
        while self.used == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let block = self.next_block()?;
            self.decompress(block, left)?;
        }
        let mut unread = self.block.get(self.used..).unwrap_or_default();
        let count = unread.read(buffer)?;
        self.used += count;
        Ok(count)
    }

    fn next_block(&mut self) -> Result<&'a [u8], CompressionError> {
        if !self.framed {
            return Ok(std::mem::take(&mut self.rest));
        }
        let corrupt = || CompressionError::Corrupt("a Snappy block is cut".to_owned());
        // Streams that were appended to each other have a header in the middle.
        if self.rest.starts_with(&XERIAL_MAGIC) {
            self.rest = self.rest.get(XERIAL_HEADER_BYTES..).ok_or_else(corrupt)?;
        }
        let (length, rest) = self.rest.split_first_chunk().ok_or_else(corrupt)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| corrupt())?;
        let (block, rest) = rest.split_at_checked(length).ok_or_else(corrupt)?;
        self.rest = rest;
        Ok(block)
    }

    fn decompress(&mut self, block: &[u8], left: u64) -> Result<(), CompressionError> {
        let corrupt = |error: snap::Error| CompressionError::Corrupt(error.to_string());
        let length = snap::raw::decompress_len(block).map_err(corrupt)?;
        if length > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
            let claim = format!("{} bytes of Snappy cannot become {length}", block.len());
            return Err(CompressionError::Corrupt(claim));
        }
        if length as u64 > left {
            return Err(CompressionError::TooLarge(left));
        }
        self.block.clear();
        self.block.resize(length, 0);
        self.used = 0;
        self.decoder.decompress(block, &mut self.block).map_err(corrupt)?;
        Ok(())
    }
}

/// Compresses `plain` and appends the result to `into`.
///
/// # Errors
/// [`CompressionError::Corrupt`] with the codec's reason; memory is the only one known.
pub fn compress(how: Compression, plain: &[u8], into: &mut Vec<u8>) -> Result<(), CompressionError> {
    match how.codec {
        Codec::None => into.extend_from_slice(plain),
        Codec::Gzip => {
            let level = how.level.and_then(|level| u32::try_from(level).ok()).unwrap_or(6).min(9);
            let mut encoder = flate2::write::GzEncoder::new(into, flate2::Compression::new(level));
            encoder.write_all(plain)?;
            encoder.finish()?;
        }
        Codec::Snappy => compress_snappy(plain, into)?,
        Codec::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, into);
            encoder.write_all(plain)?;
            encoder.finish().map_err(io::Error::from)?;
        }
        Codec::Zstd => {
            let range = zstd::compression_level_range();
            let level = how.level.unwrap_or(3).clamp(*range.start(), *range.end());
            let mut encoder = zstd::stream::write::Encoder::new(into, level)?;
            encoder.write_all(plain)?;
            encoder.finish()?;
        }
    }
    Ok(())
}

fn compress_snappy(plain: &[u8], into: &mut Vec<u8>) -> Result<(), CompressionError> {
    into.extend_from_slice(&XERIAL_MAGIC);
    into.extend_from_slice(&1_i32.to_be_bytes());
    into.extend_from_slice(&1_i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let compressed =
            encoder.compress_vec(block).map_err(|error| CompressionError::Corrupt(error.to_string()))?;
        let length = i32::try_from(compressed.len()).unwrap_or(i32::MAX);
        into.extend_from_slice(&length.to_be_bytes());
        into.extend_from_slice(&compressed);
    }
    Ok(())
}

#[cfg(test)]
#[path = "compression_test.rs"]
mod tests;
