//! The positions of the newest batches, so that a read at the end of a log needs no index.

use crate::ids::Offset;

/// Batches that are remembered: a few appends, since followers and consumers at the end are that far behind.
const RECENT_MAX: usize = 16;

/// Where the newest batches of the active segment begin, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent(Vec<(Offset, u32)>);

impl Recent {
    pub(super) fn push(&mut self, base: Offset, position: u32) {
        if self.0.len() == RECENT_MAX {
            self.0.remove(0);
        }
        self.0.push((base, position));
    }

    /// Where the batch with this base offset begins.
    pub(super) fn position(&self, base: Offset) -> Option<u32> {
        let at = self.0.binary_search_by_key(&base, |(known, _)| *known).ok()?;
        self.0.get(at).map(|(_, position)| *position)
    }

    /// Where the batch after the one at `position` begins, if both are known.
    pub(super) fn next_position(&self, position: u32) -> Option<u32> {
        let above = self.0.partition_point(|(_, known)| *known <= position);
        self.0.get(above).map(|(_, next)| *next)
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}
