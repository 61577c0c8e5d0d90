//! Plans for the creation and deletion of topics, with Kafka's errors for each topic that cannot be.

use std::collections::{BTreeMap, BTreeSet};

use super::{Refusal, place};
use crate::{
    ids::{NodeId, TopicId},
    metadata::{
        Command, Image,
        command::{Assignment, ConfigEntry, CreateTopic, DeleteTopic},
        configs::{self, Configs, broker_key, broker_setting, topic_key},
        image::Nodes,
    },
    protocol::errors::ErrorCode,
    runtime::Rng,
};

/// Partitions that one request may ask for, as in Kafka.
const PARTITIONS_MAX: usize = 10_000;
/// Characters in a topic's name: its folder's name has a number more.
const NAME_LENGTH_MAX: usize = 249;
/// Replicas of a partition that are listed in a manual assignment at most; more than any cluster's use.
const REPLICAS_MAX: usize = 1000;

/// A topic that somebody wants, as CreateTopics says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicRequest {
    /// The name.
    pub name: String,
    /// How many partitions; -1 for the default.
    pub partitions: i32,
    /// How many replicas; -1 for the default.
    pub replication_factor: i16,
    /// Where the replicas of each partition shall be, instead of the two numbers above.
    pub assignments: Vec<(i32, Vec<NodeId>)>,
    /// Configs; `None` as a value is the default.
    pub configs: Vec<(String, Option<String>)>,
}

/// A topic that can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// The identity that it gets.
    pub id: TopicId,
    /// How many partitions.
    pub partitions: usize,
    /// How many replicas.
    pub replication_factor: usize,
    /// Its configs.
    pub configs: Configs,
    /// What makes it.
    pub command: Command,
}

/// What plans of topics depend on besides the image.
#[derive(Clone, Copy)]
pub struct Topics<'a> {
    /// The state.
    pub image: &'a Image,
    /// The controller.
    pub node: NodeId,
    /// What the controller's file says.
    pub file: &'a Configs,
    /// Identities and placements.
    pub rng: &'a Rng,
}

/// A plan, or a refusal, for each topic in the order of the requests.
#[must_use]
pub fn plan_topics(topics: &Topics<'_>, requests: &[TopicRequest]) -> Vec<Result<TopicPlan, Refusal>> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for request in requests {
        *count.entry(&request.name).or_default() += 1;
    }
    let mut partitions = 0;
    let mut plans = Vec::with_capacity(requests.len());
    for request in requests {
        if count.get(request.name.as_str()).is_some_and(|count| *count > 1) {
            plans.push(Err(Refusal::new(ErrorCode::INVALID_REQUEST, "Duplicate topic name.")));
            continue;
        }
        let plan = topics.plan(request, PARTITIONS_MAX - partitions);
        partitions += plan.as_ref().map_or(0, |plan| plan.partitions);
        plans.push(plan);
    }
    plans
}

/// The command that ends a topic, by its name or its id.
///
/// # Errors
/// There is no such topic, or deletion is off.
pub fn plan_deletion(
    topics: &Topics<'_>,
    name: Option<&str>,
    id: TopicId,
) -> Result<(TopicId, String, Command), Refusal> {
    if topics.setting("delete.topic.enable").is_some_and(|text| text.eq_ignore_ascii_case("false")) {
        return Err(Refusal::new(ErrorCode::TOPIC_DELETION_DISABLED, "delete.topic.enable is false."));
    }
    let image = topics.image;
    let found = match name {
        Some(_) if !id.0.is_nil() => {
            let message = "A topic is named by its name or by its id, not by both.";
            return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
        }
        Some(name) => image
            .topic(name)
            .ok_or((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("There is no topic '{name}'."))),
        None => image
            .topics
            .get(&id)
            .ok_or((ErrorCode::UNKNOWN_TOPIC_ID, format!("There is no topic with id {id}."))),
    };
    let topic = found.map_err(|(code, message)| Refusal::new(code, message))?;
    let command = Command::DeleteTopic(DeleteTopic { topic: Some(topic.id.0.into()) });
    Ok((topic.id, topic.name.to_string(), command))
}

