//! The one table of config keys: what a topic and a broker can be told, with type, range, default and meaning. What
//! reads `server.properties`, creates topics, describes and alters configs works from this table, so that they agree.

mod broker_keys;
mod kind;
mod topic_default_keys;
mod topic_keys;

use std::collections::BTreeMap;

use thiserror::Error;

pub use broker_keys::{BROKER_KEYS, IGNORED_KEYS};
pub use kind::Kind;
pub use topic_default_keys::TOPIC_DEFAULT_KEYS;
pub use topic_keys::TOPIC_KEYS;

pub use super::image::Configs;
use super::{
    Image,
    image::{DurabilityLevel, Topic},
    settings,
};
use crate::ids::NodeId;

/// A key that a topic or a broker can be configured with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Kafka's name, or ours where Kafka has none.
    pub name: &'static str,
    /// What a value looks like.
    pub kind: Kind,
    /// The value where nobody sets one; `None` where there is none, and empty is not the same.
    pub default: Option<&'static str>,
    /// Who can be told, and when.
    pub scope: Scope,
    /// What it does, in a sentence.
    pub doc: &'static str,
}

/// Who can be told of a key, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A topic, at any time; every topic that is not told follows the broker key of this name.
    Topic {
        /// The broker's name for the same thing.
        broker: &'static str,
    },
    /// A topic alone, at any time.
    TopicOnly,
    /// A broker, when it starts.
    ReadOnly,
    /// A broker, at any time.
    PerBroker,
    /// All brokers together, at any time.
    ClusterWide,
}

/// Where a value comes from, by Kafka's numbers of DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum Source {
    /// Set for the topic.
    Topic = 1,
    /// Set for this broker while it ran.
    DynamicBroker = 2,
    /// Set for all brokers.
    DynamicCluster = 3,
    /// In the broker's file.
    StaticBroker = 4,
    /// Nobody set it.
    Default = 5,
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value, as text; `None` where there is none.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
    /// The name under which it was found: the topic's, or the broker's for the same thing.
    pub name: &'static str,
}

/// Why a config is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// No such key.
    #[error("unknown config '{name}'{}", nearest.map(|n| format!("; is '{n}' meant?")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        name: String,
        /// A key that looks like it.
        nearest: Option<&'static str>,
    },
    /// Not a value of the key.
    #[error("'{value}' is no value of '{name}': {expected}")]
    Invalid {
        /// The key.
        name: &'static str,
        /// What was asked for.
        value: String,
        /// What a value looks like.
        expected: String,
    },
    /// A broker is told this when it starts.
    #[error("'{0}' cannot be changed while the broker runs: set it in the broker's file and restart it")]
    ReadOnly(&'static str),
    /// Only all brokers together can be told.
    #[error("'{0}' is the same on all brokers: set it for the cluster (the broker resource without a name)")]
    ClusterWide(&'static str),
    /// Only lists are appended to.
    #[error("'{0}' is no list: set it instead of appending or subtracting")]
    NoList(&'static str),
}

/// Every key of a broker.
pub fn broker_keys() -> impl Iterator<Item = &'static Key> {
    BROKER_KEYS.iter().chain(TOPIC_DEFAULT_KEYS)
}

/// The key of a topic.
///
/// # Errors
/// [`ConfigError::Unknown`].
pub fn topic_key(name: &str) -> Result<&'static Key, ConfigError> {
    find(|| TOPIC_KEYS.iter(), name)
}

/// The key of a broker.
///
/// # Errors
/// [`ConfigError::Unknown`].
pub fn broker_key(name: &str) -> Result<&'static Key, ConfigError> {
    find(broker_keys, name)
}

/// What applies to a topic on a broker, whose file says `file`.
#[must_use]
pub fn topic_setting(
    image: &Image,
    topic: &Topic,
    node: NodeId,
    file: &Configs,
    key: &'static Key,
) -> Setting {
    if key.name == "flush.messages" && !topic.configs.contains_key(key.name) {
        // The cluster's durability stands behind it, whatever a file says.
        let unlimited = settings::durability(image, topic) == DurabilityLevel::Replicated;
        let value = Some(if unlimited { i64::MAX.to_string() } else { "1".to_owned() });
        return Setting { value, source: Source::DynamicCluster, name: "quorate.durability" };
    }
    if let Some(value) = topic.configs.get(key.name) {
        return Setting { value: Some(value.clone()), source: Source::Topic, name: key.name };
    }
    match key.scope {
        Scope::Topic { broker } => match broker_key(broker) {
            Ok(broker) => broker_setting(image, node, file, broker),
            Err(_) => default(key),
        },
        _ => default(key),
    }
}

/// What applies to a broker, whose file says `file`.
#[must_use]
pub fn broker_setting(image: &Image, node: NodeId, file: &Configs, key: &'static Key) -> Setting {
    let own = image.broker_configs.get(&node).and_then(|configs| configs.get(key.name));
    let places = [
        (own.filter(|_| key.scope == Scope::PerBroker), Source::DynamicBroker),
        (image.cluster_configs.get(key.name), Source::DynamicCluster),
        (file.get(key.name), Source::StaticBroker),
    ];
    let found = places.into_iter().find_map(|(value, source)| Some((value?.clone(), source)));
    if let Some((value, source)) = found {
        return Setting { value: Some(value), source, name: key.name };
    }
    if key.name == "quorate.durability" {
        let replicated = settings::cluster_durability(image) == DurabilityLevel::Replicated;
        let value = Some(if replicated { "replicated" } else { "synced" }.to_owned());
        return Setting { value, source: Source::DynamicCluster, name: key.name };
    }
    default(key)
}

