//! The primitive types of Kafka's protocol: a bounds-checked reader over borrowed bytes and a writer into a buffer.
//!
//! Nothing here allocates from a length that was read.

use bytes::{BufMut, BytesMut};
use thiserror::Error;
use uuid::Uuid;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end inside a value.
    #[error("the message ends inside a value")]
    Truncated,
    /// A length below -1, or a null where the protocol has none.
    #[error("a length is negative")]
    NegativeLength,
    /// More elements than bytes could hold.
    #[error("an array claims more elements than its bytes can hold")]
    CountTooLarge,
    /// A variable-length number of more than five bytes (ten for 64 bits), or beyond its type.
    #[error("a variable-length number is too long")]
    Varint,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// Tags out of order or twice (KIP-482 demands ascending tags).
    #[error("tagged fields are not in ascending order")]
    TagOrder,
    /// A tagged field does not end where its length says.
    #[error("a tagged field has another length than it claims")]
    TagLength,
    /// Bytes are left after the message.
    #[error("bytes are left after the message")]
    Trailing,
    /// More elements in all than one request may have.
    #[error("the message has more elements than one request may have")]
    TooManyElements,
    /// The message has no such version, or the key is not known.
    #[error("the message is not known in this version")]
    Version,
    /// The codec refused what has the right shape, such as a null where the schema has none.
    #[error("a field's value is not permitted")]
    Value,
}

/// Reads primitives from borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    start: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, start: bytes.len() }
    }

    /// The bytes not yet read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes have been read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.start - self.rest.len()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// INT8.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn i8(&mut self) -> Result<i8, Malformed> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    /// BOOLEAN: zero is false.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        Ok(self.i8()? != 0)
    }

    /// INT16.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// INT32.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// INT64.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// UUID.
    ///
    /// # Errors
    /// [`Malformed::Truncated`].
    pub fn uuid(&mut self) -> Result<Uuid, Malformed> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// UNSIGNED_VARINT: at most five bytes, at most 32 bits.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::Varint`].
    pub fn unsigned_varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            if shift == 28 && byte > 0x0f {
                return Err(Malformed::Varint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Varint)
    }

    /// The length of a string or byte sequence: `None` for null.
    ///
    /// # Errors
    /// [`Malformed::NegativeLength`] below -1, and the reader's own.
    fn length(&mut self, width: Width) -> Result<Option<usize>, Malformed> {
        let length = match width {
            Width::Compact => {
                return Ok(self.unsigned_varint()?.checked_sub(1).map(|length| length as usize));
            }
            Width::Short => i32::from(self.i16()?),
            Width::Int => self.i32()?,
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Malformed::NegativeLength),
        }
    }

    /// A string's bytes, not checked to be UTF-8; `None` for null.
    ///
    /// # Errors
    /// As [`Reader::nullable_string`], but for UTF-8.
    pub fn string_bytes(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, Malformed> {
        let width = if flexible { Width::Compact } else { Width::Short };
        self.length(width)?.map(|length| self.take(length)).transpose()
    }

    /// NULLABLE_STRING or COMPACT_NULLABLE_STRING.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::NegativeLength`], [`Malformed::Varint`], [`Malformed::NotUtf8`].
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<&'a str>, Malformed> {
        let bytes = self.string_bytes(flexible)?;
        bytes.map(|bytes| str::from_utf8(bytes).map_err(|_| Malformed::NotUtf8)).transpose()
    }

    /// STRING or COMPACT_STRING.
    ///
    /// # Errors
    /// As [`Reader::nullable_string`]; [`Malformed::NegativeLength`] for null.
    pub fn string(&mut self, flexible: bool) -> Result<&'a str, Malformed> {
        self.nullable_string(flexible)?.ok_or(Malformed::NegativeLength)
    }

    /// NULLABLE_BYTES or COMPACT_NULLABLE_BYTES, which RECORDS also are.
    ///
    /// # Errors
    /// [`Malformed::Truncated`], [`Malformed::NegativeLength`], [`Malformed::Varint`].
    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, Malformed> {
        let width = if flexible { Width::Compact } else { Width::Int };
        self.length(width)?.map(|length| self.take(length)).transpose()
    }

    /// An array's count, `None` for null. `element_min` is the least number of bytes that one element takes, so that a
    /// count can never be larger than the bytes that are left.
    ///
    /// # Errors
    /// [`Malformed::CountTooLarge`], and as for a length.
    pub fn nullable_count(&mut self, flexible: bool, element_min: usize) -> Result<Option<usize>, Malformed> {
        let Some(count) = self.length(if flexible { Width::Compact } else { Width::Int })? else {
            return Ok(None);
        };
        match count.checked_mul(element_min.max(1)) {
            Some(bytes) if bytes <= self.rest.len() => Ok(Some(count)),
            _ => Err(Malformed::CountTooLarge),
        }
    }

    /// As [`Reader::nullable_count`], for an array that is never null.
    ///
    /// # Errors
    /// [`Malformed::NegativeLength`] for null, and as for a nullable array.
    pub fn count(&mut self, flexible: bool, element_min: usize) -> Result<usize, Malformed> {
        self.nullable_count(flexible, element_min)?.ok_or(Malformed::NegativeLength)
    }

    /// The tagged fields at the end of a flexible structure: calls `field` with each tag and its bytes, in order, and
    /// refuses tags that do not ascend. Does nothing in a version that is not flexible.
    ///
    /// # Errors
    /// [`Malformed::TagOrder`], the reader's own and what `field` returns.
    pub fn tags(
        &mut self,
        flexible: bool,
        mut field: impl FnMut(u32, Reader<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if !flexible {
            return Ok(());
        }
        let mut last = None;
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            if last >= Some(tag) {
                return Err(Malformed::TagOrder);
            }
            last = Some(tag);
            let length = self.unsigned_varint()?;
            field(tag, Reader::new(self.take(length as usize)?))?;
        }
        Ok(())
    }

    /// Passes over tagged fields that mean nothing here.
    ///
    /// # Errors
    /// As [`Reader::tags`].
    pub fn skip_tags(&mut self, flexible: bool) -> Result<(), Malformed> {
        self.tags(flexible, |_, _| Ok(()))
    }

    /// Checks that everything was read.
    ///
    /// # Errors
    /// [`Malformed::Trailing`].
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

