//! Once faults stop, the cluster comes to rest, and nothing that was acknowledged is missing.

use quorate_core::{
    broker::BrokerState,
    ids::{PartitionId, TopicId},
    metadata::{image::DurabilityLevel, settings},
};

use super::{Violation, holds, records::leader_of};
use crate::{
    history::{Anomaly, Outcome, Read, anomalies},
    simulator::{
        client::History,
        oracle::{partitions, topic_of},
        topics::{self, ORDERS},
        world::World,
    },
};

/// Why the cluster is not at rest; `None` if it is.
pub(in crate::simulator) fn restless(world: &World) -> Option<String> {
    nodes(world).or_else(|| records(world)).or_else(|| clients(world))
}

fn nodes(world: &World) -> Option<String> {
    let Some((leader, epoch)) = world.shared.cluster.leader() else { return Some("nobody leads".to_owned()) };
    let committed = world.shared.cluster.committed();
    for machine in world.machines.values() {
        let node = machine.node;
        let Some(process) = &machine.process else { return Some(format!("node {node} is down")) };
        let fatal = process.broker.fatal().borrow().clone();
        if let Some(fatal) = fatal {
            return Some(format!("node {node} has failed: {fatal}"));
        }
        let image = process.broker.image_arc();
        if image.index != committed {
            return Some(format!("node {node} has applied {}, committed is {committed}", image.index));
        }
        if image.controller.as_ref().is_none_or(|up| (up.node, up.epoch) != (leader, epoch)) {
            return Some(format!(
                "node {node} does not know that {leader} is the controller of epoch {epoch}"
            ));
        }
        let state = *process.broker.state().borrow();
        if state != BrokerState::Running || image.brokers.get(&node).is_none_or(|broker| !broker.is_active())
        {
            return Some(format!("broker {node} is {state:?}"));
        }
    }
    None
}

fn records(world: &World) -> Option<String> {
    let image = world.oracle.newest();
    for (id, partition) in partitions(&image) {
        if !partition.has_leader() || partition.isr.len() != partition.replicas.len() {
            let name = topic_of(&image, id).map(|topic| topic.name.clone());
            return Some(format!("{name:?} {id}: {partition:?}"));
        }
        let synced = topic_of(&image, id)
            .is_some_and(|topic| settings::durability(&image, topic) == DurabilityLevel::Synced);
        for machine in world.machines.values() {
            let node = machine.node;
            let replica = machine.process.as_ref().and_then(|process| process.broker.partitions.get(id));
            let Some(replica) = replica else { return Some(format!("{id} does not run on node {node}")) };
            let now = replica.progress();
            let true_end = world.observer.records.true_end(id);
            let short = now.log_end < true_end && !world.oracle.is_unclean(id);
            let unsynced = synced && now.synced_end != now.log_end;
            if now.high_watermark != now.log_end || unsynced || short {
                return Some(format!("{id} on node {node}: {now:?}, visible is {true_end}"));
            }
        }
    }
    None
}

/// Where every replica that was complete has lost something, nobody may lead, and somebody has to say that he prefers
/// what is left.
pub(in crate::simulator) fn give_up(world: &World) {
    let image = world.oracle.newest();
    let dead = partitions(&image)
        .filter(|(id, partition)| !partition.has_leader() && world.observer.restarts.dead.contains(id));
    let known = topics::of(world.shared.seed);
    let names = dead.filter_map(|(id, _)| {
        let topic = topic_of(&image, id)?;
        known.iter().find(|known| *known.name == *topic.name).map(|topic| topic.name)
    });
    world.told.lock().given_up = names.collect();
}

fn clients(world: &World) -> Option<String> {
    let told = world.told.lock();
    let image = world.oracle.newest();
    if told.under_way > 0 {
        return Some(format!("{} batches are neither acknowledged nor refused", told.under_way));
    }
    if told.acked() == 0 {
        return Some("nothing was acknowledged in the whole run".to_owned());
    }
    let lasts = |id: &PartitionId| image.partition(*id).is_some() && !world.oracle.is_unclean(*id);
    for (id, end) in told.visible.iter().filter(|(id, _)| lasts(id)) {
        let read = told.consumed.get(id).copied().unwrap_or(0);
        if read < *end {
            return Some(format!("the consumer of {id} has read up to {read} of {end}"));
        }
    }
    image.topic(ORDERS.name).is_none().then(|| "the topic was never made".to_owned())
}

/// What clients were told, against what can be read in the end.
pub(in crate::simulator) fn history(world: &World) -> Result<(), Violation> {
    let told = world.told.lock();
    for (&topic, outcomes) in &told.outcomes {
        let clean = |index: i32| !world.oracle.is_unclean(PartitionId { topic, index });
        let outcomes: Vec<Outcome> =
            outcomes.iter().filter(|outcome| clean(outcome.partition)).cloned().collect();
        let reads = told.reads.iter().filter(|((id, _), _)| id.topic == topic && clean(id.index));
        let read = |((id, offset), value): (&(PartitionId, i64), &String)| Read {
            partition: id.index,
            offset: *offset,
            value: value.clone(),
        };
        let reads: Vec<Read> = reads.map(read).collect();
        let deleted = |anomaly: &Anomaly| match anomaly {
            Anomaly::Lost(value) => is_deleted(world, &told, topic, &outcomes, value),
            _ => false,
        };
        if let Some(anomaly) = anomalies(&outcomes, &reads).iter().find(|anomaly| !deleted(anomaly)) {
            let invariant = match anomaly {
                Anomaly::Lost(_) => 6,
                Anomaly::Duplicate(_) | Anomaly::Reordered(..) => 27,
                Anomaly::WrongOffset(_) | Anomaly::RealTime(..) => 17,
                Anomaly::InconsistentOffset(..) | Anomaly::Invented(_) => 7,
            };
            holds!(invariant, false, "{anomaly:?}");
        }
    }
    Ok(())
}

/// Whether a value that was acknowledged and never read was deleted since, with its topic or by retention.
fn is_deleted(world: &World, told: &History, topic: TopicId, outcomes: &[Outcome], value: &str) -> bool {
    let Some(outcome) = outcomes.iter().find(|outcome| outcome.value == value) else { return false };
    let id = PartitionId { topic, index: outcome.partition };
    let start = told.deleted.get(&id).copied().unwrap_or(0);
    let newest = leader_of(world, id).map_or(0, |leader| leader.progress.log_start.0);
    world.oracle.newest().partition(id).is_none() || outcome.offset < start.max(newest)
}
