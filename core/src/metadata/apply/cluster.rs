//! What concerns the cluster as a whole: the controller, the founding facts, configs, producer ids.

use std::sync::Arc;

use super::{
    Accepted, Rejection, brokers,
    partitions::{change_all, unchanged},
};
use crate::{
    consensus::LogId,
    ids::{Epoch, NodeId, TopicId},
    metadata::{
        command::{
            AllocateProducerIds, ConfigChange, ConfigOperation, ConfigTarget, ControllerDeaf, ControllerUp,
            FoundCluster, SetConfigs, uuid,
        },
        image::{Configs, Controller, Deaf, Founding, Image},
        settings,
    },
};

/// The leader of the entry's epoch says where its controller is.
pub(super) fn controller_up(draft: &mut Image, command: ControllerUp) -> Result<Accepted, Rejection> {
    let incarnation = uuid(command.incarnation);
    let port = u16::try_from(command.port).map_err(|_| Rejection::Malformed("a port has 16 bits"))?;
    if command.node < 0 || incarnation.is_nil() || Epoch(command.epoch) != draft.epoch {
        return Err(Rejection::Malformed("a controller is up in its own epoch"));
    }
    let controller =
        Controller { epoch: draft.epoch, node: NodeId(command.node), incarnation, host: command.host, port };
    let known = draft.controller.as_ref().filter(|known| known.epoch == draft.epoch);
    if known.is_some_and(|known| known.node != controller.node || known.incarnation != incarnation) {
        return Err(Rejection::NoController(draft.epoch));
    }
    // What the controller before this one said is of use to this one alone.
    let before = draft.controller.as_ref().map(|before| before.epoch);
    let told = |deaf: &Deaf| Some(deaf.epoch) == before || deaf.epoch == draft.epoch;
    draft.deaf = draft.deaf.take().filter(told);
    draft.controller = Some(controller);
    Ok(Accepted::Done)
}

/// The controller tells the next one whom it hears.
pub(super) fn controller_deaf(draft: &mut Image, command: &ControllerDeaf) -> Result<Accepted, Rejection> {
    let heard: Vec<NodeId> = command.heard.iter().copied().map(NodeId).collect();
    if !heard.is_sorted() {
        return Err(Rejection::Malformed("brokers are told in order of their ids"));
    }
    draft.deaf = Some(Deaf { epoch: draft.epoch, heard });
    Ok(Accepted::Done)
}

/// The facts that the cluster begins with, once.
pub(super) fn found(draft: &mut Image, command: FoundCluster) -> Result<Accepted, Rejection> {
    if draft.founding.is_some() {
        return Err(Rejection::AlreadyFounded);
    }
    let cluster = uuid(command.cluster);
    let durability = command
        .durability
        .try_into()
        .map_err(|_| Rejection::Malformed("durability is synced or replicated"))?;
    if cluster.is_nil() || LogId::of(cluster, command.generation) != draft.log_id {
        return Err(Rejection::Malformed("the log is not the one of this cluster and generation"));
    }
    draft.founding = Some(Founding { cluster, generation: command.generation, durability });
    draft.features =
        command.features.into_iter().filter(|f| f.level > 0).map(|f| (Arc::from(f.name), f.level)).collect();
    let defaults: Configs = command.defaults.into_iter().map(|config| (config.name, config.value)).collect();
    draft.cluster_configs = Arc::new(defaults);
    Ok(Accepted::Done)
}

/// Changes the configs of one resource. What the new values mean for ISRs and elections follows at once.
pub(super) fn set_configs(draft: &mut Image, command: SetConfigs) -> Result<Accepted, Rejection> {
    match command.target {
        Some(ConfigTarget::Topic(id)) => {
            let id = TopicId(id.into());
            let topic = draft.topics.get(&id).ok_or(Rejection::UnknownTopic)?;
            let configs = changed(&topic.configs, &command.changes)?;
            if let Some(topic) = draft.topics.get_mut(&id) {
                Arc::make_mut(topic).configs = Arc::new(configs);
            }
            change_all(draft, |_, topic, partition| (topic.id == id).then(|| unchanged(partition)))?;
        }
        Some(ConfigTarget::Broker(node)) => {
            let node = NodeId(node);
            let present = draft.broker_configs.get(&node).cloned().unwrap_or_default();
            let configs = changed(&present, &command.changes)?;
            if configs.is_empty() {
                draft.broker_configs.remove(&node);
            } else {
                draft.broker_configs.insert(node, Arc::new(configs));
            }
        }
        Some(ConfigTarget::Cluster(_)) => {
            draft.cluster_configs = Arc::new(changed(&draft.cluster_configs, &command.changes)?);
            if command.changes.iter().any(|change| settings::concerns_elections(&change.name)) {
                change_all(draft, |_, _, partition| Some(unchanged(partition)))?;
            }
        }
        None => return Err(Rejection::Malformed("configs are of a topic, of a broker or of all brokers")),
    }
    Ok(Accepted::Done)
}

/// Gives a block of producer ids away for ever.
pub(super) fn allocate_producer_ids(
    draft: &mut Image,
    command: AllocateProducerIds,
) -> Result<Accepted, Rejection> {
    brokers::current(draft, NodeId(command.node), command.broker_epoch)?;
    if command.count <= 0 {
        return Err(Rejection::Malformed("a block of producer ids is not empty"));
    }
    let first = draft.next_producer_id;
    draft.next_producer_id = first.checked_add(i64::from(command.count)).ok_or(Rejection::Exhausted)?;
    Ok(Accepted::ProducerIds(first))
}

fn changed(present: &Configs, changes: &[ConfigChange]) -> Result<Configs, Rejection> {
    let mut configs = present.clone();
    for change in changes {
        let operation = ConfigOperation::try_from(change.operation)
            .map_err(|_| Rejection::Malformed("a config is set, deleted, appended to or subtracted from"))?;
        if change.name.is_empty() {
            return Err(Rejection::Malformed("a config has a name"));
        }
        let items = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        let mut list = configs.get(&change.name).map(|value| items(value)).unwrap_or_default();
        let named = items(&change.value);
        match operation {
            ConfigOperation::Set => {
                configs.insert(change.name.clone(), change.value.clone());
                continue;
            }
            ConfigOperation::Delete => {
                configs.remove(&change.name);
                continue;
            }
            ConfigOperation::Append => {
                for item in named {
                    if !list.contains(&item) {
                        list.push(item);
                    }
                }
            }
            ConfigOperation::Subtract => list.retain(|item| !named.contains(item)),
        }
        configs.insert(change.name.clone(), list.join(","));
    }
    Ok(configs)
}
