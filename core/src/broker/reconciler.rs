//! Makes what runs on this node what the metadata wants: replicas are opened, told what has changed for them, and taken
//! away. Works on the difference of two images, on a thread of its own, because logs are opened and recovered here.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc, time::Duration};

use super::{Broker, folders::Folders};
use crate::{
    ids::{BrokerEpoch, NodeId, PartitionId},
    log::{Log, OpenError, Opening},
    metadata::{
        Image,
        diff::{self, TopicChange},
        image::{Partition, Topic},
    },
    partition::{
        replica::{Duties, Replica},
        settings::Settings,
    },
    planted::{Bug, planted},
};
use thiserror::Error;

/// Before a partition is made again that found no space.
const RETRY: Duration = Duration::from_secs(1);

/// Why a replica was not opened.
#[derive(Debug, Error)]
enum NotOpened {
    /// There is no space; that may pass.
    #[error("{0}")]
    Full(String),
    /// Worth no other try.
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::Full(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<OpenError> for NotOpened {
    fn from(error: OpenError) -> Self {
        match &error {
            OpenError::Disk(failure) if failure.source.kind() == io::ErrorKind::StorageFull => {
                Self::Full(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Follows the image until the node stops.
pub(super) async fn run(broker: Arc<Broker>, folders: Folders) {
    let mut applied = broker.applied();
    let mut reconciler = Reconciler {
        broker: broker.clone(),
        folders,
        done: Arc::default(),
        left_over: Vec::new(),
        full: BTreeSet::new(),
    };
    match reconciler.folders.scan() {
        Ok(found) => reconciler.left_over = found,
        Err(error) => return broker.fail(&format!("the log directories cannot be read: {error}")),
    }
    loop {
        applied.borrow_and_update();
        reconciler.follow(broker.image_arc());
        tokio::select! { biased;
            () = broker.runtime.tasks.stopping() => break,
            changed = applied.changed() => if changed.is_err() { break },
            () = broker.runtime.clock.sleep(RETRY), if !reconciler.full.is_empty() => reconciler.try_again(),
        }
    }
    for replica in broker.partitions.all() {
        let kept = replica.with_log(|log, producers| log.keep_producers(producers, log.end_offset()));
        if let Err(error) = kept {
            tracing::warn!(
                "a snapshot of producers was not written, so that the next start takes longer: {error}"
            );
        }
    }
}

struct Reconciler {
    broker: Arc<Broker>,
    folders: Folders,
    /// The image that has been made true.
    done: Arc<Image>,
    /// Folders that were there at the start and that nobody has asked for yet.
    left_over: Vec<(PartitionId, PathBuf)>,
    /// Partitions that found no space.
    full: BTreeSet<PartitionId>,
}

impl Reconciler {
    /// Nothing is done before the image holds this process's registration: an older image may say that this node leads,
    /// and speaks of the process before.
    fn follow(&mut self, image: Arc<Image>) {
        let own = image.brokers.get(&self.broker.node());
        let is_registered = own.is_some_and(|own| own.incarnation == self.broker.incarnation);
        if !is_registered && !planted(Bug::LeadsUnregistered) {
            return;
        }
        let before = std::mem::replace(&mut self.done, image.clone());
        // Configs before ISRs: whether a replica that leaves an ISR stays eligible depends on the minimum of that moment,
        // and a leader that takes the smaller ISR with an older, lower minimum would move the high watermark past it.
        self.follow_configs(&before, &image);
        // Names first: a topic that was created again may take the folder of the one that was deleted.
        for change in diff::topics(&before, &image) {
            if let TopicChange::Deleted(topic) = change {
                for index in 0..topic.partitions.len() {
                    self.remove(topic, index);
                }
            }
        }
        for change in diff::topics(&before, &image) {
            match change {
                TopicChange::Deleted(_) => {}
                TopicChange::Created(topic) => {
                    let partitions = topic.partitions.iter().enumerate();
                    partitions.for_each(|(index, wanted)| self.make(&image, topic, index, wanted));
                }
                TopicChange::Changed { before, after } => {
                    if before.configs != after.configs {
                        self.reconfigure(&image, after);
                    }
                    for (index, _, wanted) in diff::partitions(before, after) {
                        self.make(&image, after, index, wanted);
                    }
                }
            }
        }
        if diff::brokers(&before, &image).next().is_some() {
            for replica in self.broker.partitions.all() {
                replica.brokers_changed(active(&image));
            }
        }
        self.remove_left_over();
    }

    /// Makes one partition what it should be on this node.
    fn make(&mut self, image: &Image, topic: &Topic, index: usize, wanted: &Partition) {
        if !wanted.has_replica(self.broker.node()) {
            return self.remove(topic, index);
        }
        let Some(partition) = partition_of(topic, index) else { return };
        let running = self.broker.partitions.get(partition);
        let Some(replica) = running.or_else(|| self.open(image, topic, partition)) else { return };
        replica.observe(wanted, active(image));
    }

    fn open(&mut self, image: &Image, topic: &Topic, partition: PartitionId) -> Option<Arc<Replica>> {
        self.left_over.retain(|(found, _)| *found != partition);
        match self.try_open(image, topic, partition) {
            Ok(replica) => {
                self.full.remove(&partition);
                self.broker.partitions.insert(replica.clone());
                Some(replica)
            }
            Err(NotOpened::Full(reason)) => {
                if self.full.insert(partition) {
                    tracing::error!(
                        "{}-{} is not opened for now: {reason}; free some space in the log directory",
                        topic.name,
                        partition.index
                    );
                }
                None
            }
            Err(NotOpened::Failed(reason)) => {
                let reason = format!("{}-{} cannot be opened: {reason}", topic.name, partition.index);
                self.broker.fail(&reason);
                None
            }
        }
    }

    fn try_open(
        &mut self,
        image: &Image,
        topic: &Topic,
        partition: PartitionId,
    ) -> Result<Arc<Replica>, NotOpened> {
        let settings = self.settings(image, topic);
        let place = self.folders.place(&topic.name, partition)?;
        let directory = &place.directory;
        let kept = directory.checkpoints.find(&topic.name, partition.index);
        let opening = Opening {
            recovery_point: kept.recovery_point,
            log_start: kept.log_start,
            page_cache: self.folders.page_cache,
            rewrite: self.folders.rewrite,
        };
        let (mut log, recovery) =
            Log::open(&place.path, settings.log, &self.folders.parts(directory), opening)?;
        if planted(Bug::OpensShort) && log.end_offset() > log.start_offset() {
            let _ = log.truncate_to(crate::ids::Offset(log.end_offset().0 - 1));
        }
        if planted(Bug::CutsToCheckpoint)
            && let Some(high_watermark) = kept.high_watermark
        {
            let _ = log.truncate_to(high_watermark);
        }
        if let Some(cut) = recovery.cut {
            let (topic, index) = (&topic.name, partition.index);
            tracing::warn!("{topic}-{index}: {} bytes of a torn tail are cut: {}", cut.bytes, cut.reason);
        }
        let partitions = &self.broker.partitions;
        let duties = Duties {
            sync: directory.dirty.clone(),
            proposals: partitions.proposals.clone(),
            news: partitions.news.clone(),
        };
        let place = (self.broker.node(), self.broker.runtime.clock.clone());
        let replica = Replica::new(partition, topic.name.clone(), log, settings, place, duties)
            .map_err(|error| NotOpened::Failed(error.to_string()))?;
        if let Some(high_watermark) = kept.high_watermark {
            replica.resume_high_watermark(high_watermark);
        }
        Ok(replica)
    }

    /// Tries what found no space, as the image has it now.
    fn try_again(&mut self) {
        let image = self.done.clone();
        for partition in self.full.clone() {
            let topic = image.topics.get(&partition.topic);
            let wanted = image.partition(partition);
            match (topic, wanted, usize::try_from(partition.index)) {
                (Some(topic), Some(wanted), Ok(index)) if wanted.has_replica(self.broker.node()) => {
                    self.make(&image, topic, index, wanted);
                }
                _ => {
                    self.full.remove(&partition);
                }
            }
        }
    }

    /// From here on nothing of the partition is served.
    fn remove(&mut self, topic: &Topic, index: usize) {
        let Some(partition) = partition_of(topic, index) else { return };
        let Some(replica) = self.broker.partitions.remove(partition) else { return };
        replica.retire();
        if let Err(error) = self.folders.remove_partition(&replica.topic, partition) {
            tracing::error!("{}-{index}: its folder cannot be removed: {error}", replica.topic);
        }
    }

    /// Folders of partitions that were deleted, or moved away, while this node was down. The image is as new as this
    /// process's registration, so that whatever it does not want is not wanted.
    fn remove_left_over(&mut self) {
        for (partition, path) in std::mem::take(&mut self.left_over) {
            tracing::info!(
                "{}: the partition is not on this node any more; its folder is removed",
                path.display()
            );
            if let Err(error) = self.folders.remove_if(&path, partition.topic) {
                tracing::error!("{} cannot be removed: {error}", path.display());
            }
        }
    }

    /// Configs of the cluster, or of this broker, may concern every topic.
    fn follow_configs(&self, before: &Image, image: &Image) {
        let node = self.broker.node();
        if before.cluster_configs == image.cluster_configs
            && before.broker_configs.get(&node) == image.broker_configs.get(&node)
        {
            return;
        }
        image.topics.values().for_each(|topic| self.reconfigure(image, topic));
    }

    fn reconfigure(&self, image: &Image, topic: &Topic) {
        let settings = self.settings(image, topic);
        for index in 0..topic.partitions.len() {
            if let Some(replica) = partition_of(topic, index).and_then(|id| self.broker.partitions.get(id)) {
                replica.reconfigure(settings);
            }
        }
    }

    fn settings(&self, image: &Image, topic: &Topic) -> Settings {
        Settings::of(image, topic, self.broker.node(), &self.broker.config.file)
    }
}

fn partition_of(topic: &Topic, index: usize) -> Option<PartitionId> {
    Some(PartitionId { topic: topic.id, index: i32::try_from(index).ok()? })
}

/// A broker's registration, while it may be in an ISR.
fn active(image: &Image) -> impl Fn(NodeId) -> Option<BrokerEpoch> {
    |node| image.brokers.get(&node).filter(|broker| broker.is_active()).map(|broker| broker.epoch)
}
