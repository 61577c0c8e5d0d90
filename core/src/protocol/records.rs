//! The records inside a batch, magic 2: a walk over borrowed bytes that allocates nothing, and the same walk over a
//! decompressed stream, which keeps neither keys nor values.
//!
//! ```text
//! length varint | attributes i8 | timestamp delta varlong | offset delta varint
//! key length varint, key | value length varint, value | header count varint, headers: (name, value)…
//! ```
//! Lengths are zigzag varints; −1 stands for null. A varint that is longer than its type, or overflows it, is refused.

use thiserror::Error;

use super::compression::{CHUNK_BYTES, CompressionError, Decompressor};

/// What is wrong with a record.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// The bytes end inside a record, or before the last one that the batch counts.
    #[error("the records end early")]
    Truncated,
    /// A number has too many bytes or bits.
    #[error("a number in a record does not fit its type")]
    Overflow,
    /// A length below −1, or below 0 where null is not allowed.
    #[error("a length of {0} in a record")]
    Length(i32),
    /// The fields are shorter or longer than the record says it is.
    #[error("a record's fields do not add up to its length")]
    Mismatch,
    /// Bytes follow the last record that the batch counts.
    #[error("bytes follow the last record")]
    Trailing,
    /// The records do not decompress.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// The numbers of a record, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordShape {
    /// Distance from the batch's base timestamp, in ms.
    pub timestamp_delta: i64,
    /// Distance from the batch's base offset.
    pub offset_delta: i32,
    /// Length of the key; `None` if there is no key.
    pub key_bytes: Option<usize>,
    /// Length of the value; `None` for a tombstone.
    pub value_bytes: Option<usize>,
    /// How many headers.
    pub headers: usize,
}

/// A record in borrowed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Distance from the batch's base timestamp, in ms.
    pub timestamp_delta: i64,
    /// Distance from the batch's base offset.
    pub offset_delta: i32,
    /// The key; `None` if there is none.
    pub key: Option<&'a [u8]>,
    /// The value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, in order.
    pub headers: Headers<'a>,
}

/// The headers of a record, in order, with duplicates. They were walked before, so that iterating cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    left: usize,
    bytes: &'a [u8],
}

/// One header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader<'a> {
    /// Its name; clients write UTF-8, nobody checks it.
    pub name: &'a [u8],
    /// Its value; `None` for null.
    pub value: Option<&'a [u8]>,
}

impl Headers<'_> {
    /// How many are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = RecordHeader<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut cursor = Cursor(self.bytes);
        let name = cursor.nullable_bytes().ok()??;
        let value = cursor.nullable_bytes().ok()?;
        self.bytes = cursor.0;
        Some(RecordHeader { name, value })
    }
}

/// The records of an uncompressed payload. Ends after the first error; the last record also checks that nothing
/// follows it.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    left: i32,
}

impl<'a> Records<'a> {
    /// The `count` records of `payload`, which must not be compressed. A negative count is none.
    #[must_use]
    pub fn of(payload: &'a [u8], count: i32) -> Self {
        Self { cursor: Cursor(payload), left: count }
    }

    fn read(&mut self) -> Result<Record<'a>, RecordError> {
        let length = length_of(self.cursor.varint()?)?;
        let (body, rest) = self.cursor.0.split_at_checked(length).ok_or(RecordError::Truncated)?;
        self.cursor = Cursor(rest);
        let mut body = Cursor(body);
        body.byte()?;
        let timestamp_delta = body.varlong()?;
        let offset_delta = body.varint()?;
        let key = body.nullable_bytes()?;
        let value = body.nullable_bytes()?;
        let count = length_of(body.varint()?)?;
        let headers = Headers { left: count, bytes: body.0 };
        body.skip_headers(count)?;
        if !body.0.is_empty() {
            return Err(RecordError::Mismatch);
        }
        if self.left == 0 && !self.cursor.0.is_empty() {
            return Err(RecordError::Trailing);
        }
        Ok(Record { timestamp_delta, offset_delta, key, value, headers })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}

/// Walks the `count` records of a payload and shows each one's shape; nothing may follow the last.
///
/// # Errors
/// The first thing that is wrong with a record, or what `visit` returns.
pub fn walk<E: From<RecordError>>(
    payload: &[u8],
    count: i32,
    mut visit: impl FnMut(RecordShape) -> Result<(), E>,
) -> Result<(), E> {
    for record in Records::of(payload, count) {
        visit(record?.shape())?;
    }
    Ok(())
}

