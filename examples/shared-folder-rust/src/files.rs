//! The small things that are done to files.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32 of several pieces, as zip and PNG have it.
pub(crate) fn crc(pieces: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
    pieces.iter().for_each(|piece| digest.update(piece));
    // A CRC of 32 bits is in the lower half.
    digest.finalize() as u32
}

/// Appends a CRC and four zeros, so that what follows is aligned.
pub(crate) fn seal(mut record: Vec<u8>) -> Vec<u8> {
    let sum = crc(&[&record]);
    record.extend(sum.to_le_bytes());
    record.extend([0; 4]);
    record
}

/// The record without its seal, if the seal is right.
pub(crate) fn unseal(sealed: &[u8]) -> Option<&[u8]> {
    let (record, seal) = sealed.split_at_checked(sealed.len().checked_sub(8)?)?;
    (seal.first_chunk::<4>()? == &crc(&[record]).to_le_bytes()).then_some(record)
}

/// Takes fixed pieces off the front of a record.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (piece, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*piece)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Syncs a folder, so that a name in it survives a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Replaces a file as a whole and durably.
pub(crate) fn replace(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let fresh = folder.join(format!("{name}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, folder.join(name))?;
    sync_folder(folder)
}