#[derive(Clone, Copy)]
enum Width {
    /// UNSIGNED_VARINT of the length plus one.
    Compact,
    Short,
    Int,
}

/// Writes primitives to the end of a buffer.
pub trait Writer {
    /// BOOLEAN.
    fn bool(&mut self, value: bool);
    /// UNSIGNED_VARINT.
    fn unsigned_varint(&mut self, value: u32);
    /// NULLABLE_STRING or COMPACT_NULLABLE_STRING. A string is cut at the 32,767 bytes that the old form can hold.
    fn nullable_string(&mut self, flexible: bool, value: Option<&str>);
    /// NULLABLE_BYTES or COMPACT_NULLABLE_BYTES.
    fn nullable_bytes(&mut self, flexible: bool, value: Option<&[u8]>);
    /// The length that precedes byte sequences and arrays: `None` for null.
    fn count(&mut self, flexible: bool, count: Option<usize>);
    /// UUID.
    fn uuid(&mut self, value: Uuid);
    /// One tagged field; the count of fields and their order are the caller's.
    fn tag(&mut self, tag: u32, bytes: &[u8]);
}

impl Writer for BytesMut {
    fn bool(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while let [low, ..] = value.to_le_bytes()
            && value >= 0x80
        {
            self.put_u8(low | 0x80);
            value >>= 7;
        }
        let [last, ..] = value.to_le_bytes();
        self.put_u8(last);
    }

