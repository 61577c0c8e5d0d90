//! Open files within a budget: a partition opens none until it is used, and the longest unused are closed first.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::names::Kind;
use crate::{ids::Offset, runtime::DiskFile};

/// One file of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HandleKey {
    pub(super) log: u64,
    pub(super) base: Offset,
    pub(super) kind: Kind,
}

/// The open files of all logs of a node.
///
/// A file stays open while somebody holds it, however full the cache is; so the budget bounds the files at rest and
/// must leave room for those in use.
pub struct Handles {
    budget: usize,
    next_log: AtomicU64,
    ring: Mutex<Ring>,
}

/// A clock: the hand passes over files that were used since it last came by, and takes the first that was not.
struct Ring {
    slots: Vec<Option<Slot>>,
    places: HashMap<HandleKey, usize>,
    free: Vec<usize>,
    hand: usize,
}

struct Slot {
    key: HandleKey,
    file: Arc<dyn DiskFile>,
    used: bool,
}

impl Handles {
    /// A cache of at most `budget` open files; at least one.
    #[must_use]
    pub fn new(budget: usize) -> Arc<Self> {
        let ring = Ring { slots: Vec::new(), places: HashMap::new(), free: Vec::new(), hand: 0 };
        Arc::new(Self { budget: budget.max(1), next_log: AtomicU64::new(1), ring: Mutex::new(ring) })
    }

    /// How many files the cache holds open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.ring.lock().places.len()
    }

    /// A number for one open log, so that a folder that is made again never meets the old one's files.
    pub(super) fn next_log(&self) -> u64 {
        self.next_log.fetch_add(1, Ordering::Relaxed)
    }

    /// The file, from the cache or opened.
    pub(super) fn get(
        &self,
        key: HandleKey,
        open: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.ring.lock().get(key) {
            return Ok(file);
        }
        let file = open()?;
        let evicted = self.ring.lock().insert(key, file.clone(), self.budget);
        drop(evicted); // Closed here, outside the lock.
        Ok(file)
    }

    /// Closes a file, once nobody holds it.
    pub(super) fn forget(&self, key: HandleKey) {
        let taken = self.ring.lock().remove(key);
        drop(taken);
    }
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handles").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl Ring {
    fn get(&mut self, key: HandleKey) -> Option<Arc<dyn DiskFile>> {
        let place = *self.places.get(&key)?;
        let slot = self.slots.get_mut(place)?.as_mut()?;
        slot.used = true;
        Some(slot.file.clone())
    }

    fn insert(&mut self, key: HandleKey, file: Arc<dyn DiskFile>, budget: usize) -> Option<Slot> {
        let evicted = match self.remove(key) {
            None if self.places.len() >= budget => self.evict(),
            replaced => replaced,
        };
        let slot = Some(Slot { key, file, used: true });
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        if let Some(target) = self.slots.get_mut(place) {
            *target = slot;
        }
        self.places.insert(key, place);
        evicted
    }

    fn evict(&mut self) -> Option<Slot> {
        // Two rounds: the first may find every file used and only clears the marks.
        for _ in 0..self.slots.len() * 2 {
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            match self.slots.get_mut(self.hand) {
                Some(Some(slot)) if slot.used => slot.used = false,
                Some(Some(slot)) => {
                    let key = slot.key;
                    return self.remove(key);
                }
                _ => {}
            }
        }
        None
    }

    fn remove(&mut self, key: HandleKey) -> Option<Slot> {
        let place = self.places.remove(&key)?;
        self.free.push(place);
        self.slots.get_mut(place)?.take()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::runtime::{Disk, Open, RealDisk};

    fn key(base: i64) -> HandleKey {
        HandleKey { log: 1, base: Offset(base), kind: Kind::Log }
    }

    fn open(folder: &Path, base: i64) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(&folder.join(base.to_string()), Open::Write)
    }

    #[test]
    fn the_budget_holds_and_the_used_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let handles = Handles::new(3);
        for base in 0..3 {
            handles.get(key(base), || open(folder.path(), base)).unwrap();
        }
        for base in 3..20 {
            handles.get(key(base), || open(folder.path(), base)).unwrap();
            assert_eq!(handles.open_files(), 3);
            // The newest is in the cache: it is not opened again.
            handles.get(key(base), || panic!("opened twice")).unwrap();
        }
    }

    #[test]
    fn a_forgotten_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let handles = Handles::new(3);
        handles.get(key(0), || open(folder.path(), 0)).unwrap();
        handles.forget(key(0));
        assert_eq!(handles.open_files(), 0);
        let mut opened = false;
        let again = || {
            opened = true;
            open(folder.path(), 0)
        };
        handles.get(key(0), again).unwrap();
        assert!(opened);
    }
}
