//! The metadata: one history, the same image everywhere, epochs that only grow.

use std::collections::BTreeMap;

use quorate_core::{
    consensus::{Epoch, NodeId},
    ids::{BrokerEpoch, LeaderEpoch, PartitionId},
    metadata::{Image, image::Partition, settings},
};

use super::{Violation, holds, restarts};
use crate::simulator::{
    oracle::{is_elected_uncleanly, partitions, topic_of},
    world::World,
};

/// What was seen of the metadata.
#[derive(Default)]
pub(in crate::simulator) struct Seen {
    leaders: BTreeMap<(PartitionId, LeaderEpoch), NodeId>,
    controllers: BTreeMap<Epoch, NodeId>,
    /// By node, how far its image had come when last looked at, and in which of its lives.
    applied: BTreeMap<NodeId, (u64, u64)>,
}

pub(super) fn look(world: &mut World) -> Result<(), Violation> {
    for (before, after) in world.oracle.follow(&world.shared.cluster)? {
        alone(&after)?;
        grows(&before, &after)?;
        elects(&before, &after)?;
        replaces(&before, &after)?;
        world.observer.metadata.one_leader_each(&after)?;
        restarts::step(world, &before, &after)?;
    }
    let committed = world.shared.cluster.committed();
    for machine in world.machines.values() {
        let (node, Some(process)) = (machine.node, &machine.process) else { continue };
        let image = process.broker.image_arc();
        let index = image.index;
        holds!(36, index <= committed, "node {node} has applied {index}, committed is {committed}");
        let last = world.observer.metadata.applied.insert(node, (machine.lives, index.0));
        let back = last.is_some_and(|(life, last)| life == machine.lives && last > index.0);
        holds!(35, !back, "the image of node {node} went back to entry {index} from {last:?}");
        if index.0 > 0 && last != Some((machine.lives, index.0)) {
            let same = world.oracle.at(index).is_some_and(|oracle| **oracle == *image);
            holds!(35, same, "node {node} has another image at entry {index} than the log says");
        }
    }
    Ok(())
}

impl Seen {
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

/// A replica that may lack records leads only where that is permitted, and is counted.
fn elects(before: &Image, after: &Image) -> Result<(), Violation> {
    let mut unclean = 0;
    for (id, old) in partitions(before) {
        let Some(new) = after.partition(id).filter(|new| is_elected_uncleanly(old, new)) else { continue };
        let permitted = topic_of(after, id).is_some_and(|topic| settings::unclean_election(after, topic));
        holds!(23, permitted, "{id}: {old:?} became {new:?}, and no unclean election is permitted");
        unclean += 1;
    }
    let counted = after.unclean_elections - before.unclean_elections;
    holds!(23, counted == unclean, "{unclean} unclean elections are counted as {counted}");
    Ok(())
}

/// Another process takes a broker's place at once in the same folders; in others only once the broker is fenced.
fn replaces(before: &Image, after: &Image) -> Result<(), Violation> {
    for old in before.brokers.values() {
        let Some(new) = after.brokers.get(&old.node) else { continue };
        let same = old.directories.iter().any(|directory| new.directories.contains(directory));
        holds!(
            14,
            old.incarnation == new.incarnation || same || old.fenced,
            "broker {} is replaced by a process in other folders, and was not fenced",
            old.node
        );
    }
    let mut directories = std::collections::BTreeSet::new();
    let mut all = after.brokers.values().flat_map(|broker| &broker.directories);
    let twice = all.find(|directory| !directories.insert(**directory));
    holds!(14, twice.is_none(), "two brokers have the directory {twice:?}");
    Ok(())
}

/// What holds between an image and the next.
fn grows(before: &Image, after: &Image) -> Result<(), Violation> {
    for (id, old) in partitions(before) {
        let Some(new) = after.partition(id) else { continue };
        let (old_epoch, epoch) = (old.leader_epoch, new.leader_epoch);
        holds!(8, old_epoch <= epoch, "{id}: leader epoch {epoch} after {old_epoch}");
        holds!(8, old.partition_epoch <= new.partition_epoch, "{id}: the partition epoch falls");
        holds!(
            8,
            old.leader == new.leader || old_epoch < epoch,
            "{id}: another leader in leader epoch {epoch}"
        );
        let same = old.leader == new.leader && old.isr == new.isr;
        let bumped = old.partition_epoch < new.partition_epoch;
        holds!(8, same || bumped, "{id}: another leader or ISR in partition epoch {}", new.partition_epoch);
    }
    for old in before.brokers.values() {
        let Some(new) = after.brokers.get(&old.node) else { continue };
        let (node, epoch, last) = (old.node, new.epoch, old.epoch);
        let same = old.incarnation == new.incarnation;
        holds!(
            13,
            epoch >= last && epoch != BrokerEpoch::NONE,
            "broker {node} has epoch {epoch} after {last}"
        );
        holds!(13, same || epoch > last, "another process of broker {node} has the same epoch {epoch}");
    }
    Ok(())
}
