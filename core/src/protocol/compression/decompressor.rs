//! Decompression through a cap, piece by piece.

use std::io::{self, Read};

use super::{Codec, CompressionError, XERIAL_MAGIC};

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
pub(in super::super) const CHUNK_BYTES: usize = 16 << 10;

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

/// Magic, version and lowest compatible version.
const XERIAL_HEADER_BYTES: usize = 16;
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
