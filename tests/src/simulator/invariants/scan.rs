//! A replica's log, read from end to end.

use std::{collections::BTreeMap, sync::Arc};

use quorate_core::{
    ids::{LeaderEpoch, Offset},
    log::{EpochStart, ReadRequest},
    partition::replica::{Progress, Replica},
    protocol::{
        batch::{BatchHeader, Batches},
        records::Records,
    },
};

use super::{Violation, holds};
use crate::simulator::topics;

/// A record: offset, epoch, value.
pub(super) type Recorded = (i64, LeaderEpoch, String);

/// A log at one moment.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) progress: Progress,
    pub(super) batches: Vec<BatchHeader>,
    /// The records in order.
    pub(super) records: Vec<Recorded>,
    pub(super) epochs: Vec<EpochStart>,
}

impl Scan {
    /// Reads a log. `None` if it is out of service.
    pub(super) fn of(replica: &Arc<Replica>) -> Result<Option<Self>, Violation> {
        let name = format!("{}-{}", replica.topic, replica.partition.index);
        let mark = topics::mark(replica.partition.topic);
        let progress = replica.progress();
        let read = replica.with_log(|log, _| {
            let mut bytes = Vec::new();
            let mut from = log.start_offset();
            while from < log.end_offset() {
                let request =
                    ReadRequest { from, below: log.end_offset(), max_bytes: 1 << 30, at_least_one: true };
                let Ok(Some(region)) = log.read(request) else { return None };
                let part = region.read().ok()?;
                let last = Batches::of(&part).map_while(Result::ok).last()?;
                from = last.header().next_offset();
                bytes.extend_from_slice(&part);
            }
            Some((bytes, log.epochs().entries().to_vec()))
        });
        let Some((bytes, epochs)) = read else { return Ok(None) };
        let mut scan = Self { progress, batches: Vec::new(), records: Vec::new(), epochs };
        for batch in Batches::of(&bytes) {
            let batch = batch.map_err(|error| Violation::new(20, format!("{name}: {error}")))?;
            let header = batch.header();
            holds!(
                38,
                batch.check_crc().is_ok(),
                "{name}: a wrong checksum at offset {}",
                header.base_offset
            );
            for record in Records::of(batch.payload(), header.count).map_while(Result::ok) {
                let offset = header.base_offset.0 + i64::from(record.offset_delta);
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                let own = value.ends_with(&mark);
                holds!(25, own, "{name}: '{value}' at offset {offset} is of another topic than {mark}");
                scan.records.push((offset, header.leader_epoch, value));
            }
            scan.batches.push(*header);
        }
        scan.hangs_together(&name)?;
        Ok(Some(scan))
    }

    /// What holds within one log.
    fn hangs_together(&self, name: &str) -> Result<(), Violation> {
        let mut next: Option<Offset> = None;
        let mut epoch = LeaderEpoch::NONE;
        let mut boundaries: Vec<EpochStart> = Vec::new();
        for batch in &self.batches {
            let base = batch.base_offset;
            holds!(20, next.is_none_or(|next| next == base), "{name}: offset {base} follows {next:?}");
            let this = batch.leader_epoch;
            holds!(9, this >= epoch, "{name}: epoch {this} at {base} follows {epoch}");
            if this > epoch {
                boundaries.push(EpochStart { epoch: this, start: base });
            }
            (next, epoch) = (Some(batch.next_offset()), this);
        }
        let end = self.progress.log_end;
        holds!(
            20,
            next.is_none_or(|next| next == end),
            "{name}: the last batch ends at {next:?}, the log at {end}"
        );
        // A leadership that has written nothing yet is known, and begins at the end.
        let written: Vec<EpochStart> =
            self.epochs.iter().copied().filter(|entry| entry.start < end).collect();
        holds!(
            9,
            written == boundaries,
            "{name}: the epochs {written:?} are not the log's own {boundaries:?}"
        );
        Ok(())
    }

    /// The batches of each producer follow each other, and its epochs never fall. Where earlier ones may be deleted or
    /// lost, `from_first` is false.
    pub(super) fn sequences(&self, name: &str, from_first: bool) -> Result<(), Violation> {
        let mut last = BTreeMap::new();
        let mut epochs = BTreeMap::new();
        for batch in self.batches.iter().filter(|batch| batch.has_producer()) {
            let producer = (batch.producer_id, batch.producer_epoch);
            let (sequence, base) = (batch.base_sequence, batch.base_offset);
            let newest = *epochs.get(&producer.0).unwrap_or(&producer.1);
            holds!(
                28,
                newest <= producer.1 || !from_first,
                "{name}: producer {producer:?} is at {base}, after its epoch {newest}"
            );
            epochs.insert(producer.0, newest.max(producer.1));
            let due = last.get(&producer).copied().or(from_first.then_some(0));
            holds!(
                27,
                due.is_none_or(|due| sequence == due),
                "{name}: producer {producer:?} has sequence {sequence} at {base}, {due:?} was due"
            );
            last.insert(producer, sequence.wrapping_add(batch.count));
        }
        Ok(())
    }

    /// Where two logs of one partition part: equal (offset, epoch) means an equal history up to there.
    pub(super) fn matches(&self, other: &Self) -> Result<(), String> {
        let start = self.first().max(other.first());
        let (mine, theirs) = (self.batches_from(start), other.batches_from(start));
        let key = |batch: &BatchHeader| (batch.base_offset, batch.leader_epoch, batch.crc);
        let common = mine.iter().zip(theirs).take_while(|(a, b)| key(a) == key(b)).count();
        let rest = theirs.get(common..).unwrap_or_default();
        for batch in mine.get(common..).unwrap_or_default() {
            let same = |other: &&BatchHeader| {
                other.base_offset == batch.base_offset && other.leader_epoch == batch.leader_epoch
            };
            if rest.iter().any(|other| same(&other)) {
                let (offset, epoch) = (batch.base_offset, batch.leader_epoch);
                return Err(format!(
                    "both have offset {offset} of epoch {epoch}, and differ there or before"
                ));
            }
        }
        Ok(())
    }

    /// The first batch below `end` that `other`, which begins no later, does not have.
    pub(super) fn lacking(&self, other: &Self, end: Offset) -> Option<BatchHeader> {
        let start = self.first().max(other.first());
        let (mine, theirs) = (self.batches_from(start), other.batches_from(start));
        let below = mine.iter().take_while(|batch| batch.next_offset() <= end);
        let key = |batch: &BatchHeader| (batch.base_offset, batch.leader_epoch, batch.crc);
        let mut pairs = below.enumerate().map(|(at, batch)| (batch, theirs.get(at)));
        let missing = pairs.find(|(batch, other)| other.is_none_or(|other| key(other) != key(batch)));
        missing.map(|(batch, _)| *batch)
    }

    /// Where its first batch begins, or the log.
    fn first(&self) -> Offset {
        self.batches.first().map_or(self.progress.log_start, |batch| batch.base_offset)
    }

    fn batches_from(&self, start: Offset) -> &[BatchHeader] {
        let at = self.batches.partition_point(|batch| batch.base_offset < start);
        self.batches.get(at..).unwrap_or_default()
    }
}
