//! Once faults stop, the cluster comes to rest, and nothing that was acknowledged is missing.

use quorate_core::broker::BrokerState;

use super::{Violation, holds};
use crate::{
    history::{Anomaly, Read, anomalies},
    simulator::{client, oracle::partitions, world::World},
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
            return Some(format!("{id}: {partition:?}"));
        }
        for machine in world.machines.values() {
            let node = machine.node;
            let replica = machine.process.as_ref().and_then(|process| process.broker.partitions.get(id));
            let Some(replica) = replica else { return Some(format!("{id} does not run on node {node}")) };
            let now = replica.progress();
            let true_end = world.observer.records.true_end(id);
            if now.high_watermark != now.log_end || now.synced_end != now.log_end || now.log_end < true_end {
                return Some(format!("{id} on node {node}: {now:?}, visible is {true_end}"));
            }
        }
    }
    None
}

fn clients(world: &World) -> Option<String> {
    let told = world.told.lock();
    if told.under_way > 0 {
        return Some(format!("{} batches are neither acknowledged nor refused", told.under_way));
    }
    for (partition, end) in &told.visible {
        let read = told.consumed.get(partition).copied().unwrap_or(0);
        if read < *end {
            return Some(format!("the consumer of partition {partition} has read up to {read} of {end}"));
        }
    }
    let image = world.oracle.newest();
    image.topic(client::TOPIC).is_none().then(|| "the topic was never made".to_owned())
}

/// What clients were told, against what can be read in the end.
pub(in crate::simulator) fn history(world: &World) -> Result<(), Violation> {
    let told = world.told.lock();
    let read = |((partition, offset), value): (&(i32, i64), &String)| Read {
        partition: *partition,
        offset: *offset,
        value: value.clone(),
    };
    let reads: Vec<Read> = told.reads.iter().map(read).collect();
    if let Some(anomaly) = anomalies(&told.outcomes, &reads).first() {
        let invariant = match anomaly {
            Anomaly::Lost(_) => 6,
            Anomaly::Duplicate(_) | Anomaly::Reordered(..) => 27,
            Anomaly::WrongOffset(_) | Anomaly::RealTime(..) => 17,
            Anomaly::InconsistentOffset(..) | Anomaly::Invented(_) => 7,
        };
        holds!(invariant, false, "{anomaly:?}");
    }
    holds!(40, told.acked() > 0, "nothing was acknowledged in the whole run");
    Ok(())
}
