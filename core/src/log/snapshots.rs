//! What a log's files say of its producers: a `.snapshot` from some point on, and the batches behind it.
//!
//! A snapshot is written when a segment is rolled and when the log is closed, and never synced: one that is torn does
//! not fit its checksum, and an older one is taken.

use std::io::{self, IoSlice};

use super::{
    log::{DiskFailure, Log},
    names::{Kind, file_path, parse_file_name},
    producers::Producers,
    read::{ReadError, Region},
    walk::{SCAN_BYTES, Walk},
};
use crate::{
    ids::Offset,
    protocol::batch::{Batch, BatchHeader},
    runtime::{Open, read_file},
};

/// The largest snapshot that is read, in bytes: about five million producers.
const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;

impl Log {
    /// The producers of all batches in the log, from the newest snapshot and what follows it. Snapshots from beyond the
    /// end are removed: they speak of batches that are gone. Call it when the log was opened, and after a truncation.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn load_producers(&mut self) -> Result<Producers, ReadError> {
        let (mut producers, from) = self.newest_snapshot().map_err(|source| self.failure(source))?;
        for at in self.segment_of(from)..self.segments.len() {
            self.replay_producers(at, from, &mut producers)?;
        }
        Ok(producers)
    }

    /// Writes what is known of the producers before `at` into a snapshot: at the base of a new segment, or at the end.
    ///
    /// # Errors
    /// The disk failed; the log can do without.
    pub fn keep_producers(&self, producers: &Producers, at: Offset) -> Result<(), DiskFailure> {
        let path = file_path(&self.files.dir, at, Kind::Snapshot);
        let written = self.files.disk.open(&path, Open::Write).and_then(|file| {
            file.set_len(0)?;
            file.write_at(&mut [IoSlice::new(&producers.encode())], 0)
        });
        written.map_err(|source| DiskFailure { path, source })
    }

    /// The newest snapshot that can be read, and the offset from which batches are to be added. No producers and the
    /// start of the log if there is none.
    fn newest_snapshot(&self) -> io::Result<(Producers, Offset)> {
        let names = self.files.disk.list(&self.files.dir)?;
        let snapshots = names.iter().filter_map(|name| parse_file_name(name));
        let mut offsets: Vec<Offset> =
            snapshots.filter(|(_, kind)| *kind == Kind::Snapshot).map(|(offset, _)| offset).collect();
        offsets.sort_unstable();
        while let Some(offset) = offsets.pop() {
            let path = file_path(&self.files.dir, offset, Kind::Snapshot);
            if offset <= self.end && offset > self.start {
                let content = read_file(&*self.files.disk, &path, SNAPSHOT_BYTES_MAX)?;
                match Producers::decode(&content) {
                    Ok(producers) => return Ok((producers, offset)),
                    Err(error) => tracing::warn!("{}: {error}; an older one is taken", path.display()),
                }
            }
            self.files.remove(offset, Kind::Snapshot)?;
        }
        Ok((Producers::default(), self.start))
    }

    /// Adds the batches of a segment from an offset on.
    fn replay_producers(
        &mut self,
        at: usize,
        from: Offset,
        producers: &mut Producers,
    ) -> Result<(), ReadError> {
        let found = self.in_segment(at, |segment, files, config| {
            if !segment.is_created() {
                return Ok(None);
            }
            let found = segment.locate(files, config, from)?;
            found.map(|found| Ok((segment.file(files)?, found.position, segment.size()))).transpose()
        })?;
        let Some((file, position, size)) = found else { return Ok(()) };
        let mut walk = Walk::new(&*file, position, size, SCAN_BYTES);
        loop {
            let (position, header) = match walk.next() {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.broken(at, error).into()),
            };
            if header.attributes.is_control() {
                let region =
                    Region { file: file.clone(), position: u64::from(position), len: header.size_bytes };
                let bytes = region.read().map_err(|source| self.failure(source))?;
                apply_marker(producers, &bytes);
            } else {
                apply(producers, &header, from);
            }
        }
    }
}

