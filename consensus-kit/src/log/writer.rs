//! The thread that writes the log: one batch, one sync, one answer.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quorate_core::{
    consensus::{Chain, LogId},
    ids::LogIndex,
    runtime::{Clock, Disk, Rng, Runtime},
};
use tokio::sync::mpsc;

use super::{
    Batch, Done, LogConfig, LogError, Point, Shared, Vote,
    format::{Encoded, FileId, HEADER, Header, Record, encode_batch},
    mark::Mark,
    recover::{Recovered, recover, storage},
    view::{Segment, Slot, View},
};
use crate::{
    codec::slice,
    disk::{create_folder, create_whole, is_full, unfinished},
};

/// How long a full disk is left alone before the next try.
const FULL_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Job {
    pub(super) work: Work,
    pub(super) done: Done,
}

pub(super) enum Work {
    Write(Batch),
    Restart(Point, Vote),
    Forget(LogIndex),
    Close,
}

/// The end of the log. Owned by the writing thread.
pub(super) struct Writer {
    folder: PathBuf,
    log: LogId,
    segment_bytes: u64,
    disk: Arc<dyn Disk>,
    clock: Clock,
    rng: Rng,
    mark: Mark,
    segment: Arc<Segment>,
    position: u64,
    next_batch: u64,
    vote: Vote,
    last: Point,
    failed: Option<LogError>,
}

impl Writer {
    /// Recovers a folder and begins a new segment in it. The segments of before are never written again, so that a
    /// writer of an earlier life of this process, should one still be about to write, spoils nothing.
    pub(super) async fn open(config: LogConfig, runtime: &Runtime) -> Result<(Self, View), LogError> {
        let (disk, folder) = (&runtime.disk, &config.folder);
        create_folder(disk, folder).map_err(|error| storage("make", folder, &error))?;
        let (mark, acknowledged) =
            Mark::open(disk, folder).map_err(|error| storage("open the mark in", folder, &error))?;
        let mut recovered = recover(&config, disk, acknowledged)?;
        make_durable(&recovered).await?;
        if let Some(snapshot) = recovered.restart {
            recovered.begin_anew(raised(recovered.view.vote, snapshot), snapshot);
        }
        let Recovered { mut view, next_batch, next_sequence, obsolete, restart } = recovered;
        let header = Header {
            restart: restart.is_some(),
            file: FileId(*runtime.rng.uuid().as_bytes()),
            log: config.log,
            first_batch: next_batch,
            vote: view.vote,
            last: view.last(),
        };
        let path = segment_path(folder, next_sequence);
        let file = create_whole(disk, &path, &header.encode()).await;
        let file = file.map_err(|error| storage("make", &path, &error))?;
        for path in &obsolete {
            disk.remove_file(path).map_err(|error| storage("remove", path, &error))?;
        }
        let segment = Arc::new(Segment { sequence: next_sequence, path, id: header.file, file });
        view.segments.insert(next_sequence, segment.clone());
        let writer = Self {
            folder: config.folder,
            log: config.log,
            segment_bytes: config.segment_bytes,
            disk: disk.clone(),
            clock: runtime.clock.clone(),
            rng: runtime.rng.clone(),
            mark,
            segment,
            position: HEADER as u64,
            next_batch,
            vote: view.vote,
            last: view.last(),
            failed: None,
        };
        Ok((writer, view))
    }

    pub(super) async fn run(mut self, shared: Arc<Shared>, mut queue: mpsc::Receiver<Job>) {
        while let Some(Job { work, done }) = queue.recv().await {
            let last = matches!(work, Work::Close);
            // After a failed write or sync the file's contents are unknown: nothing is tried again.
            let result = match &self.failed {
                Some(error) => Err(error.clone()),
                None => self.perform(&shared, work).await,
            };
            if let Err(error) = &result {
                self.failed = Some(error.clone());
            }
            // Whoever asked may be gone; the log is what it is.
            let _gone = done.send(result);
            if last {
                return;
            }
        }
    }

    async fn perform(&mut self, shared: &Shared, work: Work) -> Result<(), LogError> {
        match work {
            Work::Write(batch) => self.write(shared, batch).await,
            Work::Restart(point, vote) => self.restart(shared, point, vote).await,
            Work::Forget(index) => self.forget(shared, index),
            Work::Close => {
                self.mark.sync().await.map_err(|error| storage("sync the mark in", &self.folder, &error))
            }
        }
    }

    async fn write(&mut self, shared: &Shared, batch: Batch) -> Result<(), LogError> {
        let records = self.records(shared, batch)?;
        if records.is_empty() {
            return Ok(());
        }
        if self.position >= self.segment_bytes {
            self.begin_segment(shared, false).await?;
        }
        let encoded = encode_batch(self.segment.id, self.position, self.next_batch, &records)
            .ok_or_else(|| LogError::Storage("a batch of more than 4 GiB cannot be written".to_owned()))?;
        self.write_when_there_is_space(shared, &encoded.bytes).await?;
        let path = &self.segment.path;
        self.segment.file.sync().await.map_err(|error| storage("sync", path, &error))?;
        self.mark.note(self.next_batch).map_err(|error| storage("mark", path, &error))?;
        self.publish(shared, records, &encoded);
        self.position += encoded.bytes.len() as u64;
        self.next_batch += 1;
        Ok(())
    }

