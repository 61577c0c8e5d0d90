//! What differs between two images: the cost is that of the difference, not of the images, as both share what is the
//! same.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::image::{Broker, Image, Partition, Topic};

/// One topic that is not the same in two images.
#[derive(Clone, Debug)]
pub enum TopicChange<'a> {
    /// Only in the later one.
    Created(&'a Arc<Topic>),
    /// In both, but not the same.
    Changed {
        /// As it was.
        before: &'a Arc<Topic>,
        /// As it is.
        after: &'a Arc<Topic>,
    },
    /// Only in the earlier one.
    Deleted(&'a Arc<Topic>),
}

/// The topics that differ, in order of their ids. A name that was deleted and created again is a topic deleted and
/// another created.
pub fn topics<'a>(before: &'a Image, after: &'a Image) -> impl Iterator<Item = TopicChange<'a>> {
    before.topics.diff(&after.topics).map(|item| match item {
        DiffItem::Add(_, topic) => TopicChange::Created(topic),
        DiffItem::Update { old: (_, before), new: (_, after) } => TopicChange::Changed { before, after },
        DiffItem::Remove(_, topic) => TopicChange::Deleted(topic),
    })
}

/// The partitions of a topic that differ, by number: before (`None` where it is new) and after. Partitions are never
/// taken from a topic.
pub fn partitions<'a>(
    before: &'a Topic,
    after: &'a Topic,
) -> impl Iterator<Item = (usize, Option<&'a Partition>, &'a Partition)> {
    let same = before.partitions.ptr_eq(&after.partitions);
    let earlier = before.partitions.iter().map(Some).chain(std::iter::repeat(None));
    let both = after.partitions.iter().take(if same { 0 } else { usize::MAX }).zip(earlier).enumerate();
    both.filter(|(_, (after, before))| *before != Some(*after))
        .map(|(number, (after, before))| (number, before, after))
}

/// The brokers that differ, in order of their ids: before and after, `None` where there is none.
pub fn brokers<'a>(
    before: &'a Image,
    after: &'a Image,
) -> impl Iterator<Item = (Option<&'a Arc<Broker>>, Option<&'a Arc<Broker>>)> {
    before.brokers.diff(&after.brokers).map(|item| match item {
        DiffItem::Add(_, broker) => (None, Some(broker)),
        DiffItem::Update { old: (_, before), new: (_, after) } => (Some(before), Some(after)),
        DiffItem::Remove(_, broker) => (Some(broker), None),
    })
}
