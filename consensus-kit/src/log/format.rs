//! What a segment of the log looks like on disk.
//!
//! ```text
//! segment  = header batch*
//! header   = magic "QRLG" version:u16 restart:u8 zero:u8 file:[16] log:[16] first_batch:u64
//!            term:u64 voted_for:u64 commit:u64            the vote as it was when the segment began
//!            index:u64 epoch:u64 chain:[16]               the last entry before the segment
//!            crc:u32
//! batch    = magic "QRBT" length:u32 number:u64 records:u32 crc:u32      length of all records
//! record   = length:u32 crc:u32 kind:u8 body                             length of kind and body
//! entry    = 1 index:u64 epoch:u64 engine:u8 chain:[16] data
//! vote     = 2 term:u64 voted_for:u64 commit:u64                         0 or node + 1
//! truncate = 3 index:u64                                                 entries after it are void
//! ```
//! Numbers are little-endian. Every checksum also covers the file's random identity and the position, so that bytes
//! which belong elsewhere are no record here. A batch counts as a whole or not at all; batches are numbered through
//! all segments, and a segment ends where the next one's `first_batch` says.

use bytes::Bytes;
use quorate_core::{
    consensus::{Chain, LogId},
    ids::{Epoch, LogIndex, NodeId},
};

use super::{Entry, Point, Vote};
use crate::codec::{Put, Take, crc32c};

const SEGMENT_MAGIC: [u8; 4] = *b"QRLG";
pub(super) const BATCH_MAGIC: [u8; 4] = *b"QRBT";
const VERSION: u16 = 1;
const BATCH_HEADER: usize = 24;
const RECORD_HEADER: usize = 8;
/// The length of a segment's header.
pub(super) const HEADER: usize = 108;

/// Which bytes a checksum stands for: this file, this position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(pub [u8; 16]);

impl FileId {
    fn crc(self, position: u64, pieces: [&[u8]; 2]) -> u32 {
        let [first, second] = pieces;
        crc32c(&[&self.0, &position.to_le_bytes(), first, second])
    }
}

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Everything in older segments is void: the log begins anew behind a snapshot.
    pub(super) restart: bool,
    pub(super) file: FileId,
    pub(super) log: LogId,
    pub(super) first_batch: u64,
    pub(super) vote: Vote,
    pub(super) last: Point,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.bytes(&SEGMENT_MAGIC);
        out.u16(VERSION);
        out.u8(u8::from(self.restart));
        out.u8(0);
        out.bytes(&self.file.0);
        out.bytes(&self.log.0);
        out.u64(self.first_batch);
        put_vote(&mut out, &self.vote);
        out.u64(self.last.index.0);
        out.u64(self.last.epoch.0);
        out.bytes(&self.last.chain.0);
        let crc = crc32c(&[&out]);
        out.u32(crc);
        out
    }

    /// Reads a header off the front of a segment.
    pub(super) fn decode(segment: &[u8]) -> Result<Self, Unreadable> {
        let (bytes, _) = segment.split_at_checked(HEADER).ok_or(Unreadable::Damaged)?;
        let mut take = Take(bytes);
        let header = Self::take(&mut take)?;
        let body = bytes.get(..HEADER - 4).ok_or(Unreadable::Damaged)?;
        if take.u32() == Some(crc32c(&[body])) { Ok(header) } else { Err(Unreadable::Damaged) }
    }

    fn take(take: &mut Take<'_>) -> Result<Self, Unreadable> {
        if take.array() != Some(SEGMENT_MAGIC) {
            return Err(Unreadable::Damaged);
        }
        match take.u16() {
            Some(VERSION) => {}
            Some(other) => return Err(Unreadable::Version(other)),
            None => return Err(Unreadable::Damaged),
        }
        Self::take_fields(take).ok_or(Unreadable::Damaged)
    }

    fn take_fields(take: &mut Take<'_>) -> Option<Self> {
        let restart = take.u8()? != 0;
        let _zero = take.u8()?;
        Some(Self {
            restart,
            file: FileId(take.array()?),
            log: LogId(take.array()?),
            first_batch: take.u64()?,
            vote: take_vote(take)?,
            last: Point {
                index: LogIndex(take.u64()?),
                epoch: Epoch(take.u64()?),
                chain: Chain(take.array()?),
            },
        })
    }
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Damaged,
    Version(u16),
}

/// One thing that a batch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(Entry, Chain),
    Vote(Vote),
    /// Entries after this one are void.
    Truncate(LogIndex),
}

impl Record {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry(entry, chain) => {
                out.u8(1);
                out.u64(entry.index.0);
                out.u64(entry.epoch.0);
                out.u8(entry.engine);
                out.bytes(&chain.0);
                out.bytes(&entry.data);
            }
            Self::Vote(vote) => {
                out.u8(2);
                put_vote(out, vote);
            }
            Self::Truncate(after) => {
                out.u8(3);
                out.u64(after.0);
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take(bytes);
        match take.u8()? {
            1 => {
                let (index, epoch) = (LogIndex(take.u64()?), Epoch(take.u64()?));
                let engine = take.u8()?;
                let chain = Chain(take.array()?);
                let data = Bytes::copy_from_slice(take.0);
                Some(Self::Entry(Entry { index, epoch, engine, data }, chain))
            }
            2 => Some(Self::Vote(take_vote(&mut take)?)),
            3 => Some(Self::Truncate(LogIndex(take.u64()?))),
            _ => None,
        }
    }
}

fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.u64(vote.term);
    out.u64(vote.voted_for.and_then(|node| u64::try_from(node.0).ok()).map_or(0, |node| node + 1));
    out.u64(vote.commit.0);
}

fn take_vote(take: &mut Take<'_>) -> Option<Vote> {
    let (term, voted_for, commit) = (take.u64()?, take.u64()?, take.u64()?);
    let voted_for = match voted_for.checked_sub(1) {
        Some(node) => Some(NodeId(i32::try_from(node).ok()?)),
        None => None,
    };
    Some(Vote { term, voted_for, commit: LogIndex(commit) })
}

/// A batch ready to be written at one position of one file, and where its records will lie.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    /// Position in the file and length, for every record in order.
    pub(super) places: Vec<(u64, u32)>,
}

/// Lays out a batch. `None` if it is too large for the format (4 GiB).
pub(super) fn encode_batch(file: FileId, at: u64, number: u64, records: &[Record]) -> Option<Encoded> {
    let mut bytes = vec![0; BATCH_HEADER];
    let mut places = Vec::with_capacity(records.len());
    let mut body = Vec::new();
    for record in records {
        body.clear();
        record.encode(&mut body);
        let position = at.checked_add(bytes.len() as u64)?;
        let length = u32::try_from(body.len()).ok()?;
        places.push((position, length));
        bytes.u32(length);
        bytes.u32(file.crc(position, [&length.to_le_bytes(), &body]));
        bytes.bytes(&body);
    }
    let length = u32::try_from(bytes.len() - BATCH_HEADER).ok()?;
    let header = batch_header(file, at, length, number, u32::try_from(records.len()).ok()?);
    bytes.iter_mut().zip(header).for_each(|(to, from)| *to = from);
    Some(Encoded { bytes, places })
}

fn batch_header(file: FileId, at: u64, length: u32, number: u64, records: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(BATCH_HEADER);
    header.bytes(&BATCH_MAGIC);
    header.u32(length);
    header.u64(number);
    header.u32(records);
    let crc = file.crc(at, [&header, &[]]);
    header.u32(crc);
    header
}

/// The number and the length of the records of the batch whose header stands at `at`, if one does.
pub(super) fn batch_at(file: FileId, at: u64, bytes: &[u8]) -> Option<(u64, usize, u32)> {
    let (header, _) = bytes.split_at_checked(BATCH_HEADER)?;
    let mut take = Take(header);
    if take.array() != Some(BATCH_MAGIC) {
        return None;
    }
    let (length, number, records) = (take.u32()?, take.u64()?, take.u32()?);
    let fields = header.get(..BATCH_HEADER - 4)?;
    if take.u32()? != file.crc(at, [fields, &[]]) {
        return None;
    }
    Some((number, usize::try_from(length).ok()?, records))
}

/// One record of a decoded batch and where it lies.
pub(super) type Placed = (Record, u64, u32);

/// Reads the batch that begins at `at`, whose bytes and all that follow are `bytes`: its number, its length in the
/// file, its records. `None` if any part of it is missing or wrong.
pub(super) fn decode_batch(file: FileId, at: u64, bytes: &[u8]) -> Option<(u64, usize, Vec<Placed>)> {
    let (number, length, count) = batch_at(file, at, bytes)?;
    let mut take = Take(bytes.get(BATCH_HEADER..BATCH_HEADER.checked_add(length)?)?);
    let mut position = at.checked_add(BATCH_HEADER as u64)?;
    let mut records = Vec::new();
    for _ in 0..count {
        let before = take.0.len();
        let (record, length) = take_record(file, position, &mut take)?;
        records.push((record, position, length));
        position += (before - take.0.len()) as u64;
    }
    take.0.is_empty().then_some((number, BATCH_HEADER + length, records))
}

fn take_record(file: FileId, position: u64, take: &mut Take<'_>) -> Option<(Record, u32)> {
    let (length, crc) = (take.u32()?, take.u32()?);
    let body = take.bytes(usize::try_from(length).ok()?)?;
    if crc != file.crc(position, [&length.to_le_bytes(), body]) {
        return None;
    }
    Some((Record::decode(body)?, length))
}

/// How many bytes a record of this length takes in the file.
pub(super) fn record_bytes(length: u32) -> usize {
    RECORD_HEADER + length as usize
}

/// Reads one record from the bytes at `position`.
pub(super) fn decode_record(file: FileId, position: u64, bytes: &[u8]) -> Option<Record> {
    take_record(file, position, &mut Take(bytes)).map(|(record, _)| record)
}
