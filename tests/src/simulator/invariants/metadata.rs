//! The metadata: one history, the same image everywhere, epochs that only grow.

use std::{collections::BTreeMap, sync::Arc};

use quorate_core::{
    consensus::{Epoch, LogIndex, NodeId},
    ids::{BrokerEpoch, LeaderEpoch, PartitionId},
    metadata::{Image, image::Partition},
};

use super::{Violation, holds};
use crate::simulator::world::World;

/// Images that have been seen, at any node.
#[derive(Default)]
pub(in crate::simulator) struct Seen {
    images: BTreeMap<LogIndex, Arc<Image>>,
    leaders: BTreeMap<(PartitionId, LeaderEpoch), NodeId>,
    controllers: BTreeMap<Epoch, NodeId>,
    registrations: BTreeMap<NodeId, BrokerEpoch>,
    newest: LogIndex,
}

/// Images that are kept for comparison: nodes are not further behind than this, or are compared by what they add up to.
const KEPT: usize = 20_000;

pub(super) fn look(world: &mut World) -> Result<(), Violation> {
    let brokers: Vec<_> = world
        .machines
        .values()
        .filter_map(|machine| Some((machine.node, machine.process.as_ref()?.broker.clone())))
        .collect();
    let committed = world.shared.cluster.committed();
    let seen = &mut world.observer.metadata;
    for (node, broker) in brokers {
        let image = broker.image_arc();
        holds!(
            36,
            image.index <= committed,
            "node {node} has applied {}, committed is {committed}",
            image.index
        );
        if let Some(other) = seen.images.get(&image.index) {
            let same = other.chain == image.chain && (Arc::ptr_eq(other, &image) || *other == image);
            holds!(35, same, "node {node} has another image at entry {} than others had", image.index);
            continue;
        }
        alone(&image)?;
        seen.images.insert(image.index, image.clone());
        while seen.images.len() > KEPT {
            seen.images.pop_first();
        }
        seen.follows(&image)?;
    }
    Ok(())
}

impl Seen {
    /// What holds between an image and those before and after it, whichever node showed them.
    fn follows(&mut self, image: &Arc<Image>) -> Result<(), Violation> {
        let before = self.images.range(..image.index).next_back().map(|(_, before)| before.clone());
        let after = self.images.range(image.index.next()..).next().map(|(_, after)| after.clone());
        for (older, newer) in [(before, Some(image.clone())), (Some(image.clone()), after)]
            .into_iter()
            .filter_map(|(a, b)| Some((a?, b?)))
        {
            grows(&older, &newer)?;
        }
        self.one_leader_each(image)?;
        if image.index > self.newest {
            self.newest = image.index;
            for broker in image.brokers.values() {
                let last = self.registrations.insert(broker.node, broker.epoch);
                let (node, epoch) = (broker.node, broker.epoch);
                holds!(13, last <= Some(epoch), "broker {node} has epoch {epoch} after {last:?}");
            }
        }
        Ok(())
    }

    fn one_leader_each(&mut self, image: &Image) -> Result<(), Violation> {
        if let Some(controller) = &image.controller {
            let (epoch, node) = (controller.epoch, controller.node);
            let first = *self.controllers.entry(epoch).or_insert(node);
            holds!(36, first == node, "controllers {first} and {node} in epoch {epoch}");
        }
        for (id, partition) in partitions(image) {
            if !partition.has_leader() {
                continue;
            }
            let (leader, epoch) = (partition.leader, partition.leader_epoch);
            let first = *self.leaders.entry((id, epoch)).or_insert(leader);
            holds!(8, first == leader, "{id} is led by {first} and by {leader} in leader epoch {epoch}");
        }
        Ok(())
    }
}

fn partitions(image: &Image) -> impl Iterator<Item = (PartitionId, &Partition)> {
    image.topics.values().flat_map(|topic| {
        let numbered = topic.partitions.iter().zip(0..);
        numbered.map(|(partition, index)| (PartitionId { topic: topic.id, index }, partition))
    })
}

/// What holds in one image.
fn alone(image: &Image) -> Result<(), Violation> {
    for (id, partition) in partitions(image) {
        let Partition { leader, isr, elr, replicas, recovering, .. } = partition;
        let all_in = |nodes: &[NodeId]| nodes.iter().all(|node| replicas.contains(node));
        holds!(
            10,
            !partition.has_leader() || isr.contains(leader),
            "leader {leader} of {id} is not in {isr:?}"
        );
        holds!(10, all_in(isr) && all_in(elr), "{id}: ISR {isr:?}, ELR {elr:?}, replicas {replicas:?}");
        holds!(
            10,
            !isr.iter().any(|node| elr.contains(node)),
            "{id}: {isr:?} and {elr:?} have a node in common"
        );
        holds!(
            22,
            !recovering || isr.as_slice() == [*leader],
            "{id} recovers with ISR {isr:?}, leader {leader}"
        );
        let inactive = isr.iter().find(|node| !image.is_active(**node));
        holds!(11, inactive.is_none(), "{id}: {inactive:?} is fenced or leaving and in the ISR {isr:?}");
    }
    Ok(())
}

/// What holds between two images of one log.
fn grows(older: &Image, newer: &Image) -> Result<(), Violation> {
    for (id, before) in partitions(older) {
        let Some(after) = newer.partition(id) else { continue };
        let (old, new) = (before.leader_epoch, after.leader_epoch);
        holds!(8, old <= new, "{id}: leader epoch {new} after {old}");
        holds!(8, before.partition_epoch <= after.partition_epoch, "{id}: the partition epoch falls");
        holds!(8, before.leader == after.leader || old < new, "{id}: another leader in leader epoch {old}");
        let same = before.leader == after.leader && before.isr == after.isr;
        let bumped = before.partition_epoch < after.partition_epoch;
        holds!(
            8,
            same || bumped,
            "{id}: another leader or ISR in partition epoch {}",
            before.partition_epoch
        );
    }
    for broker in older.brokers.values() {
        let now = newer.broker_epoch(broker.node);
        let (node, epoch) = (broker.node, broker.epoch);
        holds!(13, now == BrokerEpoch::NONE || now >= epoch, "broker {node} has epoch {now} after {epoch}");
    }
    Ok(())
}
