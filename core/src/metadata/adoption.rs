//! The state that a new generation of the log begins with: what a node has kept of the generation before, after that
//! log was lost. Whatever was numbered in the lost part is skipped, because it was used: leader epochs stand in logs on
//! disks, broker epochs are log indexes, blocks of producer ids are in producers' hands.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use thiserror::Error;

use super::{
    image::{Founding, Image, Partition, Topic},
    snapshot,
};
use crate::{
    consensus::{Chain, LogId},
    ids::{Epoch, LeaderEpoch, LogIndex, PartitionEpoch, TopicId},
};

/// How far log indexes jump: more entries than any log has lost.
const INDEXES_SKIPPED: u64 = 1 << 32;
/// How far the epochs of the log, of partitions and of their leaders jump. A leader epoch has room for 2,000 such jumps.
const EPOCHS_SKIPPED: i32 = 1 << 20;
/// How far producer ids jump: a block of a thousand for every entry that may have been lost is more than there is.
const PRODUCER_IDS_SKIPPED: i64 = 1 << 40;

/// A state cannot be adopted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AdoptError {
    /// It is no state of a cluster.
    #[error("there is no metadata to go on with: this node has kept no image of a founded cluster")]
    NotFounded,
    /// Generations grow.
    #[error("the metadata is of generation {0} already, or of a later one")]
    Generation(u64),
    /// A number has come to the end of its range.
    #[error("a number has come to the end of its range")]
    Exhausted,
}

/// What `image` becomes as the beginning of `generation`. `beyond` is the furthest point that the lost log is known to
/// have reached besides: another node may have led it further.
///
/// # Errors
/// [`AdoptError`].
pub fn adopt(image: &Arc<Image>, generation: u64, beyond: (LogIndex, Epoch)) -> Result<Image, AdoptError> {
    let founding = image.founding.ok_or(AdoptError::NotFounded)?;
    if generation <= founding.generation {
        return Err(AdoptError::Generation(founding.generation));
    }
    let skipped = u64::from(EPOCHS_SKIPPED.unsigned_abs());
    let index = image.index.max(beyond.0).0.checked_add(INDEXES_SKIPPED).ok_or(AdoptError::Exhausted)?;
    let epoch = image.epoch.max(beyond.1).0.checked_add(skipped).ok_or(AdoptError::Exhausted)?;
    let next_producer_id =
        image.next_producer_id.checked_add(PRODUCER_IDS_SKIPPED).ok_or(AdoptError::Exhausted)?;
    let log_id = LogId::of(founding.cluster, generation);
    // Two different states that are adopted as the same generation have different histories.
    let chain = Chain::start(log_id).link(Epoch(epoch), &snapshot::hash(image));
    Ok(Image {
        log_id,
        index: LogIndex(index),
        epoch: Epoch(epoch),
        chain,
        founding: Some(Founding { generation, ..founding }),
        controller: None,
        deaf: None,
        topics: topics(image)?,
        next_producer_id,
        ..Image::clone(image)
    })
}

fn topics(image: &Image) -> Result<OrdMap<TopicId, Arc<Topic>>, AdoptError> {
    let skip = |topic: &Arc<Topic>| {
        let partitions = topic.partitions.iter().map(skip_epochs).collect::<Result<Vector<_>, _>>()?;
        Ok(Arc::new(Topic { partitions, ..Topic::clone(topic) }))
    };
    image.topics.iter().map(|(id, topic)| Ok((*id, skip(topic)?))).collect()
}

/// The same leader and the same in-sync replicas, in epochs that nobody has used.
fn skip_epochs(partition: &Partition) -> Result<Partition, AdoptError> {
    let skip = |epoch: i32| epoch.checked_add(EPOCHS_SKIPPED).ok_or(AdoptError::Exhausted);
    Ok(Partition {
        leader_epoch: LeaderEpoch(skip(partition.leader_epoch.0)?),
        partition_epoch: PartitionEpoch(skip(partition.partition_epoch.0)?),
        ..partition.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{
        Command, apply,
        snapshot::{Chunks, Reader},
        testing::Story,
    };

    fn image() -> Arc<Image> {
        let mut story = Story::with_brokers(3, &[]);
        story.create("orders", &[&[1, 2, 3], &[2, 3, 1]], &[]);
        story.image
    }

    fn read_back(image: &Arc<Image>) -> Image {
        let mut reader = Reader::new();
        Chunks::of(image.clone()).for_each(|chunk| reader.push(&chunk).unwrap());
        reader.finish().unwrap()
    }

    #[test]
    fn everything_that_may_have_been_numbered_is_skipped_and_the_rest_stays() {
        let image = image();
        let adopted = adopt(&image, 2, (LogIndex(0), Epoch(0))).unwrap();
        let founding = image.founding.unwrap();
        assert_eq!(adopted.log_id, LogId::of(founding.cluster, 2));
        assert_eq!(adopted.founding, Some(Founding { generation: 2, ..founding }));
        assert_eq!(
            (adopted.brokers.clone(), adopted.names.clone()),
            (image.brokers.clone(), image.names.clone())
        );
        assert!(
            adopted.index.0 > image.index.0 + 1_000_000_000 && adopted.epoch.0 > image.epoch.0 + 1_000_000
        );
        assert!(adopted.next_producer_id > image.next_producer_id + 1_000_000_000);
        for (id, topic) in &image.topics {
            for (before, after) in topic.partitions.iter().zip(&adopted.topics[id].partitions) {
                assert_eq!(after.leader_epoch.0, before.leader_epoch.0 + (1 << 20));
                assert!(after.partition_epoch > before.partition_epoch);
                assert_eq!(
                    (after.leader, &after.isr, &after.replicas),
                    (before.leader, &before.isr, &before.replicas)
                );
            }
        }
        assert_eq!(read_back(&Arc::new(adopted.clone())), adopted);
        let further = adopt(&image, 2, (LogIndex(900), Epoch(70))).unwrap();
        assert_eq!((further.index.0 - (1 << 32), further.epoch.0 - (1 << 20)), (900, 70));
    }

    #[test]
    fn the_log_goes_on_behind_it() {
        let image = image();
        let adopted = adopt(&image, 2, (LogIndex(0), Epoch(0))).unwrap();
        let opened = apply(&adopted, adopted.index.next(), Epoch(adopted.epoch.0 + 1), b"").unwrap().0;
        let nothing = Command::NoOp(crate::metadata::command::NoOp::default()).to_entry();
        assert!(apply(&opened, opened.index.next(), opened.epoch, &nothing).is_ok());
        let other = Arc::new(Image { unclean_elections: 1, ..Image::clone(&image) });
        let other = adopt(&other, 2, (LogIndex(0), Epoch(0))).unwrap();
        assert_ne!(other.chain, adopted.chain, "two states are two histories");
    }

    #[test]
    fn what_is_no_cluster_or_would_go_back_is_refused() {
        let image = image();
        let nowhere = (LogIndex(0), Epoch(0));
        assert_eq!(adopt(&Arc::default(), 2, nowhere), Err(AdoptError::NotFounded));
        assert_eq!(adopt(&image, 1, nowhere), Err(AdoptError::Generation(1)));
        let end = (LogIndex(u64::MAX), Epoch(0));
        assert_eq!(adopt(&image, 2, end), Err(AdoptError::Exhausted));
    }
}
