//! What of a segment's indexes can be trusted at the recovery point.
//!
//! The entries of batches below it were durable when it was kept. Behind them lies what later writes left: after a power
//! cut zeros, entries of batches that are gone, or a mix in any order.

use super::{
    config::LogConfig,
    files::Files,
    index::{Indexes, OffsetEntry, TimeEntry},
    segment::Segment,
    walk::{LOOKUP_BYTES, Walk, WalkError},
};
use crate::{ids::Offset, runtime::DiskFile};

/// Entries at the end that may be wrong before the indexes are built anew.
const WRONG_MAX: usize = 64;

/// Cuts indexes and segment back to the last indexed batch before the recovery point; returns where it ends, and the
/// offset there. `None` if the indexes are not to be trusted.
pub(super) fn resume_at(
    files: &Files,
    config: &LogConfig,
    segment: &mut Segment,
    trusted: Offset,
) -> Result<Option<(u32, Offset)>, WalkError> {
    let (base, size) = (segment.base(), segment.size());
    let Some(mut indexes) = Indexes::open_any(base, files)? else { return Ok(None) };
    if indexes.lens().0 == 0 && trusted > base && size > config.index_interval_bytes {
        return Ok(None);
    }
    let file = segment.file(files)?;
    let checker = Checker { files, file: &*file, base, size, limit: segment.relative_clamped(trusted) };
    let whole = checker.last_offset_holds(&indexes)? && checker.last_time_holds(&mut indexes)?;
    if !whole {
        indexes.keep_durable(files, checker.limit, size)?;
        if !checker.drop_wrong(&mut indexes)? {
            return Ok(None);
        }
    }
    // Behind the batch of the last entry, so that no entry that is durable is ever written again.
    let last = indexes.last_offset(files)?;
    let (position, end) = match last.map(|entry| checker.indexed(entry)).transpose()?.flatten() {
        Some((position, header)) => (
            position.saturating_add(u32::try_from(header.size_bytes).unwrap_or(u32::MAX)),
            header.next_offset(),
        ),
        None => (0, base),
    };
    segment.adopt(indexes);
    segment.forget_from(files, config, position, end)?;
    if !whole {
        segment.find_largest(files, config)?;
    }
    Ok(Some((position, end)))
}

struct Checker<'a> {
    files: &'a Files,
    file: &'a dyn DiskFile,
    base: Offset,
    size: u32,
    /// The recovery point, from the base.
    limit: u32,
}

impl Checker<'_> {
    /// The batch that an entry stands for; `None` if it stands for none before the recovery point.
    fn indexed(
        &self,
        entry: OffsetEntry,
    ) -> Result<Option<(u32, crate::protocol::batch::BatchHeader)>, WalkError> {
        if entry.offset >= self.limit || entry.position >= self.size || entry.position == 0 {
            return Ok(None);
        }
        match Walk::new(self.file, entry.position, self.size, LOOKUP_BYTES).next() {
            Ok(Some((position, header))) => {
                let right = header.base_offset >= self.base
                    && header.last_offset() == self.base.plus(i64::from(entry.offset));
                Ok(right.then_some((position, header)))
            }
            Ok(None) | Err(WalkError::Broken { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the last entry of offsets is right; so is an index without any.
    fn last_offset_holds(&self, indexes: &Indexes) -> Result<bool, WalkError> {
        let last = indexes.last_offset(self.files)?;
        last.map_or(Ok(true), |entry| Ok(self.indexed(entry)?.is_some()))
    }

    /// Whether the last entry of times is right; so is an index without any. The offsets must hold.
    fn last_time_holds(&self, indexes: &mut Indexes) -> Result<bool, WalkError> {
        let Some(TimeEntry { timestamp, offset }) = indexes.last_time(self.files)? else { return Ok(true) };
        if offset >= self.limit {
            return Ok(false);
        }
        let from = indexes.position_before(self.files, offset)?;
        let wanted = self.base.plus(i64::from(offset));
        let mut walk = Walk::new(self.file, from, self.size, LOOKUP_BYTES);
        loop {
            match walk.next() {
                Ok(Some((_, header))) if header.last_offset() < wanted => {}
                Ok(Some((_, header))) => {
                    return Ok(header.last_offset() == wanted && header.max_timestamp == timestamp);
                }
                Ok(None) | Err(WalkError::Broken { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Drops wrong entries from the end. False if there are too many to believe the rest.
    fn drop_wrong(&self, indexes: &mut Indexes) -> Result<bool, WalkError> {
        for _ in 0..WRONG_MAX {
            if !self.last_offset_holds(indexes)? {
                indexes.drop_last_offset(self.files)?;
            } else if !self.last_time_holds(indexes)? {
                indexes.drop_last_time(self.files)?;
            } else {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
