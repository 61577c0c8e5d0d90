//! The records: what is visible stays, what is in sync is complete, and logs that agree somewhere agree before.

use std::{collections::BTreeMap, sync::Arc};

use quorate_core::{
    consensus::NodeId,
    ids::{Offset, PartitionId},
    metadata::image::Partition,
    partition::replica::{Progress, Replica},
};

use super::{
    Violation, holds,
    scan::{Recorded, Scan},
};
use crate::simulator::world::World;

/// What was seen of the records.
#[derive(Default)]
pub(in crate::simulator) struct Seen {
    /// The true high watermark: the largest that any leader had, or that clients know of.
    true_end: BTreeMap<PartitionId, Offset>,
    /// What is visible: by partition and offset, the value.
    visible: BTreeMap<(PartitionId, i64), String>,
    /// Each replica when last looked at, and in which life of its node.
    last: BTreeMap<(NodeId, PartitionId), (u64, Progress)>,
    scans: BTreeMap<(NodeId, PartitionId), (u64, Scan)>,
    /// Up to where each replica was synced once and not cut since: more than a restarted log knows of itself.
    durable: BTreeMap<(NodeId, PartitionId), Offset>,
}

/// A replica that runs.
struct Running {
    node: NodeId,
    life: u64,
    replica: Arc<Replica>,
    progress: Progress,
}

fn running(world: &World) -> Vec<Running> {
    let mut all = Vec::new();
    for machine in world.machines.values() {
        let Some(process) = &machine.process else { continue };
        for replica in process.broker.partitions.all() {
            let progress = replica.progress();
            all.push(Running { node: machine.node, life: machine.lives, replica, progress });
        }
    }
    all
}

/// What is cheap to look at.
pub(super) fn glance(world: &mut World) -> Result<(), Violation> {
    let running = running(world);
    let image = world.oracle.newest();
    for one in &running {
        let (node, id, now) = (one.node, one.replica.partition, one.progress);
        let name = format!("{}-{} on node {node}", one.replica.topic, id.index);
        let ordered = now.log_start <= now.high_watermark && now.high_watermark <= now.log_end;
        holds!(15, ordered && now.synced_end <= now.log_end, "{name}: {now:?}");
        if now.leads {
            let image = world.machines.get(&node).and_then(|machine| {
                let broker = &machine.process.as_ref()?.broker;
                Some((broker.image_arc(), broker.incarnation))
            });
            let registered = image.is_none_or(|(image, incarnation)| {
                image.brokers.get(&node).is_some_and(|own| own.incarnation == incarnation)
            });
            holds!(37, registered, "{name} leads, and its process has not registered");
            let leader = world.oracle.leaders.get(&(id, now.leader_epoch)).copied();
            holds!(
                37,
                leader == Some(node),
                "{name} leads epoch {}, which {leader:?} leads",
                now.leader_epoch
            );
            let end = world.observer.records.true_end.entry(id).or_default();
            *end = now.high_watermark.max(*end);
        }
        let latest = one.replica.with_log(|log, _| log.epochs().latest());
        let end = now.log_end.max(one.replica.progress().log_end);
        let known = latest.is_none_or(|latest| latest.start <= end);
        holds!(9, known, "{name}: epoch {latest:?} begins after the end of the log, {end}");
        world.observer.records.note_synced(node, std::slice::from_ref(&one.replica));
        let last = world.observer.records.last.insert((node, id), (one.life, now));
        if last.is_some_and(|(life, _)| life != one.life) {
            world.observer.records.compare_with_former_life(one)?;
        }
        if let Some((life, last)) = last
            && life == one.life
        {
            let (old, new) = (last.high_watermark, now.high_watermark);
            holds!(15, new >= old, "{name}: the high watermark falls from {old} to {new}");
            let same = last.leads && now.leads && last.leader_epoch == now.leader_epoch;
            holds!(
                18,
                !same || now.log_end >= last.log_end,
                "{name}: a leader cuts its log: {last:?}, {now:?}"
            );
        }
    }
    take_in_clients(world);
    for (id, partition) in crate::simulator::oracle::partitions(&image) {
        look_at_partition(world, id, partition, &running)?;
    }
    Ok(())
}

