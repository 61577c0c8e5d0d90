//! The guard that stands before every decoding by `kafka_protocol`: it walks a message's shape without allocating and
//! refuses what would make the decoder allocate from a length that no bytes stand behind.
//!
//! A shape is a text, one token a field, in the order of the wire:
//!
//! | token | field |
//! |--|--|
//! | `b` `h` `i` `l` `u` | one byte, INT16, INT32, INT64 (or FLOAT64), UUID |
//! | `s` `y` | STRING, BYTES; null or not |
//! | `( x )` | array of a primitive |
//! | `[ … ]` | array of structures |
//! | `{ … }` | structure that may be null |
//! | `< 0 x >` | tagged field 0 with the value x |
//!
//! A token may carry versions: `b4+` from version 4 on, `b8-10` from 8 to 10, `(-5` up to 5. In a flexible version
//! every structure ends with tagged fields and lengths are compact, without being told.

use super::primitives::{Malformed, Reader};

/// Elements of arrays and tagged fields that one message may have in all: an element of one byte on the wire takes up
/// to 70 bytes once decoded, so that this bounds a request at some 7 MB.
pub const ELEMENTS_MAX: usize = 100_000;

/// How deep shapes nest; the deepest of Kafka's is 5.
const DEPTH_MAX: usize = 8;

/// Walks `body` by `shape`, to its last byte.
///
/// # Errors
/// [`Malformed`], for what a decoder must not see.
pub fn check(shape: &str, body: &[u8], version: i16, flexible: bool) -> Result<(), Malformed> {
    let mut walk = Walk { reader: Reader::new(body), version, flexible, elements: ELEMENTS_MAX };
    walk.structure(shape, DEPTH_MAX)?;
    walk.reader.finish()
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn structure(&mut self, shape: &str, depth: usize) -> Result<(), Malformed> {
        let version = self.version;
        for field in Fields(shape).filter(|field| field.kind != b'<' && field.is_in(version)) {
            self.value(&field, depth)?;
        }
        self.tags(shape, depth)
    }

    fn value(&mut self, field: &Field<'_>, depth: usize) -> Result<(), Malformed> {
        match field.kind {
            b'b' => self.reader.take(1).map(drop),
            b'h' => self.reader.take(2).map(drop),
            b'i' => self.reader.take(4).map(drop),
            b'l' => self.reader.take(8).map(drop),
            b'u' => self.reader.take(16).map(drop),
            b's' => self.reader.nullable_string(self.flexible).map(drop),
            b'y' => self.reader.nullable_bytes(self.flexible).map(drop),
            b'(' | b'[' => self.elements(field, depth.checked_sub(1).ok_or(Malformed::Version)?),
            b'{' => match self.reader.i8()? {
                1 => self.structure(field.inner, depth.checked_sub(1).ok_or(Malformed::Version)?),
                _ => Ok(()),
            },
            _ => Err(Malformed::Version),
        }
    }

    fn elements(&mut self, array: &Field<'_>, depth: usize) -> Result<(), Malformed> {
        let mut least = fields_min(array.inner, self.version, self.flexible);
        if array.kind == b'[' {
            least += usize::from(self.flexible);
        }
        let count = self.reader.nullable_count(self.flexible, least)?.unwrap_or(0);
        self.elements = self.elements.checked_sub(count).ok_or(Malformed::TooManyElements)?;
        for _ in 0..count {
            if array.kind == b'[' {
                self.structure(array.inner, depth)?;
            } else if let Some(element) = Fields(array.inner).next() {
                self.value(&element, depth)?;
            }
        }
        Ok(())
    }

    fn tags(&mut self, shape: &str, depth: usize) -> Result<(), Malformed> {
        if !self.flexible {
            return Ok(());
        }
        let mut elements = self.elements;
        let mut reader = self.reader;
        reader.tags(true, |tag, value| {
            elements = elements.checked_sub(1).ok_or(Malformed::TooManyElements)?;
            let mut fields = Fields(shape).filter(|field| field.kind == b'<');
            let Some(known) = fields.find(|field| field.tag() == Some(tag)) else { return Ok(()) };
            if !known.is_in(self.version) {
                return Err(Malformed::Version);
            }
            let mut inner = Walk { reader: value, version: self.version, flexible: true, elements };
            for field in Fields(known.inner).skip(1) {
                inner.value(&field, depth)?;
            }
            elements = inner.elements;
            inner.reader.finish().map_err(|_| Malformed::TagLength)
        })?;
        self.elements = elements;
        self.reader = reader;
        Ok(())
    }
}

/// The least number of bytes that a structure's fields take, without its tagged ones.
fn fields_min(shape: &str, version: i16, flexible: bool) -> usize {
    let least = |field: Field<'_>| match field.kind {
        b'b' | b'{' => 1,
        b'h' => 2,
        b'i' => 4,
        b'l' => 8,
        b'u' => 16,
        b's' if !flexible => 2,
        b'y' | b'(' | b'[' if !flexible => 4,
        b'<' => 0,
        _ => 1,
    };
    Fields(shape).filter(|field| field.is_in(version)).map(least).sum()
}

/// One token of a shape, with what its bracket holds.
struct Field<'s> {
    kind: u8,
    versions: &'s str,
    inner: &'s str,
}

impl Field<'_> {
    fn is_in(&self, version: i16) -> bool {
        let number =
            |text: &str, default| if text.is_empty() { default } else { text.parse().unwrap_or(default) };
        match (self.versions.strip_suffix('+'), self.versions.split_once('-')) {
            (Some(from), _) => version >= number(from, 0),
            (None, Some((from, to))) => version >= number(from, 0) && version <= number(to, i16::MAX),
            (None, None) => self.versions.is_empty() || version == number(self.versions, -1),
        }
    }

    fn tag(&self) -> Option<u32> {
        self.inner.split_ascii_whitespace().next()?.parse().ok()
    }
}

/// The fields of a structure's shape.
struct Fields<'s>(&'s str);

impl<'s> Iterator for Fields<'s> {
    type Item = Field<'s>;

    fn next(&mut self) -> Option<Field<'s>> {
        let text = self.0.trim_ascii_start();
        let kind = *text.as_bytes().first()?;
        let end = text.find(' ').unwrap_or(text.len());
        let (token, rest) = text.split_at_checked(end)?;
        let versions = token.get(1..)?;
        if !matches!(kind, b'(' | b'[' | b'{' | b'<') {
            self.0 = rest;
            return Some(Field { kind, versions, inner: "" });
        }
        let close = closing(rest)?;
        let (inner, after) = rest.split_at_checked(close)?;
        self.0 = after.get(1..)?;
        Some(Field { kind, versions, inner })
    }
}

/// Where the bracket closes that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' | b'<' => open += 1,
            b')' | b']' | b'}' | b'>' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
#[path = "guard_test.rs"]
mod tests;
