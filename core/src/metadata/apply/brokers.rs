//! The life of a broker: registration, fencing, unfencing, controlled shutdown. Whatever a broker's fate changes in
//! its partitions is part of the same entry.

use std::sync::Arc;

use super::{
    Accepted, Rejection,
    partitions::{change_all, settle_leaderless},
};
use crate::{
    ids::{BrokerEpoch, DirectoryId, NodeId},
    metadata::{
        command::{BrokerShuttingDown, FenceBroker, ListenerEndpoint, RegisterBroker, UnfenceBroker, uuid},
        image::{Broker, DurabilityLevel, Endpoint, Image, Partition, Roles},
        settings,
    },
    planted::{Bug, planted},
};

/// Registers a broker, fenced. The same process again keeps its registration; another process in the same log
/// directories replaces it at once; one in other directories must wait until the registered one is fenced.
pub(super) fn register(draft: &mut Image, command: RegisterBroker) -> Result<Accepted, Rejection> {
    let mut broker = read(draft, &command)?;
    let node = broker.node;
    for owner in draft.brokers.values().filter(|owner| owner.node != node) {
        if let Some(&directory) = owner.directories.iter().find(|d| broker.directories.contains(d)) {
            return Err(Rejection::DirectoryInUse { directory, owner: owner.node });
        }
    }
    let Some(prior) = draft.brokers.get(&node).cloned() else {
        let epoch = broker.epoch;
        draft.brokers.insert(node, Arc::new(broker));
        return Ok(Accepted::Registered(epoch));
    };
    if prior.incarnation == broker.incarnation {
        let epoch = prior.epoch;
        (broker.epoch, broker.fenced, broker.shutting_down) = (epoch, prior.fenced, prior.shutting_down);
        draft.brokers.insert(node, Arc::new(broker));
        return Ok(Accepted::Registered(epoch));
    }
    let same_place = prior.directories.iter().any(|directory| broker.directories.contains(directory));
    if !same_place && !prior.fenced && !planted(Bug::ReplacesAtOnce) {
        return Err(Rejection::DuplicateBroker(node));
    }
    if planted(Bug::BrokerEpochStays) {
        broker.epoch = prior.epoch;
    }
    let directory_lost = prior.directories.iter().any(|directory| !broker.directories.contains(directory));
    let (epoch, unknown) = (broker.epoch, directory_lost || command.sync_failed);
    draft.brokers.insert(node, Arc::new(broker));
    let page_cache_lost = command.page_cache_lost;
    change_all(draft, |image, topic, partition| {
        let replicated = settings::durability(image, topic) == DurabilityLevel::Replicated;
        let lost = unknown || (page_cache_lost && replicated);
        leaves(partition, node, lost && !planted(Bug::ForgetsLosses))
    })?;
    Ok(Accepted::Registered(epoch))
}

/// Takes a broker out of every ISR and elects in its place.
pub(super) fn fence(draft: &mut Image, command: FenceBroker) -> Result<Accepted, Rejection> {
    let node = NodeId(command.node);
    let broker = current(draft, node, command.broker_epoch)?;
    if broker.fenced {
        return Ok(Accepted::Done);
    }
    draft.brokers.insert(node, Arc::new(Broker { fenced: true, ..broker }));
    if !planted(Bug::FencedStaysInIsr) {
        change_all(draft, |_, _, partition| leaves(partition, node, false))?;
    }
    Ok(Accepted::Done)
}

/// Lets a broker lead again what nobody leads, from the ISR or the eligible replicas.
pub(super) fn unfence(draft: &mut Image, command: UnfenceBroker) -> Result<Accepted, Rejection> {
    let node = NodeId(command.node);
    let broker = current(draft, node, command.broker_epoch)?;
    if !broker.fenced {
        return Ok(Accepted::Done);
    }
    if broker.shutting_down {
        return Err(Rejection::Malformed("a broker that shuts down stays fenced until it registers again"));
    }
    draft.brokers.insert(node, Arc::new(Broker { fenced: false, ..broker }));
    settle_leaderless(draft, |_, partition| partition.has_replica(node))?;
    Ok(Accepted::Done)
}

/// Moves a broker's leaderships away while it still serves.
pub(super) fn shutting_down(draft: &mut Image, command: BrokerShuttingDown) -> Result<Accepted, Rejection> {
    let node = NodeId(command.node);
    let broker = current(draft, node, command.broker_epoch)?;
    if broker.shutting_down {
        return Ok(Accepted::Done);
    }
    draft.brokers.insert(node, Arc::new(Broker { shutting_down: true, ..broker }));
    change_all(draft, |_, _, partition| leaves(partition, node, false))?;
    Ok(Accepted::Done)
}

/// The broker, if the registration that is meant is the present one.
pub(super) fn current(draft: &Image, node: NodeId, epoch: i64) -> Result<Broker, Rejection> {
    let broker = draft.brokers.get(&node).ok_or(Rejection::UnknownBroker(node))?;
    if broker.epoch != BrokerEpoch(epoch) {
        return Err(Rejection::StaleBrokerEpoch { node, present: broker.epoch });
    }
    Ok(Broker::clone(broker))
}

/// The partition without this broker in its ISR; also not among the eligible replicas if it has lost data.
fn leaves(partition: &Partition, node: NodeId, lost: bool) -> Option<super::partitions::Wanted> {
    let concerned =
        partition.leader == node || partition.isr.contains(&node) || (lost && partition.elr.contains(&node));
    concerned.then(|| super::partitions::Wanted {
        isr: partition.isr.iter().copied().filter(|member| *member != node).collect(),
        excluded: lost.then_some(node),
    })
}

fn read(draft: &Image, command: &RegisterBroker) -> Result<Broker, Rejection> {
    let incarnation = uuid(command.incarnation);
    let roles = Roles::from_bits(command.roles);
    if command.node < 0 || incarnation.is_nil() || !roles.broker {
        return Err(Rejection::Malformed("a broker has a node id, an incarnation and the role of a broker"));
    }
    let mut directories: Vec<DirectoryId> =
        command.directories.iter().map(|id| DirectoryId((*id).into())).collect();
    directories.sort_unstable();
    let count = directories.len();
    directories.dedup();
    if directories.is_empty() || directories.len() != count || directories.iter().any(|d| d.0.is_nil()) {
        return Err(Rejection::Malformed("a broker has log directories, each with an id of its own"));
    }
    let endpoints: Option<Vec<Endpoint>> = command.endpoints.iter().map(endpoint).collect();
    Ok(Broker {
        node: NodeId(command.node),
        epoch: BrokerEpoch(i64::try_from(draft.index.0).map_err(|_| Rejection::Exhausted)?),
        incarnation,
        directories,
        endpoints: endpoints.ok_or(Rejection::Malformed("a listener has a port and a known protocol"))?,
        rack: command.rack.clone(),
        roles,
        features: command.features.iter().map(|f| (f.name.clone(), (f.min, f.max))).collect(),
        fenced: true,
        shutting_down: false,
    })
}

fn endpoint(endpoint: &ListenerEndpoint) -> Option<Endpoint> {
    Some(Endpoint {
        listener: endpoint.name.clone(),
        host: endpoint.host.clone(),
        port: u16::try_from(endpoint.port).ok()?,
        protocol: endpoint.protocol.try_into().ok()?,
    })
}