/// What clients were told is visible.
fn take_in_clients(world: &mut World) {
    let told = world.told.lock();
    let image = world.oracle.newest();
    let Some(topic) = image.topic(crate::simulator::client::TOPIC) else { return };
    for (&index, &end) in &told.visible {
        let known =
            world.observer.records.true_end.entry(PartitionId { topic: topic.id, index }).or_default();
        *known = Offset(end).max(*known);
    }
}

/// What holds between the metadata, the leader and the other replicas of a partition.
fn look_at_partition(
    world: &World,
    id: PartitionId,
    partition: &Partition,
    running: &[Running],
) -> Result<(), Violation> {
    let seen = &world.observer.records;
    let true_end = seen.true_end.get(&id).copied().unwrap_or_default();
    let find = |node: NodeId| running.iter().find(|one| one.node == node && one.replica.partition == id);
    let leads = |one: &&Running| one.progress.leads && one.progress.leader_epoch == partition.leader_epoch;
    let leader = find(partition.leader).filter(leads);
    if let Some(leader) = leader {
        let end = leader.progress.log_end;
        holds!(1, end >= true_end, "{id}: the leader {} ends at {end}, visible is {true_end}", leader.node);
    }
    for &member in partition.isr.iter().chain(&partition.elr) {
        let Some(one) = find(member) else { continue };
        let end = one.progress.log_end;
        holds!(2, end >= true_end, "{id}: {member} of ISR or ELR ends at {end}, visible is {true_end}");
    }
    let Some(leader) = leader else { return Ok(()) };
    let Some((_, maximal)) = leader.replica.in_sync() else { return Ok(()) };
    if partition.isr.len() >= 2 {
        let missing = partition.isr.iter().chain(&partition.elr).find(|node| !maximal.contains(node));
        holds!(3, missing.is_none(), "{id}: the maximal ISR {maximal:?} lacks {missing:?} of the metadata");
    }
    let visible = leader.progress.high_watermark;
    for member in maximal.iter().chain(&partition.isr) {
        let synced = seen.durable.get(&(*member, id)).copied();
        let invariant = if maximal.contains(member) { 17 } else { 21 };
        let complete = synced.unwrap_or_default() >= visible;
        holds!(
            invariant,
            complete,
            "{id}: {member} is in sync and has synced {synced:?}, visible is {visible}; it is {:?}, the leader {}",
            find(*member).map(|one| one.progress),
            leader.node
        );
    }
    Ok(())
}

/// Reads every log from end to end.
pub(super) fn scan(world: &mut World) -> Result<(), Violation> {
    let running = running(world);
    let mut scans: BTreeMap<PartitionId, Vec<(NodeId, Scan)>> = BTreeMap::new();
    for one in &running {
        let id = one.replica.partition;
        let Some(scan) = Scan::of(&one.replica)? else { continue };
        world.observer.records.compare_with_last(one, &scan)?;
        scan.sequences(&format!("{id} on node {}", one.node))?;
        scans.entry(id).or_default().push((one.node, scan));
    }
    for (id, scans) in &scans {
        // Leaders first: what they show is what is visible.
        for leads in [true, false] {
            for (node, scan) in scans.iter().filter(|(_, scan)| scan.progress.leads == leads) {
                world.observer.records.compare_with_visible(*id, *node, scan)?;
            }
        }
        for (at, (node, one)) in scans.iter().enumerate() {
            for (other_node, other) in scans.iter().skip(at + 1) {
                let matched = one.matches(other);
                let what = matched.err().unwrap_or_default();
                holds!(4, what.is_empty(), "{id} on nodes {node} and {other_node}: {what}");
            }
        }
    }
    for one in &running {
        let id = one.replica.partition;
        let scan = scans.get(&id).and_then(|scans| scans.iter().find(|(node, _)| *node == one.node));
        if let Some((_, scan)) = scan {
            world.observer.records.scans.insert((one.node, id), (one.life, scan.clone()));
        }
    }
    Ok(())
}