impl Topics<'_> {
    fn plan(&self, request: &TopicRequest, partitions_left: usize) -> Result<TopicPlan, Refusal> {
        check_name(&request.name)?;
        self.check_free(&request.name)?;
        let configs = topic_configs(&request.configs)?;
        let assignments = if request.assignments.is_empty() {
            self.placed(request, partitions_left)?
        } else {
            self.assigned(request, partitions_left)?
        };
        let id = TopicId(self.rng.uuid());
        let assignment = |nodes: &Nodes| Assignment { replicas: nodes.iter().map(|node| node.0).collect() };
        let entry =
            |(name, value): (&String, &String)| ConfigEntry { name: name.clone(), value: value.clone() };
        Ok(TopicPlan {
            id,
            partitions: assignments.len(),
            replication_factor: assignments.first().map_or(0, |nodes| nodes.len()),
            command: Command::CreateTopic(CreateTopic {
                name: request.name.clone(),
                topic: Some(id.0.into()),
                partitions: assignments.iter().map(assignment).collect(),
                configs: configs.iter().map(entry).collect(),
            }),
            configs,
        })
    }

    /// The cluster's value of a broker key, or the one in the controller's file, or the default.
    fn setting(&self, name: &str) -> Option<String> {
        broker_setting(self.image, self.node, self.file, broker_key(name).ok()?).value
    }

    fn default_count(&self, name: &str) -> usize {
        self.setting(name).and_then(|text| text.trim().parse().ok()).unwrap_or(1)
    }

    /// A name is free if no topic has it, nor one that differs in `.` and `_` alone: such two could not be told apart
    /// in metrics, so that Kafka refuses the second.
    fn check_free(&self, name: &str) -> Result<(), Refusal> {
        if self.image.names.contains_key(name) {
            let message = format!("Topic '{name}' already exists.");
            return Err(Refusal::new(ErrorCode::TOPIC_ALREADY_EXISTS, message));
        }
        if !name.contains(['.', '_']) {
            return Ok(());
        }
        let unified = |name: &str| name.replace('.', "_");
        let mine = unified(name);
        match self.image.names.keys().find(|other| other.len() == name.len() && unified(other) == mine) {
            Some(other) => {
                let message = format!("Topic '{name}' collides with existing topic: {other}");
                Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, message))
            }
            None => Ok(()),
        }
    }

    fn placed(&self, request: &TopicRequest, partitions_left: usize) -> Result<Vec<Nodes>, Refusal> {
        let replicas = match request.replication_factor {
            -1 => self.default_count("default.replication.factor"),
            factor if factor > 0 => usize::try_from(factor).unwrap_or_default(),
            _ => {
                let message = "Replication factor must be larger than 0, or -1 to use the default value.";
                return Err(Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message));
            }
        };
        let partitions = match request.partitions {
            -1 => self.default_count("num.partitions"),
            count if count > 0 => usize::try_from(count).unwrap_or_default(),
            _ => {
                let message = "Number of partitions was set to an invalid non-positive value.";
                return Err(Refusal::new(ErrorCode::INVALID_PARTITIONS, message));
            }
        };
        check_count(partitions, partitions_left)?;
        place(self.image, partitions, replicas, self.rng).map_err(|error| {
            let message = format!("Unable to replicate the partition {replicas} time(s): {error}");
            Refusal::new(ErrorCode::INVALID_REPLICATION_FACTOR, message)
        })
    }

    fn assigned(&self, request: &TopicRequest, partitions_left: usize) -> Result<Vec<Nodes>, Refusal> {
        for (number, what) in [
            (i32::from(request.replication_factor), "replication factor"),
            (request.partitions, "numPartitions"),
        ] {
            if number != -1 {
                let message =
                    format!("A manual partition assignment was specified, but {what} was not set to -1.");
                return Err(Refusal::new(ErrorCode::INVALID_REQUEST, message));
            }
        }
        check_count(request.assignments.len(), partitions_left)?;
        let refuse = |message: String| Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, message);
        let mut assigned: BTreeMap<i32, Nodes> = BTreeMap::new();
        let mut factor = None;
        for (partition, nodes) in &request.assignments {
            self.check_assignment(*partition, nodes, *factor.get_or_insert(nodes.len())).map_err(refuse)?;
            if assigned.insert(*partition, Nodes::from_slice(nodes)).is_some() {
                let message =
                    format!("Found multiple manual partition assignments for partition {partition}");
                return Err(refuse(message));
            }
        }
        if !assigned.keys().copied().eq((0..).take(assigned.len())) {
            return Err(refuse("partitions should be a consecutive 0-based integer sequence".to_owned()));
        }
        Ok(assigned.into_values().collect())
    }

    fn check_assignment(&self, partition: i32, nodes: &[NodeId], factor: usize) -> Result<(), String> {
        const WHAT: &str = "The manual partition assignment includes";
        if nodes.is_empty() || nodes.len() > REPLICAS_MAX {
            return Err(format!("{WHAT} an empty replica list, or one of more than {REPLICAS_MAX}."));
        }
        let mut seen = BTreeSet::new();
        for node in nodes {
            if !self.image.brokers.contains_key(node) {
                return Err(format!("{WHAT} broker {node}, but no such broker is registered."));
            }
            if !seen.insert(*node) {
                return Err(format!("{WHAT} the broker {node} more than once."));
            }
        }
        if nodes.len() != factor {
            return Err(format!(
                "{WHAT} a partition with {} replica(s), but this is not consistent with previous partitions, which \
                 have {factor} replica(s).",
                nodes.len()
            ));
        }
        if !nodes.iter().any(|node| self.image.is_active(*node)) {
            return Err(format!(
                "All brokers specified in the manual partition assignment for partition {partition} are fenced or in \
                 controlled shutdown."
            ));
        }
        Ok(())
    }
}

fn check_count(partitions: usize, left: usize) -> Result<(), Refusal> {
    if partitions <= left {
        return Ok(());
    }
    let message = format!("Excessively large number of partitions per request: at most {PARTITIONS_MAX}.");
    Err(Refusal::new(ErrorCode::POLICY_VIOLATION, message))
}

/// Kafka's rules for a topic's name.
fn check_name(name: &str) -> Result<(), Refusal> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let problem = match name {
        "" => "the empty string is not allowed".to_owned(),
        "." | ".." => "'.' or '..' is not allowed".to_owned(),
        _ if name.len() > NAME_LENGTH_MAX => {
            format!("the length of '{name:.300}' is longer than the max allowed length {NAME_LENGTH_MAX}")
        }
        _ if !name.chars().all(legal) => format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ),
        _ => return Ok(()),
    };
    Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, format!("Topic name is invalid: {problem}")))
}

fn topic_configs(pairs: &[(String, Option<String>)]) -> Result<Configs, Refusal> {
    let mut configs = Configs::new();
    for (name, value) in pairs {
        let key = topic_key(name)?;
        let Some(value) = value else {
            let message = format!("Null value not supported for topic configs: {name}");
            return Err(Refusal::new(ErrorCode::INVALID_CONFIG, message));
        };
        key.check(value)?;
        configs.insert(name.clone(), value.trim().to_owned());
    }
    match configs::contradiction(&configs) {
        Some(message) => Err(Refusal::new(ErrorCode::INVALID_CONFIG, message)),
        None => Ok(configs),
    }
}
