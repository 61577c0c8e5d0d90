//! Reading: where in which file the bytes of a fetch lie.

use std::{io, sync::Arc};

use thiserror::Error;

use super::{
    log::{DiskFailure, Log, Unusable, WalkFailure},
    segment::Found,
    walk::WalkError,
};
use crate::{ids::Offset, protocol::batch::BatchHeader, runtime::DiskFile};

/// What a fetch wants of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The first offset; the batch that holds it comes whole.
    pub from: Offset,
    /// No batch that begins here or later: the high watermark for a consumer, the end of the log for a replica.
    pub below: Offset,
    /// How many bytes at most. The last batch may be cut by it, as in Kafka: the reader drops what is incomplete.
    pub max_bytes: u32,
    /// Whether the first batch comes whole even if it is larger than `max_bytes`.
    pub at_least_one: bool,
}

/// A part of a segment's file. It stays readable after the segment was removed; after a truncation its bytes may be
/// those of other batches, so a leader, who never truncates, hands it out, and a follower does not.
#[derive(Clone)]
pub struct Region {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Where the first batch begins.
    pub position: u64,
    /// Bytes. Not 0.
    pub len: usize,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region")
            .field("position", &self.position)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Region {
    /// Its bytes, read into memory.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::UnexpectedEof`] if the file was cut meanwhile.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len];
        if self.file.read_at(&mut bytes, self.position)? < self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

/// One batch and where it lies.
#[derive(Clone, Debug)]
pub struct BatchAt {
    /// Its header.
    pub header: BatchHeader,
    /// Its bytes.
    pub region: Region,
}

/// Why nothing can be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The offset lies outside of the log.
    #[error("offset {asked} is not in the log from {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        asked: Offset,
        /// The first offset.
        start: Offset,
        /// The end.
        end: Offset,
    },
    /// The log is out of service.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskFailure),
}

impl From<WalkFailure> for ReadError {
    fn from(failure: WalkFailure) -> Self {
        match failure {
            WalkFailure::Disk(failure) => Self::Disk(failure),
            WalkFailure::Damaged(damage) => Self::Unusable(Unusable::Damaged(damage)),
        }
    }
}

impl Log {
    /// Where the batches from an offset on lie: a part of one segment; the next read goes on in the next. `None` if
    /// there is nothing below `below`, or nothing fits.
    ///
    /// The checksums of what is returned have been verified, once since the process started.
    ///
    /// # Errors
    /// [`ReadError`]. A broken batch takes the log out of service.
    pub fn read(&mut self, request: ReadRequest) -> Result<Option<Region>, ReadError> {
        self.check_usable()?;
        let ReadRequest { from, below, .. } = request;
        if from < self.start || from > self.end {
            return Err(ReadError::OutOfRange { asked: from, start: self.start, end: self.end });
        }
        if from >= below.min(self.end) {
            return Ok(None);
        }
        let mut at = self.segment_of(from);
        // An offset in the gap behind a segment is found in one of the next.
        let (position, first_bytes) = loop {
            if let Some(found) = self.locate_batch(at, from)? {
                break found;
            }
            at += 1;
            if at >= self.segments.len() {
                return Ok(None);
            }
        };
        let limit = self.limit(at, position, request)?;
        let Some(available) = limit.checked_sub(position).filter(|bytes| *bytes > 0) else { return Ok(None) };
        let wanted =
            if request.at_least_one { request.max_bytes.max(first_bytes) } else { request.max_bytes };
        let len = available.min(wanted);
        if len == 0 {
            return Ok(None);
        }
        self.region(at, position, len).map(Some)
    }

