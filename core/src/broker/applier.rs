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
/// While changes do not end, the image is written after so many times the time that is waited for their rest: what a node
/// that is started while nobody leads has to say is not older.
const LATE: u32 = 12;
/// After topics have come or gone it is written in so many parts of that time: whoever starts again after a crash, with a
/// log that a restore has taken back, must not take their folders for left over ones.
const TOPICS_SOONER: u32 = 10;
/// A large image takes longer, by so much for each topic.
const TOPICS_EACH: Duration = Duration::from_millis(1);
/// Before a snapshot that could not be read to its end is asked for again.
const RETRY: Duration = Duration::from_millis(500);

/// Follows the log until the backend or the node stops.
pub(super) async fn run(broker: Arc<Broker>, consensus: Arc<dyn Running>, store: mpsc::Sender<ToStore>) {
    let mut applier = Applier {
        image: broker.image_arc(),
        stored: broker.image().index,
        bytes: 0,
        changes: None,
        topics_changed: false,
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
                    applier.hand_over(Why::Rest);
                    continue;
                }
            };
            let step = match item {
                Some(Committed::Entry { index, epoch, data }) => applier.entry(index, epoch, &data),
                Some(Committed::Snapshot(snapshot)) => applier.snapshot(snapshot).await,
                None => {
                    if let Some(fatal) = consensus.status().fatal {
                        applier.keep_last().await;
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
        let Some(ToStore { image, why }) = image else { return };
        let folder = &broker.config.metadata_dir;
        let writing = broker.image_writing.lock().await;
        if why == Why::LogEnds {
            if let Err(error) = image_file::keep(&broker.runtime, folder, &image, &broker.syncs).await {
                tracing::error!(%error, "the last image of the metadata was not written");
            }
            return;
        }
        let meta = match image_file::store(&broker.runtime, folder, &image, &broker.syncs).await {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                tracing::error!(%error, "no space for the image of the metadata: the next change tries again");
                continue;
            }
            Err(error) => {
                let folder = folder.display();
                return broker
                    .fail_sync(&format!("cannot write the image of the metadata in {folder}: {error}"));
            }
        };
        drop(writing);
        if why == Why::Rest {
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
    why: Why,
}

/// Why an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The log has grown: the backend may forget what the image contains.
    LogGrew,
    /// Changes have come to rest.
    Rest,
    /// The backend has failed for good: no other image will follow.
    LogEnds,
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
    /// Topics have come or gone since then.
    topics_changed: bool,
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
            self.hand_over(Why::LogGrew);
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
        self.hand_over(Why::LogGrew);
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
        self.topics_changed |= !self.image.names.ptr_eq(&image.names);
        self.image = Arc::new(image);
        self.broker.publish(self.image.clone());
    }

    /// The backend has failed for good, perhaps because its log is lost: then this image is the newest word that there
    /// is. Returns when it is written.
    async fn keep_last(&self) {
        if self.store.send(ToStore { image: self.image.clone(), why: Why::LogEnds }).await.is_ok() {
            self.store.closed().await;
        }
    }

    /// Returns when changes should be written to the disk though they are few.
    async fn due(&self) {
        let Some((first, last)) = self.changes else { return std::future::pending().await };
        let now = self.broker.runtime.clock.now();
        let rest = self.broker.config.timings.image;
        let usual = last.plus(rest).min(first.plus(rest * LATE));
        let size = u32::try_from(self.image.topics.len()).unwrap_or(u32::MAX);
        let sooner = first.plus(rest / TOPICS_SOONER + TOPICS_EACH * size).min(usual);
        let left = if self.topics_changed { sooner } else { usual }.since(now);
        self.broker.runtime.clock.sleep(left).await;
    }

    /// If the last image is still being written, the next entry, or the next moment that it is due, tries again.
    fn hand_over(&mut self, why: Why) {
        if self.store.try_send(ToStore { image: self.image.clone(), why }).is_ok() {
            self.changes = None;
            self.topics_changed = false;
            if why == Why::LogGrew {
                self.stored = self.image.index;
                self.bytes = 0;
            }
        } else {
            let now = self.broker.runtime.clock.now();
            self.changes = self.changes.map(|_| (now, now));
        }
    }
}