/// A snapshot never stands inside of a batch, but the start of the log may.
fn apply(producers: &mut Producers, header: &BatchHeader, from: Offset) {
    if header.next_offset() > from {
        producers.apply_data(header);
    }
}

fn apply_marker(producers: &mut Producers, bytes: &[u8]) {
    if let Ok((batch, _)) = Batch::split_first(bytes) {
        producers.apply(&batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{LeaderEpoch, ProducerId},
        log::{
            Opening,
            testing::{Bench, small},
        },
        protocol::{builder::BatchBuilder, compression::Codec},
        runtime::{Disk as _, simulated::Keep},
    };

    /// Three producers in turn, each batch of two records; rolls with a snapshot as a replica does.
    fn fill(log: &mut Log, producers: &mut Producers, batches: i64) {
        for number in log.end_offset().0 / 2..log.end_offset().0 / 2 + batches {
            let sequence = i32::try_from(number / 3 * 2).unwrap();
            let bytes = BatchBuilder::new(Codec::None.into())
                .producer(ProducerId(number % 3), 0, sequence)
                .position(log.end_offset(), LeaderEpoch(1))
                .simple(1_000, None, Some(&[0; 50]))
                .simple(1_000, None, Some(&[0; 50]))
                .build()
                .unwrap();
            let appended = log.append(&[&bytes]).unwrap();
            if let Some(base) = appended.rolled {
                log.keep_producers(producers, base).unwrap();
            }
            producers.apply(&Batch::split_first(&bytes).unwrap().0);
        }
    }

    /// What counts for the next batch: a snapshot keeps only the last of each producer.
    fn last(producers: &Producers) -> Vec<(ProducerId, i32)> {
        producers.iter().map(|(id, producer)| (id, producer.last_sequence())).collect()
    }

    fn snapshots(bench: &Bench) -> Vec<String> {
        let names = bench.disk.list(&bench.dir).unwrap();
        names.into_iter().filter(|name| name.ends_with(".snapshot")).collect()
    }

    #[tokio::test]
    async fn producers_come_back_from_snapshot_and_batches() {
        let mut bench = Bench::new(1);
        bench.config = small();
        let (mut log, _) = bench.open(Opening::unknown());
        let mut producers = Producers::default();
        fill(&mut log, &mut producers, 40);
        assert!(snapshots(&bench).len() > 1);
        let (mut log, _) = bench.crash(log, Keep::All, Opening::unknown());
        assert_eq!(last(&log.load_producers().unwrap()), last(&producers));
    }

    #[tokio::test]
    async fn a_torn_snapshot_is_replaced_by_an_older_one() {
        let bench = Bench::new(2);
        let (mut log, _) = bench.open(Opening::unknown());
        let mut producers = Producers::default();
        fill(&mut log, &mut producers, 40);
        let before = snapshots(&bench);
        let newest = bench.dir.join(before.last().unwrap());
        bench.disk.open(&newest, Open::Write).unwrap().set_len(20).unwrap();
        assert_eq!(last(&log.load_producers().unwrap()), last(&producers));
        assert_eq!(snapshots(&bench).len(), before.len() - 1);
    }

    #[tokio::test]
    async fn a_truncation_forgets_what_it_cut() {
        let bench = Bench::new(3);
        let (mut log, _) = bench.open(Opening::unknown());
        let mut producers = Producers::default();
        fill(&mut log, &mut producers, 20);
        let at_forty = last(&producers);
        fill(&mut log, &mut producers, 20);
        log.keep_producers(&producers, log.end_offset()).unwrap();
        log.truncate_to(Offset(40)).unwrap();
        assert_eq!(last(&log.load_producers().unwrap()), at_forty);
        fill(&mut log, &mut producers, 0);
        assert!(snapshots(&bench).iter().all(|name| name.as_str() <= "00000000000000000040.snapshot"));
    }
}
