//! The records: what is visible stays, what is in sync is complete, and logs that agree somewhere agree before.

use std::{collections::BTreeMap, sync::Arc};

use quorate_core::{
    consensus::NodeId,
    ids::{LeaderEpoch, Offset, PartitionId},
    metadata::{
        Image,
        image::{DurabilityLevel, Partition},
        settings,
    },
    partition::replica::{Progress, Replica},
    runtime::simulated::Keep,
};

use super::{
    Violation, holds, restarts,
    scan::{Recorded, Scan},
};
use crate::simulator::{
    oracle::{partitions, topic_of},
    world::World,
};

/// What was seen of the records.
#[derive(Default)]
pub(in crate::simulator) struct Seen {
    /// The true high watermark: the largest that any leader had, or that clients know of.
    true_end: BTreeMap<PartitionId, Offset>,
    /// What is visible: by partition and offset, the epoch and the value. The value alone may be that of another batch,
    /// since what an old leader had in vain is sent again to the next.
    visible: BTreeMap<(PartitionId, i64), (LeaderEpoch, String)>,
    /// Each replica when last looked at, in which life of its node, and whether its log was in service.
    last: BTreeMap<(NodeId, PartitionId), (u64, Progress, bool)>,
    scans: BTreeMap<(NodeId, PartitionId), (u64, Scan)>,
    /// Up to where each replica was synced once and not cut since: more than a restarted log knows of itself.
    durable: BTreeMap<(NodeId, PartitionId), Offset>,
}

/// A replica that runs.
pub(super) struct Running {
    pub(super) node: NodeId,
    life: u64,
    pub(super) replica: Arc<Replica>,
    pub(super) progress: Progress,
    /// Whether its log is in service.
    pub(super) usable: bool,
}

impl Running {
    pub(super) fn is(&self, node: NodeId, id: PartitionId) -> bool {
        self.node == node && self.replica.partition == id
    }
}

/// Every replica that runs, by node.
pub(super) fn running(world: &World) -> Vec<Running> {
    let mut all = Vec::new();
    for machine in world.machines.values() {
        let Some(process) = &machine.process else { continue };
        for replica in process.broker.partitions.all() {
            let progress = replica.progress();
            let usable = replica.with_log(|log, _| log.unusable().is_none());
            all.push(Running { node: machine.node, life: machine.lives, replica, progress, usable });
        }
    }
    all
}

/// The replica that leads a partition in its newest leadership, and serves.
pub(super) fn leader_of(world: &World, id: PartitionId) -> Option<Running> {
    let image = world.oracle.newest();
    let partition = image.partition(id)?;
    running(world).into_iter().find(|one| leads(one, id, partition))
}

fn leads(one: &Running, id: PartitionId, partition: &Partition) -> bool {
    let now = one.progress;
    one.is(partition.leader, id) && now.leads && now.leader_epoch == partition.leader_epoch && one.usable
}

/// What is cheap to look at.
pub(super) fn glance(world: &mut World) -> Result<(), Violation> {
    let running = running(world);
    for one in &running {
        glance_at(world, one)?;
    }
    take_in_clients(world);
    let image = world.oracle.newest();
    for (id, partition) in partitions(&image) {
        look_at_partition(world, &image, (id, partition), &running)?;
    }
    Ok(())
}

fn glance_at(world: &mut World, one: &Running) -> Result<(), Violation> {
    let (node, id, now) = (one.node, one.replica.partition, one.progress);
    let name = format!("{}-{} on node {node}", one.replica.topic, id.index);
    let ordered = now.log_start <= now.high_watermark && now.high_watermark <= now.log_end;
    holds!(15, ordered && now.synced_end <= now.log_end, "{name}: {now:?}");
    if now.leads {
        leads_rightly(world, one, &name)?;
    }
    let latest = one.replica.with_log(|log, _| log.epochs().latest());
    let end = now.log_end.max(one.replica.progress().log_end);
    let known = latest.is_none_or(|latest| latest.start <= end);
    holds!(9, known, "{name}: epoch {latest:?} begins after the end of the log, {end}");
    let seen = &mut world.observer.records;
    seen.note_synced(node, &one.replica);
    let last = seen.last.insert((node, id), (one.life, now, one.usable));
    if !one.usable {
        seen.out_of_service(node, id);
    }
    let Some((_, last, was_usable)) = last.filter(|(life, ..)| *life == one.life) else {
        return restarts::reopened(world, one);
    };
    let (old, new) = (last.high_watermark, now.high_watermark);
    let may_fall = world.oracle.is_unclean(id) || !was_usable || !one.usable;
    holds!(15, new >= old || may_fall, "{name}: the high watermark falls from {old} to {new}");
    let same = last.leads && now.leads && last.leader_epoch == now.leader_epoch;
    holds!(18, !same || now.log_end >= last.log_end, "{name}: a leader cuts its log: {last:?}, {now:?}");
    Ok(())
}