/// [`walk`] over a stream.
///
/// # Errors
/// As [`walk`]; and what does not decompress.
pub fn walk_stream<E: From<RecordError>>(
    decompressor: Decompressor<'_>,
    count: i32,
    mut visit: impl FnMut(RecordShape) -> Result<(), E>,
) -> Result<(), E> {
    let mut stream = Stream { decompressor, chunk: vec![0; CHUNK_BYTES], used: 0, filled: 0, left: 0 };
    for _ in 0..count {
        visit(stream.shape()?)?;
    }
    stream.left = 1;
    match stream.byte() {
        Err(RecordError::Truncated) => Ok(()),
        Ok(_) => Err(RecordError::Trailing.into()),
        Err(error) => Err(error.into()),
    }
}

impl Record<'_> {
    /// Its numbers.
    #[must_use]
    pub fn shape(&self) -> RecordShape {
        RecordShape {
            timestamp_delta: self.timestamp_delta,
            offset_delta: self.offset_delta,
            key_bytes: self.key.map(<[u8]>::len),
            value_bytes: self.value.map(<[u8]>::len),
            headers: self.headers.len(),
        }
    }
}

fn length_of(length: i32) -> Result<usize, RecordError> {
    usize::try_from(length).map_err(|_| RecordError::Length(length))
}

fn nullable_length_of(length: i32) -> Result<Option<usize>, RecordError> {
    if length == -1 { Ok(None) } else { length_of(length).map(Some) }
}

/// Where the fields of a record come from, one after the other.
trait Source {
    fn byte(&mut self) -> Result<u8, RecordError>;

    fn skip(&mut self, count: usize) -> Result<(), RecordError>;

    fn varint(&mut self) -> Result<i32, RecordError> {
        let raw = self.unsigned(5)?;
        let raw = u32::try_from(raw).map_err(|_| RecordError::Overflow)?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    fn varlong(&mut self) -> Result<i64, RecordError> {
        let raw = self.unsigned(10)?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    fn unsigned(&mut self, bytes_max: u32) -> Result<u64, RecordError> {
        let mut value = 0_u64;
        for place in 0..bytes_max {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if place == 9 && bits > 1 {
                return Err(RecordError::Overflow);
            }
            value |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordError::Overflow)
    }

    fn skip_nullable(&mut self) -> Result<Option<usize>, RecordError> {
        let length = nullable_length_of(self.varint()?)?;
        self.skip(length.unwrap_or(0))?;
        Ok(length)
    }

    fn skip_headers(&mut self, count: usize) -> Result<(), RecordError> {
        for _ in 0..count {
            let name = length_of(self.varint()?)?;
            self.skip(name)?;
            self.skip_nullable()?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        let Some(length) = nullable_length_of(self.varint()?)? else { return Ok(None) };
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(Some(bytes))
    }
}

impl Source for Cursor<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        let (byte, rest) = self.0.split_first().ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(*byte)
    }

    #[inline]
    fn skip(&mut self, count: usize) -> Result<(), RecordError> {
        self.0 = self.0.get(count..).ok_or(RecordError::Truncated)?;
        Ok(())
    }
}

/// A decompressed stream, seen through one chunk. `left` counts down the bytes of the record that is being read.
struct Stream<'a> {
    decompressor: Decompressor<'a>,
    chunk: Vec<u8>,
    used: usize,
    filled: usize,
    left: usize,
}

impl Stream<'_> {
    fn shape(&mut self) -> Result<RecordShape, RecordError> {
        // The length of the record stands outside of the record.
        self.left = 5;
        self.left = length_of(self.varint()?)?;
        self.byte()?;
        let timestamp_delta = self.varlong()?;
        let offset_delta = self.varint()?;
        let key_bytes = self.skip_nullable()?;
        let value_bytes = self.skip_nullable()?;
        let headers = length_of(self.varint()?)?;
        self.skip_headers(headers)?;
        if self.left != 0 {
            return Err(RecordError::Mismatch);
        }
        Ok(RecordShape { timestamp_delta, offset_delta, key_bytes, value_bytes, headers })
    }

    /// Makes sure that a byte is in the chunk; false at the end of the stream.
    fn refill(&mut self) -> Result<bool, RecordError> {
        if self.used == self.filled {
            self.used = 0;
            self.filled = self.decompressor.fill(&mut self.chunk)?;
        }
        Ok(self.filled > 0)
    }
}

impl Source for Stream<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        self.left = self.left.checked_sub(1).ok_or(RecordError::Mismatch)?;
        if !self.refill()? {
            return Err(RecordError::Truncated);
        }
        let byte = self.chunk.get(self.used).copied().ok_or(RecordError::Truncated)?;
        self.used += 1;
        Ok(byte)
    }

    fn skip(&mut self, mut count: usize) -> Result<(), RecordError> {
        self.left = self.left.checked_sub(count).ok_or(RecordError::Mismatch)?;
        while count > 0 {
            if !self.refill()? {
                return Err(RecordError::Truncated);
            }
            let step = count.min(self.filled - self.used);
            self.used += step;
            count -= step;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "records_test.rs"]
mod tests;
