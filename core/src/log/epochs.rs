//! Where each leadership of a partition began in its log (KIP-101, KIP-279), and Kafka's file of it.
//!
//! ```text
//! epoch   3       5            6
//!         |-------|------------|--------->
//! offset  0       120          185      log end
//! ```

use thiserror::Error;

use crate::{
    ids::{LeaderEpoch, Offset},
    planted::{Bug, planted},
};

/// The name of the file in a partition's folder.
pub(super) const EPOCH_FILE: &str = "leader-epoch-checkpoint";

/// Where a leadership began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The leadership.
    pub epoch: LeaderEpoch,
    /// The offset of its first batch.
    pub start: Offset,
}

/// The answer to "where does this epoch end in your log" (KIP-279).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest epoch that is not larger than the one asked for; the one asked for if the log begins after it.
    pub epoch: LeaderEpoch,
    /// Where it ends: the start of the next epoch, or the log's end.
    pub end: Offset,
}

/// Epochs and their starts, both strictly growing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache(Vec<EpochStart>);

/// The file is not one of epochs.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line} of leader-epoch-checkpoint: {reason}")]
pub struct EpochFileError {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl EpochCache {
    /// All entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// The newest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<EpochStart> {
        self.0.last().copied()
    }

    /// Notes that `epoch` begins at `start`; returns whether that was news. An epoch that has begun keeps its start,
    /// and entries that would not be smaller in both go, as in Kafka: a leadership that wrote nothing is forgotten
    /// when the next begins at the same offset.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        match self.latest() {
            Some(_) if planted(Bug::ForgetsEpochs) => return false,
            _ if epoch.0 < 0 || start.0 < 0 => return false,
            Some(last) if last.epoch == epoch && start >= last.start => return false,
            _ => {}
        }
        while self.latest().is_some_and(|last| last.epoch >= epoch || last.start >= start) {
            self.0.pop();
        }
        self.0.push(EpochStart { epoch, start });
        true
    }

    /// Where `epoch` ends in a log that ends at `log_end`. `None` if no epoch is asked for ([`LeaderEpoch::NONE`]), or
    /// one newer than all that are known: the asker must fall back as KIP-279 says.
    #[must_use]
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        let latest = self.latest()?;
        if epoch == LeaderEpoch::NONE || epoch > latest.epoch {
            return None;
        }
        if epoch == latest.epoch {
            return Some(EpochEnd { epoch, end: log_end });
        }
        let above = self.0.partition_point(|entry| entry.epoch <= epoch);
        let end = self.0.get(above)?.start;
        let floor = above.checked_sub(1).and_then(|below| self.0.get(below));
        Some(EpochEnd { epoch: floor.map_or(epoch, |entry| entry.epoch), end })
    }

    /// The epoch that the batch at `offset` was written in; `None` before the first known.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self.0.partition_point(|entry| entry.start <= offset);
        Some(self.0.get(above.checked_sub(1)?)?.epoch)
    }

    /// Follows a log that was cut to end at `end`; returns whether any epoch is gone by it.
    pub fn truncate_to(&mut self, end: Offset) -> bool {
        if planted(Bug::EpochsSurviveCut) {
            return false;
        }
        let keep = self.0.partition_point(|entry| entry.start < end);
        let is_news = keep < self.0.len();
        self.0.truncate(keep);
        is_news
    }

    /// Follows a log that now begins at `start`: the epoch of that offset begins there.
    pub fn delete_before(&mut self, start: Offset) {
        let above = self.0.partition_point(|entry| entry.start <= start);
        let Some(last) = above.checked_sub(1) else { return };
        self.0.drain(..last);
        if let Some(first) = self.0.first_mut() {
            first.start = start;
        }
    }

    /// Kafka's file: version 0, the count, a line an entry.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("0\n{}\n", self.0.len());
        for entry in &self.0 {
            text.push_str(&format!("{} {}\n", entry.epoch, entry.start));
        }
        text
    }

    /// Reads [`EpochCache::encode`]'s form.
    ///
    /// # Errors
    /// [`EpochFileError`] names the line.
    pub fn decode(text: &str) -> Result<Self, EpochFileError> {
        let fail = |line, reason| EpochFileError { line, reason };
        let mut lines = text.lines();
        if lines.next() != Some("0") {
            return Err(fail(1, "the version is not 0"));
        }
        let count: Option<usize> = lines.next().and_then(|line| line.parse().ok());
        let count = count.ok_or(fail(2, "the count is no number"))?;
        let mut cache = Self::default();
        for (at, line) in lines.enumerate() {
            let entry = line.split_once(' ').and_then(|(epoch, start)| {
                let entry = (LeaderEpoch(epoch.parse().ok()?), Offset(start.parse().ok()?));
                (entry.0.0 >= 0 && entry.1.0 >= 0).then_some(entry)
            });
            let (epoch, start) = entry.ok_or(fail(at + 3, "not an epoch and an offset"))?;
            if cache.latest().is_some_and(|last| last.epoch >= epoch || last.start >= start) {
                return Err(fail(at + 3, "not after the entry before it"));
            }
            cache.0.push(EpochStart { epoch, start });
        }
        if cache.0.len() != count {
            return Err(fail(2, "the count is not that of the lines"));
        }
        Ok(cache)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cache(entries: &[(i32, i64)]) -> EpochCache {
        let mut cache = EpochCache::default();
        for (epoch, start) in entries {
            assert!(cache.assign(LeaderEpoch(*epoch), Offset(*start)));
        }
        cache
    }

    fn end(cache: &EpochCache, epoch: i32) -> Option<(i32, i64)> {
        cache.end_of(LeaderEpoch(epoch), Offset(200)).map(|end| (end.epoch.0, end.end.0))
    }

    #[test]
    fn an_epoch_ends_where_the_next_known_one_begins() {
        let cache = cache(&[(3, 0), (5, 120), (6, 185)]);
        assert_eq!(end(&cache, 3), Some((3, 120)));
        assert_eq!(end(&cache, 4), Some((3, 120)));
        assert_eq!(end(&cache, 5), Some((5, 185)));
        assert_eq!(end(&cache, 6), Some((6, 200)));
    }

    #[test]
    fn an_epoch_older_than_the_log_ends_at_its_start_and_a_newer_one_is_unknown() {
        let cache = cache(&[(3, 10), (5, 120)]);
        assert_eq!(end(&cache, 1), Some((1, 10)));
        assert_eq!(end(&cache, 7), None);
        assert_eq!(end(&cache, -1), None);
        assert_eq!(end(&EpochCache::default(), 0), None);
    }

    #[test]
    fn a_leadership_without_records_is_forgotten_when_the_next_begins_at_its_offset() {
        let mut cache = cache(&[(1, 0), (2, 50)]);
        assert!(cache.assign(LeaderEpoch(4), Offset(50)));
        assert_eq!(cache, self::cache(&[(1, 0), (4, 50)]));
        assert!(!cache.assign(LeaderEpoch(4), Offset(60)), "an epoch keeps its start");
    }

    #[test]
    fn a_log_that_is_cut_at_either_end_keeps_what_lies_between() {
        let mut cache = cache(&[(1, 0), (2, 50), (4, 80)]);
        cache.truncate_to(Offset(80));
        cache.delete_before(Offset(60));
        assert_eq!(cache.entries(), [EpochStart { epoch: LeaderEpoch(2), start: Offset(60) }]);
        assert_eq!(cache.epoch_at(Offset(59)), None);
        assert_eq!(cache.epoch_at(Offset(61)), Some(LeaderEpoch(2)));
    }

    proptest! {
        #[test]
        fn the_file_is_read_back(entries in prop::collection::vec((1i32..50, 1i64..5000), 0..20)) {
            let mut cache = EpochCache::default();
            let (mut epoch, mut start) = (0, 0);
            for (more_epochs, more_records) in entries {
                (epoch, start) = (epoch + more_epochs, start + more_records);
                cache.assign(LeaderEpoch(epoch), Offset(start));
            }
            prop_assert_eq!(EpochCache::decode(&cache.encode()), Ok(cache));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(text in "[0-9 \n-]{0,80}") {
            if let Ok(cache) = EpochCache::decode(&text) {
                prop_assert!(cache.entries().is_sorted_by(|a, b| a.epoch < b.epoch && a.start < b.start));
            }
        }
    }
}