/// Whoever leads is the leader of that leadership, by a process that has registered.
fn leads_rightly(world: &mut World, one: &Running, name: &str) -> Result<(), Violation> {
    let (node, id, now) = (one.node, one.replica.partition, one.progress);
    let image = world.machines.get(&node).and_then(|machine| {
        let broker = &machine.process.as_ref()?.broker;
        Some((broker.image_arc(), broker.incarnation))
    });
    let registered = image.is_none_or(|(image, incarnation)| {
        image.brokers.get(&node).is_some_and(|own| own.incarnation == incarnation)
    });
    holds!(37, registered, "{name} leads, and its process has not registered");
    let leader = world.oracle.leaders.get(&(id, now.leader_epoch)).copied();
    holds!(37, leader == Some(node), "{name} leads epoch {}, which {leader:?} leads", now.leader_epoch);
    let end = world.observer.records.true_end.entry(id).or_default();
    *end = now.high_watermark.max(*end);
    Ok(())
}

/// What clients were told is visible.
fn take_in_clients(world: &mut World) {
    let told = world.told.lock();
    for (&id, &end) in &told.visible {
        let known = world.observer.records.true_end.entry(id).or_default();
        *known = Offset(end).max(*known);
    }
}

/// What holds between the metadata, the leader and the other replicas of a partition. A log that is out of service
/// serves nothing and is not looked at.
fn look_at_partition(
    world: &World,
    image: &Image,
    (id, partition): (PartitionId, &Partition),
    running: &[Running],
) -> Result<(), Violation> {
    let find = |node: NodeId| running.iter().find(|one| one.is(node, id) && one.usable);
    let leader = find(partition.leader).filter(|one| leads(one, id, partition));
    let Some(topic) = topic_of(image, id) else { return Ok(()) };
    if !world.oracle.is_unclean(id) {
        complete(world, (id, partition), leader, &find)?;
    }
    let Some(leader) = leader else { return Ok(()) };
    for one in partition.isr.iter().filter_map(|node| find(*node)) {
        let (start, end) = (leader.progress.log_start, one.progress.log_end);
        holds!(
            34,
            start <= end,
            "{id}: the leader {} begins at {start}, and {}, in sync, ends at {end}: what was not visible is deleted",
            leader.node,
            one.node
        );
    }
    let Some((_, maximal)) = leader.replica.in_sync() else { return Ok(()) };
    if partition.isr.len() >= settings::min_isr(image, topic).min(partition.replicas.len()) {
        let missing = partition.isr.iter().chain(&partition.elr).find(|node| !maximal.contains(node));
        holds!(3, missing.is_none(), "{id}: the maximal ISR {maximal:?} lacks {missing:?} of the metadata");
    }
    if world.oracle.is_unclean(id) || settings::durability(image, topic) != DurabilityLevel::Synced {
        return Ok(());
    }
    let visible = leader.progress.high_watermark;
    // Whoever has lost everything is counted on until the cluster knows it.
    let has_disk = |node: &&NodeId| {
        let knows = !world.observer.restarts.is_incomplete_at(**node, id);
        knows && world.machines.get(node).is_some_and(|machine| !machine.lost.anything)
    };
    for member in maximal.iter().chain(&partition.isr).filter(has_disk) {
        let synced = world.observer.records.durable.get(&(*member, id)).copied();
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

/// Whoever leads, or may lead, has everything that is visible.
fn complete<'a>(
    world: &World,
    (id, partition): (PartitionId, &Partition),
    leader: Option<&Running>,
    find: &impl Fn(NodeId) -> Option<&'a Running>,
) -> Result<(), Violation> {
    let true_end = world.observer.records.true_end(id);
    if let Some(leader) = leader {
        let end = leader.progress.log_end;
        holds!(1, end >= true_end, "{id}: the leader {} ends at {end}, visible is {true_end}", leader.node);
    }
    for &member in partition.isr.iter().chain(&partition.elr) {
        let Some(one) = find(member) else { continue };
        let end = one.progress.log_end;
        holds!(
            2,
            end >= true_end,
            "{id}: {member} ends at {end}, visible is {true_end}; it is in ISR or ELR: {partition:?}"
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
        let Some(scan) = Scan::of(&one.replica)? else {
            world.observer.records.out_of_service(one.node, id);
            continue;
        };
        let unclean = world.oracle.is_unclean(id);
        if !unclean {
            world.observer.records.compare_with_last(one, &scan)?;
        }
        let from_first = !unclean && scan.progress.log_start == Offset(0);
        scan.sequences(&format!("{id} on node {}", one.node), from_first)?;
        scans.entry(id).or_default().push((one.node, scan));
    }
    let image = world.oracle.newest();
    for (id, scans) in &scans {
        compare(world, *id, scans)?;
        if let Some(partition) = image.partition(*id) {
            strong_isr(*id, partition, scans)?;
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

/// The replicas of one partition, and what was visible before.
fn compare(world: &mut World, id: PartitionId, scans: &[(NodeId, Scan)]) -> Result<(), Violation> {
    if !world.oracle.is_unclean(id) {
        // Leaders first: what they show is what is visible.
        for leads in [true, false] {
            for (node, scan) in scans.iter().filter(|(_, scan)| scan.progress.leads == leads) {
                world.observer.records.compare_with_visible(id, *node, scan)?;
            }
        }
    }
    for (at, (node, one)) in scans.iter().enumerate() {
        for (other_node, other) in scans.iter().skip(at + 1) {
            let matched = one.matches(other);
            let what = matched.err().unwrap_or_default();
            holds!(4, what.is_empty(), "{id} on nodes {node} and {other_node}: {what}");
        }
    }
    Ok(())
}

/// Below the high watermark of whoever leads, every member of the ISR has the same.
fn strong_isr(id: PartitionId, partition: &Partition, scans: &[(NodeId, Scan)]) -> Result<(), Violation> {
    let leads = |scan: &Scan| scan.progress.leads && scan.progress.leader_epoch == partition.leader_epoch;
    let leader = scans.iter().find(|(node, scan)| *node == partition.leader && leads(scan));
    let Some((leader, theirs)) = leader else { return Ok(()) };
    for (node, scan) in scans.iter().filter(|(node, _)| partition.isr.contains(node)) {
        let lacking = theirs.lacking(scan, theirs.progress.high_watermark);
        holds!(5, lacking.is_none(), "{id}: {node} is in sync with {leader} and lacks {lacking:?}, visible");
    }
    Ok(())
}

/// A node's process ends: what its logs hold, for the next one.
pub(in crate::simulator) fn last_look(world: &mut World, node: NodeId, keep: Keep) {
    let mut logs = Vec::new();
    for one in running(world).into_iter().filter(|one| one.node == node && one.usable) {
        world.observer.records.note_synced(node, &one.replica);
        // What does not hang together is found when it is looked at in time.
        if let Ok(Some(scan)) = Scan::of(&one.replica) {
            logs.push((one.replica.partition, scan));
        }
    }
    world.observer.restarts.ends(node, keep, logs);
}

impl Seen {
    fn compare_with_visible(&mut self, id: PartitionId, node: NodeId, scan: &Scan) -> Result<(), Violation> {
        let end = scan.progress.high_watermark.0;
        for (offset, epoch, value) in scan.records.iter().filter(|(offset, ..)| *offset < end) {
            if scan.progress.leads {
                self.visible.entry((id, *offset)).or_insert_with(|| (*epoch, value.clone()));
            }
            let first = self.visible.get(&(id, *offset));
            let same = first.is_none_or(|(of, first)| of == epoch && first == value);
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
        let left = last.records.iter().filter(|(offset, ..)| *offset >= now.log_start.0);
        let changed = left.clone().zip(&scan.records).find(|(old, new)| old != new);
        let kept_all = scan.records.len() >= left.count() && changed.is_none();
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

    /// A record of an earlier scan, below `kept`, that was right and visible and lies at or past `end`.
    pub(super) fn lost<'a>(
        &self,
        id: PartitionId,
        last: &'a Scan,
        end: Offset,
        kept: i64,
    ) -> Option<&'a Recorded> {
        let below = self.true_end(id).0.min(kept);
        let mut late = last.records.iter().filter(|(offset, ..)| *offset >= end.0 && *offset < below);
        late.find(|(offset, epoch, value)| {
            self.visible.get(&(id, *offset)).is_some_and(|(of, first)| of == epoch && first == value)
        })
    }

    /// Takes in how far a node's replica is durable.
    fn note_synced(&mut self, node: NodeId, replica: &Replica) {
        let now = replica.progress();
        let durable = self.durable.entry((node, replica.partition)).or_default();
        *durable = now.synced_end.max(*durable).min(now.log_end);
    }

    /// What is out of service is cut where it is damaged, and filled anew.
    fn out_of_service(&mut self, node: NodeId, id: PartitionId) {
        self.scans.remove(&(node, id));
        if let Some((_, _, usable)) = self.last.get_mut(&(node, id)) {
            *usable = false;
        }
    }

    /// The node has another folder, with nothing in it.
    pub(in crate::simulator) fn forget(&mut self, node: NodeId) {
        self.durable.retain(|(of, _), _| *of != node);
        self.scans.retain(|(of, _), _| *of != node);
    }

    /// How far a partition is visible.
    pub(super) fn true_end(&self, id: PartitionId) -> Offset {
        self.true_end.get(&id).copied().unwrap_or_default()
    }
}