    /// The first batch with a timestamp of at least `timestamp`, for the search by time; its records are to be looked
    /// at by the caller. `None` if there is none.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn first_batch_since(&mut self, timestamp: i64) -> Result<Option<BatchAt>, ReadError> {
        self.check_usable()?;
        for at in 0..self.segments.len() {
            let largest = self.in_segment(at, |segment, files, config| segment.largest(files, config))?;
            if largest.is_none_or(|largest| largest.timestamp < timestamp) {
                continue;
            }
            let start = self.start;
            let found = self.in_segment(at, |segment, files, config| {
                let found = segment.locate_time(files, config, timestamp)?;
                match found.filter(|found| found.header.last_offset() < start) {
                    // Records before the start of the log are gone; go on from there.
                    Some(_) => segment.locate(files, config, start),
                    None => Ok(found),
                }
            })?;
            let Some(found) = found else { continue };
            return self.batch_at(at, found).map(Some);
        }
        Ok(None)
    }

    /// The batch with the largest timestamp; `None` if no batch has one.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn newest_batch(&mut self) -> Result<Option<BatchAt>, ReadError> {
        self.check_usable()?;
        let mut newest = None;
        for at in 0..self.segments.len() {
            let largest = self.in_segment(at, |segment, files, config| segment.largest(files, config))?;
            if let Some(largest) = largest
                && newest.is_none_or(|(_, timestamp, _)| largest.timestamp > timestamp)
            {
                newest = Some((at, largest.timestamp, largest.offset));
            }
        }
        let Some((at, _, offset)) = newest else { return Ok(None) };
        let found = self.in_segment(at, |segment, files, config| segment.locate(files, config, offset))?;
        found.map(|found| self.batch_at(at, found)).transpose()
    }

    /// The batch that holds `offset`, or the first after it. `None` at the end.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn batch_from(&mut self, offset: Offset) -> Result<Option<BatchAt>, ReadError> {
        self.check_usable()?;
        for at in self.segment_of(offset)..self.segments.len() {
            let found =
                self.in_segment(at, |segment, files, config| segment.locate(files, config, offset))?;
            if let Some(found) = found {
                return self.batch_at(at, found).map(Some);
            }
        }
        Ok(None)
    }

    pub(super) fn check_usable(&self) -> Result<(), Unusable> {
        self.unusable.clone().map_or(Ok(()), Err)
    }

    /// Runs `work` on a segment; what breaks takes the log out of service.
    pub(super) fn in_segment<T>(
        &mut self,
        at: usize,
        work: impl FnOnce(
            &mut super::segment::Segment,
            &super::files::Files,
            &super::config::LogConfig,
        ) -> Result<T, WalkError>,
    ) -> Result<T, WalkFailure> {
        let Some(segment) = self.segments.get_mut(at) else {
            return Err(WalkFailure::Disk(self.failure(io::Error::other("no such segment"))));
        };
        work(segment, &self.files, &self.config).map_err(|error| self.broken(at, error))
    }

    /// Position and size of the first batch in a segment that ends after `offset`.
    fn locate_batch(&mut self, at: usize, offset: Offset) -> Result<Option<(u32, u32)>, ReadError> {
        if at + 1 == self.segments.len()
            && let Some(position) = self.recent.position(offset)
        {
            let end = self.recent.next_position(position).unwrap_or(self.active().0.size());
            return Ok(Some((position, end.saturating_sub(position))));
        }
        let found = self.in_segment(at, |segment, files, config| segment.locate(files, config, offset))?;
        Ok(found.map(|found| (found.position, u32::try_from(found.header.size_bytes).unwrap_or(u32::MAX))))
    }

    /// Where the batches below `request.below` end in a segment, or a lower bound that is more than is asked for.
    fn limit(&mut self, at: usize, position: u32, request: ReadRequest) -> Result<u32, ReadError> {
        let below = request.below;
        let next = self.segments.get(at + 1).map_or(self.end, super::segment::Segment::base);
        let size = self.segments.get(at).map_or(0, super::segment::Segment::size);
        if below >= next {
            return Ok(size);
        }
        if at + 1 == self.segments.len()
            && let Some(position) = self.recent.position(below)
        {
            return Ok(position);
        }
        let near =
            self.in_segment(at, |segment, files, config| segment.border_before(files, config, below))?;
        if let Some(near) = near.filter(|near| near.saturating_sub(position) > request.max_bytes) {
            return Ok(near);
        }
        let found = self.in_segment(at, |segment, files, config| segment.locate(files, config, below))?;
        // A batch that holds `below` and begins before it is not below it.
        Ok(found.map_or(size, |found| found.position))
    }

    fn batch_at(&mut self, at: usize, found: Found) -> Result<BatchAt, ReadError> {
        let bytes = u32::try_from(found.header.size_bytes).unwrap_or(u32::MAX);
        let region = self.region(at, found.position, bytes)?;
        Ok(BatchAt { header: found.header, region })
    }

    /// A part of a segment, its checksums verified.
    fn region(&mut self, at: usize, position: u32, len: u32) -> Result<Region, ReadError> {
        let range = position..position.saturating_add(len);
        let limit = self.segments.get(at + 1).map_or(self.end, super::segment::Segment::base);
        let Some(segment) = self.segments.get_mut(at) else {
            return Err(self.failure(io::Error::other("no such segment")).into());
        };
        let verified = segment.verify(&self.files, range, limit, &self.epochs);
        let file = verified.and_then(|()| Ok(segment.file(&self.files)?));
        let file = file.map_err(|error| self.broken(at, error))?;
        Ok(Region { file, position: u64::from(position), len: len as usize })
    }
}
