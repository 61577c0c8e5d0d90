//! The bytes of one simulated file: what the page cache shows, and what the platter holds.

use std::collections::BTreeMap;

use crate::runtime::Rng;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// A file's bytes, twice.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// What reads see.
    cached: Vec<u8>,
    /// What survives a power cut.
    durable: Vec<u8>,
    /// Sectors that differ from the platter or may, with the number of the write that last touched them.
    dirty: BTreeMap<usize, u64>,
    /// Cuts that no finished sync covers: the number of the change, and the length that it left.
    cuts: Vec<(u64, usize)>,
    /// The number of the last change.
    writes: u64,
    /// The last change that the newest finished sync covers.
    flushed: u64,
}

/// What a sync that has begun will make durable.
#[derive(Debug)]
pub(super) struct Flush {
    sectors: Vec<(usize, u64, Vec<u8>)>,
    cut_to: Option<usize>,
    len: usize,
    writes: u64,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.cached.len()
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: usize) -> usize {
        let rest = self.cached.get(offset..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        count
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        let old_len = self.cached.len();
        if end > old_len {
            self.cached.resize(end, 0);
        }
        if let Some(target) = self.cached.get_mut(offset..end) {
            target.copy_from_slice(bytes);
        }
        self.touch(offset.min(old_len), end);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let old_len = self.cached.len();
        self.cached.resize(len, 0);
        if len < old_len {
            self.writes += 1;
            self.cuts.push((self.writes, len));
            self.dirty.retain(|sector, _| sector * SECTOR < len);
        } else {
            self.touch(old_len, len);
        }
    }

    /// Marks the sectors of `from..to` as not durable.
    fn touch(&mut self, from: usize, to: usize) {
        self.writes += 1;
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            self.dirty.insert(sector, self.writes);
        }
    }

    /// Whether everything is durable.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.cuts.is_empty()
    }

    /// Begins a sync: it covers what was written up to now.
    pub(super) fn begin_flush(&self) -> Flush {
        let sectors = self.dirty.iter().map(|(&sector, &write)| (sector, write, self.sector(sector)));
        Flush {
            sectors: sectors.collect(),
            cut_to: self.cut_to(),
            len: self.cached.len(),
            writes: self.writes,
        }
    }

    /// The shortest length that a cut has left.
    fn cut_to(&self) -> Option<usize> {
        self.cuts.iter().map(|(_, len)| *len).min()
    }

    fn sector(&self, sector: usize) -> Vec<u8> {
        let start = sector * SECTOR;
        let end = self.cached.len().min(start + SECTOR);
        self.cached.get(start..end).unwrap_or_default().to_vec()
    }

    /// Ends a sync well. One that ends after a newer one has nothing to add.
    pub(super) fn finish_flush(&mut self, flush: &Flush) {
        if flush.writes < self.flushed {
            return;
        }
        self.flushed = flush.writes;
        if let Some(len) = flush.cut_to {
            self.durable.truncate(len);
        }
        for (sector, write, bytes) in &flush.sectors {
            put(&mut self.durable, sector * SECTOR, bytes);
            if self.dirty.get(sector) == Some(write) {
                self.dirty.remove(sector);
            }
        }
        if self.durable.len() < flush.len {
            self.durable.resize(flush.len, 0);
        }
        self.cuts.retain(|(write, _)| *write > flush.writes);
    }

    /// Ends a sync badly: as on Linux, the pages count as clean from now on and the next sync finds nothing to do,
    /// though they never reached the platter.
    pub(super) fn fail_flush(&mut self, flush: &Flush) {
        for (sector, write, _) in &flush.sectors {
            if self.dirty.get(sector) == Some(write) {
                self.dirty.remove(sector);
            }
        }
        self.cuts.clear();
    }

    /// The power goes: what was not synced is lost, or, with `some`, each part of it with the chance of one half.
    pub(super) fn lose_power(&mut self, some: Option<&Rng>) {
        let coin = |rng: &Rng| rng.below(2) == 0;
        if let (Some(rng), Some(len)) = (some, self.cut_to())
            && coin(rng)
        {
            self.durable.truncate(len);
        }
        for sector in self.dirty.keys() {
            if some.is_some_and(coin) {
                let bytes = self.sector(*sector);
                put(&mut self.durable, sector * SECTOR, &bytes);
            }
        }
        self.cached.clone_from(&self.durable);
        self.dirty.clear();
        self.cuts.clear();
    }

    /// The platter rots: one bit of it, in the cache as well.
    pub(super) fn flip(&mut self, offset: usize, bit: u8) {
        for bytes in [&mut self.cached, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, part: &[u8]) {
    let end = offset + part.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(target) = bytes.get_mut(offset..end) {
        target.copy_from_slice(part);
    }
}
