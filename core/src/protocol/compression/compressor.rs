//! Compression into what every Kafka client reads.

use std::io::{self, Write};

use super::{
    Codec, Compression, CompressionError, XERIAL_MAGIC,
    decompressor::{CHUNK_BYTES, Decompressor},
};

/// What snappy-java puts into one block.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// Compresses `plain` and appends the result to `into`.
///
/// # Errors
/// [`CompressionError::Corrupt`] with the codec's reason; memory is the only one known.
pub fn compress(how: Compression, plain: &[u8], into: &mut Vec<u8>) -> Result<(), CompressionError> {
    let mut compressor = Compressor::new(how, Output { into, max: usize::MAX })?;
    compressor.write_all(plain)?;
    compressor.finish()
}

/// Decompresses and compresses again, through one chunk, and appends the result to `into`.
///
/// # Errors
/// As [`Decompressor::fill`]; [`CompressionError::TooLarge`] once `into` would hold more than `bytes_max` bytes.
pub fn recompress(
    mut from: Decompressor<'_>,
    how: Compression,
    into: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(), CompressionError> {
    let too_large = |error: CompressionError| match error {
        CompressionError::TooLarge(_) => CompressionError::TooLarge(bytes_max as u64),
        other => other,
    };
    let mut compressor = Compressor::new(how, Output { into, max: bytes_max })?;
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let count = from.fill(&mut chunk)?;
        if count == 0 {
            return compressor.finish().map_err(too_large);
        }
        let plain = chunk.get(..count).unwrap_or_default();
        compressor.write_all(plain).map_err(CompressionError::from).map_err(too_large)?;
    }
}

/// A vector that refuses to grow beyond a length.
struct Output<'a> {
    into: &'a mut Vec<u8>,
    max: usize,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.into.len().saturating_add(bytes.len()) > self.max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.into.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Compressor<'a> {
    None(Output<'a>),
    Gzip(Box<flate2::write::GzEncoder<Output<'a>>>),
    Snappy(Box<SnappyWriter<'a>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Output<'a>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Output<'a>>>),
}

impl<'a> Compressor<'a> {
    fn new(how: Compression, output: Output<'a>) -> Result<Self, CompressionError> {
        Ok(match how.codec {
            Codec::None => Self::None(output),
            Codec::Gzip => {
                let level = how.level.and_then(|level| u32::try_from(level).ok()).unwrap_or(6).min(9);
                Self::Gzip(Box::new(flate2::write::GzEncoder::new(output, flate2::Compression::new(level))))
            }
            Codec::Snappy => Self::Snappy(Box::new(SnappyWriter::new(output)?)),
            Codec::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                Self::Lz4(Box::new(lz4_flex::frame::FrameEncoder::with_frame_info(info, output)))
            }
            Codec::Zstd => {
                let range = zstd::compression_level_range();
                let level = how.level.unwrap_or(3).clamp(*range.start(), *range.end());
                Self::Zstd(Box::new(zstd::stream::write::Encoder::new(output, level)?))
            }
        })
    }

    fn write_all(&mut self, plain: &[u8]) -> io::Result<()> {
        match self {
            Self::None(output) => output.write_all(plain),
            Self::Gzip(encoder) => encoder.write_all(plain),
            Self::Snappy(writer) => writer.write_all(plain),
            Self::Lz4(encoder) => encoder.write_all(plain),
            Self::Zstd(encoder) => encoder.write_all(plain),
        }
    }

    fn finish(self) -> Result<(), CompressionError> {
        match self {
            Self::None(_) => {}
            Self::Gzip(encoder) => {
                encoder.finish()?;
            }
            Self::Snappy(mut writer) => writer.flush_block()?,
            Self::Lz4(encoder) => {
                encoder.finish().map_err(io::Error::from)?;
            }
            Self::Zstd(encoder) => {
                encoder.finish()?;
            }
        }
        Ok(())
    }
}

/// Writes xerial's frames.
struct SnappyWriter<'a> {
    output: Output<'a>,
    block: Vec<u8>,
    encoder: snap::raw::Encoder,
}

impl<'a> SnappyWriter<'a> {
    fn new(mut output: Output<'a>) -> io::Result<Self> {
        output.write_all(&XERIAL_MAGIC)?;
        // The version and the lowest one that can read it.
        output.write_all(&[0, 0, 0, 1, 0, 0, 0, 1])?;
        Ok(Self { output, block: Vec::new(), encoder: snap::raw::Encoder::new() })
    }

    fn write_all(&mut self, mut plain: &[u8]) -> io::Result<()> {
        while !plain.is_empty() {
            let room = XERIAL_BLOCK_BYTES - self.block.len();
            let (now, rest) = plain.split_at(room.min(plain.len()));
            self.block.extend_from_slice(now);
            plain = rest;
            if self.block.len() == XERIAL_BLOCK_BYTES {
                self.flush_block()?;
            }
        }
        Ok(())
    }

    fn flush_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let compressed = self.encoder.compress_vec(&self.block).map_err(io::Error::other)?;
        let length = i32::try_from(compressed.len()).unwrap_or(i32::MAX);
        self.output.write_all(&length.to_be_bytes())?;
        self.output.write_all(&compressed)?;
        self.block.clear();
        Ok(())
    }
}