    /// What a batch says, as records; refuses what would make a hole or undo what is committed.
    fn records(&self, shared: &Shared, batch: Batch) -> Result<Vec<Record>, LogError> {
        let view = shared.view.read();
        let mut last = self.last;
        let mut records = Vec::with_capacity(batch.entries.len() + 2);
        if let Some(after) = batch.truncate_after.filter(|after| *after < last.index) {
            last = view
                .point(after)
                .ok_or_else(|| misuse(after, "the log cannot be cut before its beginning"))?;
            records.push(Record::Truncate(after));
        }
        for entry in batch.entries {
            if entry.index.0 != last.index.0 + 1 {
                let before = LogIndex(entry.index.0.saturating_sub(1));
                let known =
                    view.point(before).filter(|point| point.index <= last.index && records.is_empty());
                last = known.ok_or_else(|| misuse(entry.index, "an entry would leave a hole"))?;
            }
            if entry.index <= self.vote.commit {
                return Err(misuse(entry.index, "a committed entry would be replaced"));
            }
            let chain: Chain = last.chain.link(entry.epoch, entry.published());
            last = Point { index: entry.index, epoch: entry.epoch, chain };
            records.push(Record::Entry(entry, chain));
        }
        records.extend(batch.vote.filter(|vote| *vote != self.vote).map(Record::Vote));
        Ok(records)
    }

    /// Writes a batch at the end. Nothing of it is acknowledged yet, so that writing it again is safe, and a full disk
    /// is waited for.
    async fn write_when_there_is_space(&self, shared: &Shared, bytes: &[u8]) -> Result<(), LogError> {
        while let Err(error) = self.segment.file.write_at(&mut slice(bytes), self.position) {
            self.wait_for_space(shared, &self.segment.path, &error).await?;
        }
        *shared.trouble.lock() = None;
        Ok(())
    }

    /// Waits a while if the disk is full; every other error is final.
    async fn wait_for_space(&self, shared: &Shared, path: &Path, error: &io::Error) -> Result<(), LogError> {
        if !is_full(error) {
            return Err(storage("write", path, error));
        }
        *shared.trouble.lock() = Some(format!("the disk is full: cannot write {}", path.display()));
        self.clock.sleep(FULL_PAUSE).await;
        Ok(())
    }

    /// Lets readers see what is durable now.
    fn publish(&mut self, shared: &Shared, records: Vec<Record>, encoded: &Encoded) {
        let mut view = shared.view.write();
        for (record, (position, length)) in records.into_iter().zip(&encoded.places) {
            match record {
                Record::Vote(vote) => view.vote = vote,
                Record::Truncate(after) => view.truncate_after(after),
                Record::Entry(entry, chain) => {
                    let (segment, position, length) = (self.segment.clone(), *position, *length);
                    view.put(entry.index, Slot { segment, position, length, epoch: entry.epoch, chain });
                }
            }
        }
        self.vote = view.vote;
        self.last = view.last();
    }

    /// Starts the next segment.
    async fn begin_segment(&mut self, shared: &Shared, restart: bool) -> Result<(), LogError> {
        let header = Header {
            restart,
            file: FileId(*self.rng.uuid().as_bytes()),
            log: self.log,
            first_batch: self.next_batch,
            vote: self.vote,
            last: self.last,
        };
        let sequence = self.segment.sequence + 1;
        let path = segment_path(&self.folder, sequence);
        let bytes = header.encode();
        let file = loop {
            let error = match create_whole(&self.disk, &path, &bytes).await {
                Ok(file) => break file,
                Err(error) => error,
            };
            if is_full(&error) && self.disk.exists(&unfinished(&path)) {
                self.remove(&unfinished(&path))?;
            }
            self.wait_for_space(shared, &path, &error).await?;
        };
        *shared.trouble.lock() = None;
        self.mark.sync().await.map_err(|error| storage("sync the mark in", &self.folder, &error))?;
        self.segment = Arc::new(Segment { sequence, path, id: header.file, file });
        self.position = HEADER as u64;
        shared.view.write().segments.insert(sequence, self.segment.clone());
        Ok(())
    }

    async fn restart(&mut self, shared: &Shared, point: Point, vote: Vote) -> Result<(), LogError> {
        self.last = point;
        self.vote = raised(vote, point);
        self.begin_segment(shared, true).await?;
        let mut view = shared.view.write();
        view.restart(point, self.vote);
        let kept = view.segments.split_off(&self.segment.sequence);
        let void = std::mem::replace(&mut view.segments, kept);
        drop(view);
        for segment in void.values() {
            self.remove(&segment.path)?;
        }
        Ok(())
    }

    /// Removes the segments of forgotten entries, from the oldest on, each durably before the next, so that no hole can
    /// appear.
    fn forget(&self, shared: &Shared, index: LogIndex) -> Result<(), LogError> {
        shared.view.write().forget(index);
        loop {
            let segment = shared.view.write().take_empty_segment();
            let Some(segment) = segment else { return Ok(()) };
            self.remove(&segment.path)?;
            self.disk.sync_dir(&self.folder).map_err(|error| storage("sync", &self.folder, &error))?;
        }
    }

    fn remove(&self, path: &Path) -> Result<(), LogError> {
        self.disk.remove_file(path).map_err(|error| storage("remove", path, &error))
    }
}

/// A vote that knows of a snapshot: its entries are committed, and its term was seen.
fn raised(vote: Vote, snapshot: Point) -> Vote {
    let commit = vote.commit.max(snapshot.index);
    if vote.term >= snapshot.epoch.0 {
        return Vote { commit, ..vote };
    }
    Vote { term: snapshot.epoch.0, voted_for: None, commit }
}

/// Whatever a killed process had written and not synced is made durable before anybody relies on it.
async fn make_durable(recovered: &Recovered) -> Result<(), LogError> {
    let Some((_, newest)) = recovered.view.segments.last_key_value() else { return Ok(()) };
    newest.file.sync().await.map_err(|error| storage("sync", &newest.path, &error))
}

fn segment_path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:020}.log"))
}

fn misuse(index: LogIndex, reason: &str) -> LogError {
    LogError::Storage(format!("entry {index} was not written: {reason}"))
}
