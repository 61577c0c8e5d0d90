//! Which syncs of this node's disks are under way, and since when: a broker whose disk hangs must not say that it lives.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use crate::runtime::Moment;

/// Syncs that have begun and not ended.
#[derive(Debug, Default)]
pub struct Syncs {
    under_way: Mutex<(u64, BTreeMap<u64, Moment>)>,
}

/// A sync under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Sync<'a> {
    syncs: &'a Syncs,
    number: u64,
}

impl Syncs {
    /// A sync begins.
    pub fn begin(&self, now: Moment) -> Sync<'_> {
        let mut under_way = self.under_way.lock();
        under_way.0 += 1;
        let number = under_way.0;
        under_way.1.insert(number, now);
        Sync { syncs: self, number }
    }

    /// For how long the oldest sync has been under way; zero if there is none.
    pub fn oldest(&self, now: Moment) -> Duration {
        // They begin in the order of their numbers.
        self.under_way.lock().1.values().next().map_or(Duration::ZERO, |begun| now.since(*begun))
    }
}

impl Drop for Sync<'_> {
    fn drop(&mut self) {
        self.syncs.under_way.lock().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_has_not_ended_counts() {
        let (syncs, at) = (Syncs::default(), |ms| Moment(0).plus(Duration::from_millis(ms)));
        let first = syncs.begin(at(10));
        let second = syncs.begin(at(20));
        assert_eq!(syncs.oldest(at(50)), Duration::from_millis(40));
        drop(first);
        assert_eq!(syncs.oldest(at(50)), Duration::from_millis(30));
        drop(second);
        assert_eq!(syncs.oldest(at(50)), Duration::ZERO);
    }
}
