//! What the controller does by itself: it fences, unfences, lets brokers stop, gives leadership back, and resigns when
//! it seems to be cut off from the brokers.

use uuid::Uuid;

use super::{Contact, Liveness, liveness::index_of};
use crate::{
    consensus::activation::Leading,
    ids::{NodeId, PartitionId},
    metadata::{
        Command, Image,
        command::{
            BrokerShuttingDown, ControllerDeaf, ControllerUp, ElectLeaders, Election, FenceBroker,
            PartitionKey, UnfenceBroker,
        },
        image::Broker,
    },
    runtime::Moment,
};

/// Producer ids in a block (KIP-730).
pub const PRODUCER_ID_BLOCK: i32 = 1000;
/// Partitions in one command that gives leadership back; the next look goes on with the rest.
const ELECTIONS_MAX: usize = 1000;

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Commands to propose, in order. Each is harmless if it comes twice or too late.
    pub commands: Vec<Command>,
    /// Brokers that have been silent for a third of a session: try to connect to each of them, once for each silence.
    pub probe: Vec<NodeId>,
    /// Give the leadership up.
    pub resign: bool,
    /// Look again at this time, if nothing happens before; `None` if only what happens can change anything.
    pub next: Option<Moment>,
}

/// The first command of an epoch.
#[must_use]
pub fn opening(leading: &Leading, node: NodeId, incarnation: Uuid, host: &str, port: u16) -> Command {
    Command::ControllerUp(ControllerUp {
        epoch: leading.epoch().0,
        node: node.0,
        incarnation: Some(incarnation.into()),
        host: host.to_owned(),
        port: u32::from(port),
    })
}

/// What is to be done now. `rebalance` says whether it is time to give leadership back to first replicas.
#[must_use]
pub fn decide(image: &Image, liveness: &Liveness, now: Moment, rebalance: bool) -> Decision {
    let mut decision = Decision::default();
    if image.founding.is_none() {
        return decision;
    }
    let mut silent = Vec::new();
    for broker in image.brokers.values() {
        let contact = liveness.contacts.get(&broker.node).filter(|contact| contact.epoch == broker.epoch);
        if let Some(command) = contact.and_then(|contact| wish(image, liveness, broker, contact, now)) {
            decision.commands.push(command);
            continue;
        }
        if broker.fenced {
            continue;
        }
        let last = liveness.last(broker.node, broker.epoch);
        let (missed, expires) = (last.plus(liveness.session / 3), last.plus(liveness.session));
        let probed = liveness.probed.get(&broker.node) == Some(&last);
        if missed <= now && !probed {
            decision.probe.push(broker.node);
        }
        let next = if missed > now { missed } else { expires };
        if expires <= now {
            silent.push(broker.as_ref());
        } else {
            decision.next = Some(decision.next.map_or(next, |earlier| earlier.min(next)));
        }
    }
    silence(image, liveness, now, &silent, &mut decision);
    if rebalance {
        decision.commands.extend(preferred(image));
    }
    decision
}

/// What a broker that was heard asks for, or what its refusal of connections asks for.
fn wish(
    image: &Image,
    liveness: &Liveness,
    broker: &Broker,
    contact: &Contact,
    now: Moment,
) -> Option<Command> {
    let (node, broker_epoch) = (broker.node.0, broker.epoch.0);
    let alive = now.since(contact.last) < liveness.session && !contact.refused;
    if broker.fenced {
        let caught_up = contact.applied >= index_of(broker.epoch);
        let may =
            alive && caught_up && !broker.shutting_down && !contact.wants_fence && !contact.wants_shutdown;
        return may.then_some(Command::UnfenceBroker(UnfenceBroker { node, broker_epoch }));
    }
    let fence = Command::FenceBroker(FenceBroker { node, broker_epoch });
    if contact.refused || (contact.wants_fence && alive) {
        return Some(fence);
    }
    if !contact.wants_shutdown || !alive {
        return None;
    }
    if !broker.shutting_down {
        return Some(Command::BrokerShuttingDown(BrokerShuttingDown { node, broker_epoch }));
    }
    // It goes when everybody who serves knows the new leaders, so that no client is sent back to it.
    let emptied_at = contact.emptied_at?;
    let known = image.brokers.values().filter(|other| other.is_active()).all(|other| {
        let heard = liveness.contacts.get(&other.node).filter(|heard| heard.epoch == other.epoch);
        heard.is_none_or(|heard| heard.applied >= emptied_at)
    });
    known.then_some(fence)
}

/// Fences who is silent, unless it seems that this controller is the one who is cut off. Then it says whom it hears and
/// resigns, once: if its successor hears the same, the others are gone.
fn silence(image: &Image, liveness: &Liveness, now: Moment, silent: &[&Broker], decision: &mut Decision) {
    let epoch = image.controller.as_ref().map(|controller| controller.epoch);
    if let Some(deaf) = &image.deaf
        && Some(deaf.epoch) == epoch
    {
        decision.resign = true;
        return;
    }
    if silent.is_empty() {
        return;
    }
    // Whoever is on the way to silence does not count as heard: all who are cut off fall silent together.
    let recent = liveness.session / 2;
    let unfenced: Vec<&Broker> = image.live_brokers().map(AsRef::as_ref).collect();
    let heard_lately = |broker: &&&Broker| now.since(liveness.last(broker.node, broker.epoch)) <= recent;
    let heard: Vec<NodeId> = unfenced.iter().filter(heard_lately).map(|broker| broker.node).collect();
    let told_before =
        image.deaf.as_ref().is_some_and(|deaf| Some(deaf.epoch) != epoch && deaf.heard == heard);
    if heard.len() * 2 < unfenced.len() && !told_before {
        let heard = heard.iter().map(|node| node.0).collect();
        decision.commands.push(Command::ControllerDeaf(ControllerDeaf { heard }));
        return;
    }
    for broker in silent {
        let (node, broker_epoch) = (broker.node.0, broker.epoch.0);
        decision.commands.push(Command::FenceBroker(FenceBroker { node, broker_epoch }));
    }
}

/// Gives leadership back to first replicas that are in sync.
fn preferred(image: &Image) -> Option<Command> {
    let mut partitions = Vec::new();
    for topic in image.topics.values() {
        for (index, partition) in (0..).zip(&topic.partitions) {
            let Some(&first) = partition.replicas.first() else { continue };
            if partition.leader != first && partition.isr.contains(&first) && image.is_active(first) {
                let id = PartitionId { topic: topic.id, index };
                partitions.push(PartitionKey { topic: Some(id.topic.0.into()), partition: id.index });
            }
        }
    }
    partitions.truncate(ELECTIONS_MAX);
    let election = Election::Preferred.into();
    (!partitions.is_empty()).then_some(Command::ElectLeaders(ElectLeaders { election, partitions }))
}
