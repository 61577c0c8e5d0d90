//! Follows the committed log and keeps the image: the only writer of the image on this node.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::{Broker, image_file};
use crate::{
    consensus::{Committed, CompactError, LogId, Running, Snapshot},
    ids::{Epoch, LogIndex},
    metadata::{Image, Outcome, apply, snapshot::Reader},
    planted::{Bug, planted},
    runtime::Moment,
};

/// Entries after which the image is written to the disk again.
const ENTRIES_MAX: u64 = 10_000;
/// Bytes of entries after which the image is written to the disk again.
const BYTES_MAX: u64 = 64 << 20;
/// The image is written to the disk when nothing has changed for so long,
const QUIET: Duration = Duration::from_secs(5);
/// and after so long if changes do not end: what a node that is started while nobody leads has to say is not older.
const LATE: Duration = Duration::from_secs(60);
/// Before a snapshot that could not be read to its end is asked for again.
const RETRY: Duration = Duration::from_millis(500);

/// Follows the log until the backend or the node stops.
pub(super) async fn run(broker: Arc<Broker>, consensus: Arc<dyn Running>, store: mpsc::Sender<ToStore>) {
    let mut applier = Applier {
        image: broker.image_arc(),
        stored: broker.image().index,
        bytes: 0,
        changes: None,
        broker: broker.clone(),
        consensus: consensus.clone(),
        store,
    };
    loop {
        let mut committed = consensus.committed(applier.image.index);
        loop {
            let item = tokio::select! { biased;
                () = broker.runtime.tasks.stopping() => return,
                item = committed.next() => item,
                () = applier.due() => {
                    applier.hand_over(false);
                    continue;
                }
            };
            let step = match item {
                Some(Committed::Entry { index, epoch, data }) => applier.entry(index, epoch, &data),
                Some(Committed::Snapshot(snapshot)) => applier.snapshot(snapshot).await,
                None => {
                    if let Some(fatal) = consensus.status().fatal {
                        broker.fail(&fatal);
                    }
                    return;
                }
            };
            match step {
                Ok(()) => {}
                Err(Problem::Fatal(reason)) => return broker.fail(&reason),
                Err(Problem::Retry(reason)) => {
                    tracing::warn!(%reason, "a snapshot of the metadata is asked for again");
                    break;
                }
            }
        }
        broker.runtime.clock.sleep(RETRY).await;
    }
}

/// Writes images to the disk as the applier hands them over, and lets the backend forget what they contain. Runs on a
/// thread of its own, because a sync blocks.
pub(super) async fn store(
    broker: Arc<Broker>,
    consensus: Arc<dyn Running>,
    mut images: mpsc::Receiver<ToStore>,
) {
    loop {
        let image = tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => return,
            image = images.recv() => image,
        };
        let Some(ToStore { image, shortens }) = image else { return };
        let folder = &broker.config.metadata_dir;
        let meta = match image_file::store(&broker.runtime, folder, &image, &broker.syncs).await {
            Ok(meta) => meta,
            Err(error) => {
                let folder = folder.display();
                return broker
                    .fail_sync(&format!("cannot write the image of the metadata in {folder}: {error}"));
            }
        };
        if !shortens {
            continue;
        }
        match consensus.compact(image_file::snapshot(image, meta)).await {
            Ok(()) => {}
            // Where one node writes for all, or nobody can now: the next image comes to it.
            Err(CompactError::Unavailable(reason)) => {
                tracing::debug!(%reason, "the log is not shortened now")
            }
            Err(error) => tracing::warn!(%error, "the log of the metadata could not be shortened"),
        }
    }
}

/// An image that is to be written to the disk.
pub(super) struct ToStore {
    image: Arc<Image>,
    /// Whether the backend may forget what it contains.
    shortens: bool,
}

