//! Plans for changes of configs (KIP-339).

use super::Refusal;
use crate::{
    ids::{NodeId, TopicId},
    metadata::{
        Command, Image,
        command::{ConfigChange, ConfigOperation, ConfigTarget, NoOp, SetConfigs},
        configs::{ConfigError, Key, Scope, broker_key, topic_key},
    },
    protocol::errors::ErrorCode,
};

/// Kafka's number of a topic among the resources that have configs.
const TOPIC: i8 = 2;
/// Kafka's number of a broker.
const BROKER: i8 = 4;

/// Changes that somebody wants for one resource, as IncrementalAlterConfigs says them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigPlan {
    /// Kafka's number of the kind of resource.
    pub resource_type: i8,
    /// Its name; empty for all brokers.
    pub resource_name: String,
    /// Key, Kafka's number of the operation, value.
    pub changes: Vec<(String, i8, Option<String>)>,
}

/// The command that makes the changes: all of them or none.
///
/// # Errors
/// The first change that cannot be.
pub fn plan_configs(image: &Image, plan: &ConfigPlan) -> Result<Command, Refusal> {
    let target = target(image, plan)?;
    let mut changes = Vec::with_capacity(plan.changes.len());
    for (name, operation, value) in &plan.changes {
        if plan.changes.iter().filter(|(other, ..)| other == name).count() > 1 {
            let message = format!("Error due to duplicate config keys: {name}");
            return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
        }
        let key = match &target {
            ConfigTarget::Topic(_) => topic_key(name)?,
            ConfigTarget::Broker(_) => dynamic(broker_key(name)?, false)?,
            ConfigTarget::Cluster(_) => dynamic(broker_key(name)?, true)?,
        };
        changes.push(change(key, *operation, value.as_deref())?);
    }
    Ok(Command::SetConfigs(SetConfigs { target: Some(target), changes }))
}

fn target(image: &Image, plan: &ConfigPlan) -> Result<ConfigTarget, Refusal> {
    match plan.resource_type {
        TOPIC => match image.topic(&plan.resource_name) {
            Some(topic) => {
                let TopicId(id) = topic.id;
                Ok(ConfigTarget::Topic(id.into()))
            }
            None => {
                let message = format!("The topic '{}' does not exist.", plan.resource_name);
                Err(Refusal::new(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, message))
            }
        },
        BROKER if plan.resource_name.is_empty() => Ok(ConfigTarget::Cluster(NoOp {})),
        BROKER => {
            let node = plan.resource_name.parse().map(NodeId).ok();
            match node.filter(|node| image.brokers.contains_key(node)) {
                Some(node) => Ok(ConfigTarget::Broker(node.0)),
                None => {
                    let message = format!("'{}' is no registered broker.", plan.resource_name);
                    Err(Refusal::new(ErrorCode::INVALID_REQUEST, message))
                }
            }
        }
        other => {
            let message = format!("Resources of type {other} have no configs here.");
            Err(Refusal::new(ErrorCode::INVALID_REQUEST, message))
        }
    }
}

fn dynamic(key: &'static Key, cluster: bool) -> Result<&'static Key, ConfigError> {
    match key.scope {
        Scope::ReadOnly => Err(ConfigError::ReadOnly(key.name)),
        Scope::ClusterWide if !cluster => Err(ConfigError::ClusterWide(key.name)),
        _ => Ok(key),
    }
}

fn change(key: &'static Key, operation: i8, value: Option<&str>) -> Result<ConfigChange, Refusal> {
    let Ok(operation) = ConfigOperation::try_from(i32::from(operation)) else {
        let message = format!("Unknown operation {operation} for {}.", key.name);
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
    };
    let value = match (operation, value) {
        (ConfigOperation::Delete, _) => "",
        (_, None) => {
            let message = format!("A null value is not supported for {}.", key.name);
            return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
        }
        (ConfigOperation::Append | ConfigOperation::Subtract, Some(_)) if !key.is_list() => {
            return Err(ConfigError::NoList(key.name).into());
        }
        (_, Some(value)) => {
            key.check(value)?;
            value.trim()
        }
    };
    Ok(ConfigChange { name: key.name.to_owned(), value: value.to_owned(), operation: operation.into() })
}