impl Seen {
    fn compare_with_visible(&mut self, id: PartitionId, node: NodeId, scan: &Scan) -> Result<(), Violation> {
        let end = scan.progress.high_watermark.0;
        for (offset, epoch, value) in scan.records.iter().filter(|(offset, ..)| *offset < end) {
            if scan.progress.leads {
                self.visible.entry((id, *offset)).or_insert_with(|| value.clone());
            }
            let first = self.visible.get(&(id, *offset));
            let same = first.is_none_or(|first| first == value);
            holds!(
                4,
                same,
                "{id} on node {node}: '{value}' of epoch {epoch} at visible {offset}, was {first:?}"
            );
        }
        Ok(())
    }

    /// A leader's log only grows. A log that is shorter than it was has lost nothing that was visible and that it had
    /// right.
    fn compare_with_last(&self, one: &Running, scan: &Scan) -> Result<(), Violation> {
        let id = one.replica.partition;
        let Some((life, last)) = self.scans.get(&(one.node, id)).filter(|(life, _)| *life == one.life) else {
            return Ok(());
        };
        let (then, now) = (last.progress, scan.progress);
        let same = then.leads && now.leads && then.leader_epoch == now.leader_epoch;
        let changed = last.records.iter().zip(&scan.records).find(|(old, new)| old != new);
        let kept_all = scan.records.len() >= last.records.len() && changed.is_none();
        holds!(18, !same || kept_all, "{id}: the leader {} has cut its log: {changed:?}", one.node);
        let lost = self.lost(id, last, now.log_end, i64::MAX);
        let (node, end) = (one.node, now.log_end);
        holds!(
            18,
            lost.is_none(),
            "{id} on node {node}, life {life}, ends at {end} and has lost {lost:?}, visible"
        );
        Ok(())
    }

    /// A log that was opened again has everything that was visible and that it had right and synced.
    fn compare_with_former_life(&self, one: &Running) -> Result<(), Violation> {
        let id = one.replica.partition;
        let Some((life, last)) = self.scans.get(&(one.node, id)) else { return Ok(()) };
        if *life == one.life {
            return Ok(());
        }
        let (node, end) = (one.node, one.progress.log_end);
        let lost = self.lost(id, last, end, last.progress.synced_end.0);
        holds!(
            39,
            lost.is_none(),
            "{id} on node {node} was opened, ends at {end} and has lost {lost:?}, visible"
        );
        Ok(())
    }

    /// A record of an earlier scan, below `kept`, that was right and visible and lies at or past `end`.
    fn lost<'a>(&self, id: PartitionId, last: &'a Scan, end: Offset, kept: i64) -> Option<&'a Recorded> {
        let below = self.true_end(id).0.min(kept);
        let mut late = last.records.iter().filter(|(offset, ..)| *offset >= end.0 && *offset < below);
        late.find(|(offset, _, value)| self.visible.get(&(id, *offset)) == Some(value))
    }

    /// Takes in how far some of a node's replicas are durable.
    pub(in crate::simulator) fn note_synced(&mut self, node: NodeId, replicas: &[Arc<Replica>]) {
        for replica in replicas {
            let now = replica.progress();
            let durable = self.durable.entry((node, replica.partition)).or_default();
            *durable = now.synced_end.max(*durable).min(now.log_end);
        }
    }

    /// How far a partition is visible.
    pub(in crate::simulator) fn true_end(&self, id: PartitionId) -> Offset {
        self.true_end.get(&id).copied().unwrap_or_default()
    }
}
