//! Fixed-width little-endian numbers in byte strings: the shape of everything this crate keeps in files.

use std::io::IoSlice;

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32C over several pieces, as if they were one.
#[must_use]
pub fn crc32c(pieces: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    pieces.iter().for_each(|piece| digest.update(piece));
    u32::try_from(digest.finalize()).unwrap_or_default()
}

/// Appends fixed-width fields to a byte string.
pub trait Put {
    /// Appends bytes as they are.
    fn bytes(&mut self, bytes: &[u8]);
    /// Appends one byte.
    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }
    /// Appends a number, little-endian.
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }
    /// Appends a number, little-endian.
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    /// Appends a number, little-endian.
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
}

impl Put for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Takes fixed-width fields off the front of a byte string. `None` where it is too short; what was taken before stays
/// taken.
#[derive(Clone, Copy, Debug)]
pub struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    /// Takes `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Takes as many bytes as the array has.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// Takes a number.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Takes a number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a number.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// One slice for a vectored write.
pub(crate) fn slice(bytes: &[u8]) -> [IoSlice<'_>; 1] {
    [IoSlice::new(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli_and_does_not_see_the_seams() {
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
        assert_eq!(crc32c(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }

    #[test]
    fn a_short_string_gives_nothing() {
        let mut bytes = Vec::new();
        bytes.u16(7);
        bytes.u64(9);
        let mut take = Take(&bytes);
        assert_eq!((take.u16(), take.u64(), take.u8()), (Some(7), Some(9), None));
    }
}
