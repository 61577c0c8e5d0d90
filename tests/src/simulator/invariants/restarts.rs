//! What a restart leaves: who has lost something is not counted on before it has caught up, and a log that is opened
//! again has what it had.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{
    consensus::NodeId,
    ids::PartitionId,
    metadata::{
        Image,
        image::{DurabilityLevel, Partition},
        settings,
    },
    runtime::simulated::Keep,
};

use super::{
    Violation, holds,
    records::{Running, leader_of, running},
    scan::{Recorded, Scan},
};
use crate::simulator::{
    oracle::{is_elected_uncleanly, partitions, topic_of},
    world::World,
};

/// What was seen of restarts.
#[derive(Default)]
pub(in crate::simulator) struct Seen {
    /// Replicas that have lost something and have not caught up since.
    incomplete: BTreeSet<(NodeId, PartitionId)>,
    /// Partitions of which every replica that was complete has lost something: nobody may lead them.
    pub(super) dead: BTreeSet<PartitionId>,
    /// What each log held when its node's process ended.
    former: BTreeMap<(NodeId, PartitionId), Former>,
}

/// A log at the end of a life.
struct Former {
    scan: Scan,
    /// Below here everything must be there in the next life.
    kept: i64,
}

impl Seen {
    /// A process ends, and with it the machine, as far as `keep` says.
    pub(super) fn ends(&mut self, node: NodeId, keep: Keep, logs: Vec<(PartitionId, Scan)>) {
        for (id, scan) in logs {
            let kept = scan.progress.log_end.0;
            self.former.insert((node, id), Former { scan, kept });
        }
        for (_, former) in self.former.iter_mut().filter(|((of, _), _)| *of == node && keep != Keep::All) {
            former.kept = former.kept.min(former.scan.progress.synced_end.0);
        }
    }

    /// Whether some replica has lost something and has not caught up since.
    pub(in crate::simulator) fn is_incomplete(&self) -> bool {
        !self.incomplete.is_empty()
    }

    /// As [`Seen::is_incomplete`], of one replica.
    pub(super) fn is_incomplete_at(&self, node: NodeId, id: PartitionId) -> bool {
        self.incomplete.contains(&(node, id))
    }

    /// The node's folder is another one, or nobody can say what is in it.
    pub(in crate::simulator) fn forget(&mut self, node: NodeId) {
        self.former.retain(|(of, _), _| *of != node);
    }
}

/// Follows one entry of the metadata.
pub(super) fn step(world: &mut World, before: &Image, after: &Image) -> Result<(), Violation> {
    for new in after.brokers.values() {
        let old = before.brokers.get(&new.node);
        if old.is_none_or(|old| old.incarnation != new.incarnation) {
            registers(world, new.node, new.incarnation, after)?;
        }
    }
    let incomplete: Vec<_> = world.observer.restarts.incomplete.iter().copied().collect();
    for (node, id) in incomplete {
        let (Some(old), Some(new)) = (before.partition(id), after.partition(id)) else {
            world.observer.restarts.incomplete.remove(&(node, id));
            continue;
        };
        if counts(new, node) && may_count(world, node, id, old, new)? {
            world.observer.restarts.incomplete.remove(&(node, id));
        }
    }
    Ok(())
}

fn counts(partition: &Partition, node: NodeId) -> bool {
    partition.leader == node || partition.isr.contains(&node) || partition.elr.contains(&node)
}

/// Whether a replica that had lost something counts again with good reason.
fn may_count(
    world: &World,
    node: NodeId,
    id: PartitionId,
    old: &Partition,
    new: &Partition,
) -> Result<bool, Violation> {
    if new.leader == node && is_elected_uncleanly(old, new) {
        return Ok(true);
    }
    let joined = new.isr.contains(&node) && new.leader != node && old.has_leader();
    let true_end = world.observer.records.true_end(id);
    let end = running(world).iter().find(|one| one.is(node, id)).map(|one| one.progress.log_end);
    // A replica that does not run any more had what its leader saw.
    let complete = end.is_none_or(|end| end >= true_end) || world.oracle.is_unclean(id);
    holds!(
        12,
        joined && complete,
        "{id}: {node} has lost something, ends at {end:?}, and {old:?} became {new:?}; visible is {true_end}"
    );
    Ok(true)
}

/// A process is registered: what it has lost is known from now on.
fn registers(
    world: &mut World,
    node: NodeId,
    incarnation: uuid::Uuid,
    after: &Image,
) -> Result<(), Violation> {
    let Some(machine) = world.machines.get_mut(&node).filter(|machine| machine.incarnation == incarnation)
    else {
        return Ok(());
    };
    let lost = std::mem::take(&mut machine.lost);
    for (id, partition) in partitions(after).filter(|(_, partition)| partition.has_replica(node)) {
        let replicated = topic_of(after, id)
            .is_some_and(|topic| settings::durability(after, topic) == DurabilityLevel::Replicated);
        if lost.anything || (lost.page_cache && replicated) {
            holds!(
                12,
                !counts(partition, node),
                "{id}: {node} has lost {lost:?}, has registered, and still counts: {partition:?}"
            );
            world.observer.restarts.incomplete.insert((node, id));
            if partition.isr.is_empty() && partition.elr.is_empty() {
                world.observer.restarts.dead.insert(id);
            }
        }
    }
    Ok(())
}

/// A log that was opened again has everything that was visible and that it had right and synced; and it has everything
/// that it kept and that the present leader has.
pub(super) fn reopened(world: &mut World, one: &Running) -> Result<(), Violation> {
    let id = one.replica.partition;
    let Some(former) = world.observer.restarts.former.remove(&(one.node, id)) else { return Ok(()) };
    if world.oracle.is_unclean(id) || !one.usable {
        return Ok(());
    }
    let (node, end, start) = (one.node, one.progress.log_end, one.progress.log_start);
    let lost = world.observer.records.lost(id, &former.scan, end, former.kept);
    holds!(
        39,
        lost.is_none(),
        "{id} on node {node} was opened, ends at {end} and has lost {lost:?}, visible"
    );
    let missing = |(offset, ..): &&Recorded| *offset >= end.0 && *offset < former.kept && *offset >= start.0;
    let Some(first) = former.scan.records.iter().find(missing) else { return Ok(()) };
    let Some(leader) = leader_of(world, id).filter(|leader| leader.node != node) else { return Ok(()) };
    let Some(scan) = Scan::of(&leader.replica)? else { return Ok(()) };
    holds!(
        19,
        !scan.records.contains(first),
        "{id} on node {node} was opened, ends at {end} and has lost {first:?}, which its leader {} has",
        leader.node
    );
    Ok(())
}
