//! Finding batches in a segment, by offset and by time.
//!
//! A wrong index costs time, not truth: what it points to is checked, and if there is no batch the search begins at the
//! start of the segment and the indexes are built anew.

use std::io;

use super::{
    config::LogConfig,
    files::Files,
    segment::{Found, Segment},
    walk::{LOOKUP_BYTES, Walk, WalkError},
};
use crate::ids::Offset;

impl Segment {
    /// The first batch whose last offset is `offset` or later; `None` past the last.
    pub(super) fn locate(
        &mut self,
        files: &Files,
        config: &LogConfig,
        offset: Offset,
    ) -> Result<Option<Found>, WalkError> {
        if self.size() == 0 {
            return Ok(None);
        }
        let relative = self.relative_clamped(offset);
        let start = match self.indexes(files, config)?.position_before(files, relative) {
            Ok(start) => start,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => self.size(),
            Err(error) => return Err(error.into()),
        };
        match self.scan_to(files, start, offset) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(WalkError::Io(error)) => return Err(error.into()),
            Err(broken) if start == 0 => return Err(broken),
            Err(WalkError::Broken { .. }) => {}
        }
        self.rebuild_indexes(files, config)?;
        Ok(self.scan_to(files, 0, offset)?.flatten())
    }

    /// A border of batches at or before that of the batch that holds `offset`, from the index alone; `None` if the
    /// index is wrong there.
    pub(super) fn border_before(
        &mut self,
        files: &Files,
        config: &LogConfig,
        offset: Offset,
    ) -> Result<Option<u32>, WalkError> {
        let relative = self.relative_clamped(offset);
        let position = self.indexes(files, config)?.position_before(files, relative)?;
        if position == 0 || position >= self.size() {
            return Ok((position == 0).then_some(0));
        }
        let file = self.file(files)?;
        match Walk::new(&*file, position, self.size(), LOOKUP_BYTES).next() {
            Ok(Some((_, header))) => Ok((header.base_offset <= offset).then_some(position)),
            Ok(None) | Err(WalkError::Broken { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the batch before `position` ends; `offset` lies in the batch or gap at `position`.
    pub(super) fn end_before(
        &mut self,
        files: &Files,
        config: &LogConfig,
        position: u32,
        offset: Offset,
    ) -> Result<Offset, WalkError> {
        let from = self.border_before(files, config, offset)?.filter(|from| *from < position).unwrap_or(0);
        let file = self.file(files)?;
        let mut walk = Walk::new(&*file, from, position, LOOKUP_BYTES);
        let mut end = self.base();
        while let Some((_, header)) = walk.next()? {
            end = header.next_offset();
        }
        Ok(end)
    }

    /// Scans for [`Segment::locate`]. The outer `None` says that `start` is no good place to begin.
    fn scan_to(&self, files: &Files, start: u32, offset: Offset) -> Result<Option<Option<Found>>, WalkError> {
        if start >= self.size() {
            return Ok(None);
        }
        let file = self.file(files)?;
        let mut walk = Walk::new(&*file, start, self.size(), LOOKUP_BYTES);
        let mut first = start > 0;
        while let Some((position, header)) = walk.next()? {
            let outside = header.base_offset < self.base() || header.base_offset > offset;
            if first && outside {
                return Ok(None);
            }
            if header.last_offset() >= offset {
                return Ok(Some(Some(Found { position, header })));
            }
            first = false;
        }
        Ok(Some(None))
    }

    /// The first batch with a timestamp of at least `timestamp`; `None` if there is none.
    pub(super) fn locate_time(
        &mut self,
        files: &Files,
        config: &LogConfig,
        timestamp: i64,
    ) -> Result<Option<Found>, WalkError> {
        let relative = self.indexes(files, config)?.offset_before_time(files, timestamp)?;
        let from = self.base().plus(i64::from(relative.min(i32::MAX as u32)));
        let Some(start) = self.locate(files, config, from)? else { return Ok(None) };
        let file = self.file(files)?;
        let mut walk = Walk::new(&*file, start.position, self.size(), LOOKUP_BYTES);
        while let Some((position, header)) = walk.next()? {
            if header.max_timestamp >= timestamp {
                return Ok(Some(Found { position, header }));
            }
        }
        Ok(None)
    }
}