struct Applier {
    broker: Arc<Broker>,
    consensus: Arc<dyn Running>,
    image: Arc<Image>,
    /// The entry of the last image that the backend's log was shortened to.
    stored: LogIndex,
    /// Bytes of entries since then.
    bytes: u64,
    /// When the first of them and the last of them came.
    changes: Option<(Moment, Moment)>,
    store: mpsc::Sender<ToStore>,
}

enum Problem {
    /// The node cannot follow the log.
    Fatal(String),
    /// Worth another try.
    Retry(String),
}

impl Applier {
    fn entry(&mut self, index: LogIndex, epoch: Epoch, data: &Bytes) -> Result<(), Problem> {
        self.name_log()?;
        let leaves_out = planted(Bug::SkipsEntries) && index.0.is_multiple_of(7);
        let data = if leaves_out { &Bytes::new() } else { data };
        let (image, outcome) =
            apply(&self.image, index, epoch, data).map_err(|error| Problem::Fatal(error.to_string()))?;
        if let Outcome::Rejected(rejection) = &outcome {
            tracing::debug!(%index, %rejection, "a command was rejected");
        }
        let unclean = image.unclean_elections.saturating_sub(self.image.unclean_elections);
        if unclean > 0 {
            tracing::warn!(%index, count = unclean, "unclean elections: acknowledged records may be lost");
        }
        self.broker.outcomes.note(index, &outcome);
        self.publish(image);
        self.bytes += data.len() as u64;
        let now = self.broker.runtime.clock.now();
        let first = self.changes.map_or(now, |(first, _)| first);
        self.changes = Some((first, now));
        if self.image.index.0.saturating_sub(self.stored.0) >= ENTRIES_MAX || self.bytes >= BYTES_MAX {
            self.hand_over(true);
        }
        Ok(())
    }

    async fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), Problem> {
        self.name_log()?;
        let Snapshot { meta, mut chunks } = snapshot;
        if meta.index <= self.image.index {
            return Ok(());
        }
        let mut reader = Reader::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Problem::Retry(error.to_string()))?;
            reader.push(&chunk).map_err(|error| Problem::Fatal(error.to_string()))?;
        }
        let image = reader.finish().map_err(|error| Problem::Fatal(error.to_string()))?;
        let same = (image.index, image.epoch, image.chain) == (meta.index, meta.epoch, meta.chain);
        if !same || image.log_id != self.image.log_id {
            return Err(Problem::Fatal("a snapshot of the metadata is of another history".to_owned()));
        }
        self.publish(image);
        self.hand_over(true);
        Ok(())
    }

    /// Before the first entry, the log's name is learnt from the backend.
    fn name_log(&mut self) -> Result<(), Problem> {
        if self.image.log_id != LogId::default() {
            return Ok(());
        }
        let Some(log_id) = self.consensus.status().log_id else {
            return Err(Problem::Fatal(
                "the backend has committed something and not named its log".to_owned(),
            ));
        };
        self.image = Arc::new(Image::new(log_id));
        Ok(())
    }

    fn publish(&mut self, image: Image) {
        self.image = Arc::new(image);
        self.broker.publish(self.image.clone());
    }

    /// Returns when changes should be written to the disk though they are few.
    async fn due(&self) {
        let Some((first, last)) = self.changes else { return std::future::pending().await };
        let now = self.broker.runtime.clock.now();
        let left = last.plus(QUIET).min(first.plus(LATE)).since(now);
        self.broker.runtime.clock.sleep(left).await;
    }

    /// If the last image is still being written, the next entry, or the next moment that it is due, tries again.
    fn hand_over(&mut self, shortens: bool) {
        if self.store.try_send(ToStore { image: self.image.clone(), shortens }).is_ok() {
            self.changes = None;
            if shortens {
                self.stored = self.image.index;
                self.bytes = 0;
            }
        } else {
            let now = self.broker.runtime.clock.now();
            self.changes = self.changes.map(|_| (now, now));
        }
    }
}