/// Which of `names` looks most like `name`, if one does.
#[must_use]
pub fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let limit = (name.len() / 3).max(2);
    let measured = names.map(|candidate| (distance(name, candidate), candidate));
    measured.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate)
}

fn default(key: &'static Key) -> Setting {
    Setting { value: key.default.map(str::to_owned), source: Source::Default, name: key.name }
}

fn find<I: Iterator<Item = &'static Key>>(
    keys: impl Fn() -> I,
    name: &str,
) -> Result<&'static Key, ConfigError> {
    keys().find(|key| key.name == name).ok_or_else(|| ConfigError::Unknown {
        name: name.to_owned(),
        nearest: nearest(name, keys().map(|key| key.name)),
    })
}

/// Levenshtein's distance. Names of configs are short; one of a hostile length is cut.
fn distance(left: &str, right: &str) -> usize {
    const LENGTH_MAX: usize = 128;
    let right: Vec<char> = right.chars().take(LENGTH_MAX).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, a) in left.chars().take(LENGTH_MAX).enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        for (cell, b) in row.iter_mut().zip(std::iter::once(None).chain(right.iter().map(Some))) {
            let Some(b) = b else {
                *cell = above + 1;
                continue;
            };
            let next = (diagonal + usize::from(a != *b)).min(before + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = next;
            before = next;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// Values of a topic's keys that do not make sense together.
#[must_use]
pub fn contradiction(configs: &Configs) -> Option<String> {
    let number = |name: &str| configs.get(name).and_then(|text| text.parse::<i64>().ok());
    let (min, max) = (number("min.compaction.lag.ms")?, number("max.compaction.lag.ms")?);
    (min > max).then(|| format!("min.compaction.lag.ms ({min}) is above max.compaction.lag.ms ({max})"))
}

/// The broker keys that a file sets, by the names that topics follow: `log.retention.hours` and its like stand for the
/// key in milliseconds where that one is not set (Kafka's rule).
#[must_use]
pub fn with_unit_synonyms(mut file: BTreeMap<String, String>) -> Configs {
    const UNITS: &[(&str, &str, i64)] = &[
        ("log.retention.minutes", "log.retention.ms", 60_000),
        ("log.retention.hours", "log.retention.ms", 3_600_000),
        ("log.roll.hours", "log.roll.ms", 3_600_000),
        ("log.roll.jitter.hours", "log.roll.jitter.ms", 3_600_000),
    ];
    for (coarse, fine, factor) in UNITS {
        let number = file.get(*coarse).and_then(|text| text.trim().parse::<i64>().ok());
        if let (Some(number), false) = (number, file.contains_key(*fine)) {
            let value = if number < 0 { -1 } else { number.saturating_mul(*factor) };
            file.insert((*fine).to_owned(), value.to_string());
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_and_every_topic_key_follows_a_broker_key_with_the_same_default() {
        for key in TOPIC_KEYS.iter().chain(broker_keys()) {
            if let Some(default) = key.default {
                key.check(default).unwrap();
            }
            if let Scope::Topic { broker } = key.scope {
                let broker = broker_key(broker).unwrap();
                assert_eq!(broker.default, key.default, "{}", key.name);
                assert_eq!(broker.kind, key.kind, "{}", key.name);
            }
        }
    }

    #[test]
    fn names_are_sorted_and_each_stands_once() {
        for keys in [TOPIC_KEYS, BROKER_KEYS, TOPIC_DEFAULT_KEYS] {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(names, sorted);
        }
        for (name, _) in IGNORED_KEYS {
            assert!(broker_key(name).is_err(), "{name} is both ignored and obeyed");
        }
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_nearest() {
        let error = topic_key("retention.m").unwrap_err();
        assert_eq!(error.to_string(), "unknown config 'retention.m'; is 'retention.ms' meant?");
        assert!(matches!(topic_key("zzzz"), Err(ConfigError::Unknown { nearest: None, .. })));
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn values_are_checked_by_type_and_range() {
        let ok = |name: &str, value: &str| topic_key(name).unwrap().check(value).is_ok();
        assert!(ok("retention.ms", "-1") && !ok("retention.ms", "-2") && !ok("retention.ms", "a"));
        assert!(ok("cleanup.policy", "compact, delete") && !ok("cleanup.policy", "compacted"));
        assert!(ok("min.cleanable.dirty.ratio", "0.5") && !ok("min.cleanable.dirty.ratio", "1.5"));
        assert!(!ok("min.cleanable.dirty.ratio", "NaN"));
        assert!(ok("preallocate", "TRUE") && !ok("preallocate", "yes"));
        assert!(ok("min.insync.replicas", "2") && !ok("min.insync.replicas", "0"));
    }

    #[test]
    fn coarse_units_stand_for_milliseconds_unless_these_are_set() {
        let file = |pairs: &[(&str, &str)]| -> Configs {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let configs =
            with_unit_synonyms(file(&[("log.retention.hours", "2"), ("log.retention.minutes", "3")]));
        assert_eq!(configs.get("log.retention.ms").unwrap(), "180000");
        let configs = with_unit_synonyms(file(&[("log.retention.hours", "-1")]));
        assert_eq!(configs.get("log.retention.ms").unwrap(), "-1");
        let configs = with_unit_synonyms(file(&[("log.retention.hours", "2"), ("log.retention.ms", "5")]));
        assert_eq!(configs.get("log.retention.ms").unwrap(), "5");
    }
}