    fn nullable_string(&mut self, flexible: bool, value: Option<&str>) {
        if flexible {
            return self.nullable_bytes(true, value.map(str::as_bytes));
        }
        let Some(value) = value else { return self.put_i16(-1) };
        let mut end = value.len().min(i16::MAX as usize);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = value.get(..end).unwrap_or_default();
        self.put_i16(i16::try_from(value.len()).unwrap_or(i16::MAX));
        self.put_slice(value.as_bytes());
    }

    fn nullable_bytes(&mut self, flexible: bool, value: Option<&[u8]>) {
        self.count(flexible, value.map(<[u8]>::len));
        self.put_slice(value.unwrap_or_default());
    }

    fn count(&mut self, flexible: bool, count: Option<usize>) {
        // No message of ours comes near 2 GiB; a frame of that length would be refused by its reader anyway.
        let count = count.map(|count| i32::try_from(count).unwrap_or(i32::MAX));
        if flexible {
            self.unsigned_varint(count.map_or(0, |count| count.unsigned_abs() + 1));
        } else {
            self.put_i32(count.unwrap_or(-1));
        }
    }

    fn uuid(&mut self, value: Uuid) {
        self.put_slice(value.as_bytes());
    }

    fn tag(&mut self, tag: u32, bytes: &[u8]) {
        self.unsigned_varint(tag);
        self.unsigned_varint(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.put_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_long_ones_are_refused() {
        for value in [0, 1, 127, 128, 300, 1 << 14, 1 << 21, 1 << 28, u32::MAX] {
            let mut buffer = BytesMut::new();
            buffer.unsigned_varint(value);
            assert_eq!(Reader::new(&buffer).unsigned_varint(), Ok(value));
        }
        let six = [0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert_eq!(Reader::new(&six).unsigned_varint(), Err(Malformed::Varint));
        let beyond = [0xff, 0xff, 0xff, 0xff, 0x1f];
        assert_eq!(Reader::new(&beyond).unsigned_varint(), Err(Malformed::Varint));
        assert_eq!(Reader::new(&[0x80]).unsigned_varint(), Err(Malformed::Truncated));
    }

    #[test]
    fn lengths_are_checked_against_what_is_left() {
        let mut reader = Reader::new(&[0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(reader.count(false, 1), Err(Malformed::CountTooLarge));
        assert_eq!(Reader::new(&[0xff, 0xfe]).nullable_string(false), Err(Malformed::NegativeLength));
        assert_eq!(Reader::new(&[0xff, 0xff]).nullable_string(false), Ok(None));
        assert_eq!(Reader::new(&[0, 9, b'a']).nullable_string(false), Err(Malformed::Truncated));
        assert_eq!(Reader::new(&[2, 0xff]).nullable_string(true), Err(Malformed::NotUtf8));
    }

    #[test]
    fn tags_must_ascend() {
        let mut seen = Vec::new();
        let mut reader = Reader::new(&[2, 1, 1, 7, 3, 0]);
        let mut keep = |tag, value: Reader<'_>| {
            seen.push((tag, value.rest().to_vec()));
            Ok(())
        };
        reader.tags(true, &mut keep).unwrap();
        assert_eq!(seen, [(1, vec![7]), (3, vec![])]);
        for bytes in [&[2, 1, 0, 1, 0][..], &[2, 3, 0, 1, 0]] {
            assert_eq!(Reader::new(bytes).skip_tags(true), Err(Malformed::TagOrder));
        }
        assert_eq!(
            Reader::new(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).skip_tags(true),
            Err(Malformed::Truncated)
        );
    }

    #[test]
    fn an_old_string_is_cut_between_characters() {
        let mut buffer = BytesMut::new();
        buffer.nullable_string(false, Some(&"ä".repeat(20_000)));
        let read = Reader::new(&buffer).string(false).unwrap().to_owned();
        assert_eq!(read, "ä".repeat(16_383));
    }
}
