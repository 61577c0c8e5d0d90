//! What a topic's configuration means to the replicas of its partitions, on one node.

use std::time::Duration;

use crate::{
    ids::{LogIndex, NodeId},
    log::LogConfig,
    metadata::{
        Image,
        configs::{broker_key, broker_setting, topic_key, topic_setting},
        image::{Configs, DurabilityLevel, Topic},
        settings,
    },
    protocol::{
        compression::{Codec, Compression},
        validate::{Rules, Timestamps},
    },
};

use super::leader::LeaderRules;

/// Settings of one topic. Plain data, shared by its replicas and replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image that they are of: a replica never goes back to those of an older one.
    pub image: LogIndex,
    /// Whether ends that count are synced ends.
    pub durability: DurabilityLevel,
    /// What concerns the files.
    pub log: LogConfig,
    /// What concerns the leader.
    pub leader: LeaderRules,
    /// Whose clock stamps the records.
    pub timestamps: Timestamps,
    /// The topic's own codec; `None` keeps the producer's.
    pub compression: Option<Compression>,
    /// Whether `cleanup.policy` holds `compact`, so that every record needs a key.
    pub compacted: bool,
    /// `max.message.bytes`.
    pub batch_bytes_max: usize,
    /// `producer.id.expiration.ms`.
    pub producer_expiration_ms: i64,
}

impl Default for Settings {
    /// Kafka's defaults, and ours for durability.
    fn default() -> Self {
        Self {
            image: LogIndex(0),
            durability: DurabilityLevel::Synced,
            log: LogConfig::default(),
            leader: LeaderRules { min_isr: 1, lag_max: Duration::from_secs(30) },
            timestamps: Timestamps::Create { before_ms_max: i64::MAX, after_ms_max: 3_600_000 },
            compression: None,
            compacted: false,
            batch_bytes_max: 1_048_588,
            producer_expiration_ms: 86_400_000,
        }
    }
}

impl Settings {
    /// Settings of a topic on a node whose file says `file`. A value that does not parse was refused when it was set;
    /// one that is there all the same counts as Kafka's default.
    #[must_use]
    pub fn of(image: &Image, topic: &Topic, node: NodeId, file: &Configs) -> Self {
        let texts = Texts { image, topic, node, file };
        let default = Self::default();
        let policy = texts.topic("cleanup.policy").unwrap_or_default();
        let has_policy = |name: &str| policy.split(',').any(|part| part.trim() == name);
        Self {
            image: image.index,
            durability: settings::durability(image, topic),
            log: texts.log(default.log, has_policy("delete")),
            leader: LeaderRules {
                min_isr: settings::min_isr(image, topic),
                lag_max: texts
                    .broker("replica.lag.time.max.ms")
                    .and_then(|text| text.parse().ok())
                    .map_or(default.leader.lag_max, Duration::from_millis),
            },
            timestamps: texts.timestamps(),
            compression: texts.compression(),
            compacted: has_policy("compact"),
            batch_bytes_max: texts.number("max.message.bytes").unwrap_or(default.batch_bytes_max),
            producer_expiration_ms: texts
                .broker("producer.id.expiration.ms")
                .and_then(|text| text.parse().ok())
                .unwrap_or(default.producer_expiration_ms),
        }
    }

    /// What a produced batch must satisfy now.
    #[must_use]
    pub fn rules(&self, now_ms: i64) -> Rules {
        Rules {
            now_ms,
            timestamps: self.timestamps,
            compression: self.compression,
            keys: self.compacted,
            batch_bytes_max: self.batch_bytes_max,
        }
    }

    /// Whether synced ends count.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.durability == DurabilityLevel::Synced
    }
}

struct Texts<'a> {
    image: &'a Image,
    topic: &'a Topic,
    node: NodeId,
    file: &'a Configs,
}

impl Texts<'_> {
    fn topic(&self, name: &str) -> Option<String> {
        topic_setting(self.image, self.topic, self.node, self.file, topic_key(name).ok()?).value
    }

    fn broker(&self, name: &str) -> Option<String> {
        broker_setting(self.image, self.node, self.file, broker_key(name).ok()?).value
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.topic(name)?.trim().parse().ok()
    }

    /// A number of which -1 means none.
    fn limit(&self, name: &str, default: Option<i64>) -> Option<i64> {
        self.number(name).map_or(default, |value: i64| Some(value)).filter(|value| *value >= 0)
    }

    fn log(&self, default: LogConfig, deletes: bool) -> LogConfig {
        LogConfig {
            segment_bytes: self.number("segment.bytes").unwrap_or(default.segment_bytes),
            segment_ms: self.number("segment.ms").unwrap_or(default.segment_ms),
            index_interval_bytes: self.number("index.interval.bytes").unwrap_or(default.index_interval_bytes),
            index_bytes_max: self.number("segment.index.bytes").unwrap_or(default.index_bytes_max),
            retention_ms: self.limit("retention.ms", default.retention_ms),
            retention_bytes: self.limit("retention.bytes", None).and_then(|bytes| u64::try_from(bytes).ok()),
            deletes,
        }
    }

    fn timestamps(&self) -> Timestamps {
        if self.topic("message.timestamp.type").as_deref() == Some("LogAppendTime") {
            return Timestamps::LogAppend;
        }
        Timestamps::Create {
            before_ms_max: self.number("message.timestamp.before.max.ms").unwrap_or(i64::MAX),
            after_ms_max: self.number("message.timestamp.after.max.ms").unwrap_or(3_600_000),
        }
    }

    fn compression(&self) -> Option<Compression> {
        let codec = Codec::from_name(&self.topic("compression.type")?)?;
        let level = match codec {
            Codec::Gzip => self.number("compression.gzip.level"),
            Codec::Zstd => self.number("compression.zstd.level"),
            _ => None,
        };
        Some(Compression { codec, level })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(configs: &[(&str, &str)]) -> Topic {
        let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Topic {
            id: crate::ids::TopicId::default(),
            name: "orders".into(),
            partitions: imbl::Vector::new(),
            configs: std::sync::Arc::new(configs.collect()),
        }
    }

    fn of(configs: &[(&str, &str)]) -> Settings {
        Settings::of(&Image::default(), &topic(configs), NodeId(1), &Configs::new())
    }

    #[test]
    fn without_configs_the_defaults_hold() {
        assert_eq!(of(&[]), Settings::default());
    }

    #[test]
    fn a_topics_own_values_count() {
        let settings = of(&[
            ("cleanup.policy", "compact"),
            ("compression.type", "gzip"),
            ("compression.gzip.level", "9"),
            ("retention.ms", "-1"),
            ("retention.bytes", "1000000"),
            ("message.timestamp.type", "LogAppendTime"),
            ("min.insync.replicas", "2"),
            ("max.message.bytes", "500"),
            ("flush.messages", "9223372036854775807"),
        ]);
        assert!(settings.compacted && !settings.log.deletes);
        assert_eq!(settings.compression, Some(Compression { codec: Codec::Gzip, level: Some(9) }));
        assert_eq!(settings.log.retention_ms, None);
        assert_eq!(settings.log.retention_bytes, Some(1_000_000));
        assert_eq!(settings.timestamps, Timestamps::LogAppend);
        assert_eq!(settings.leader.min_isr, 2);
        assert_eq!(settings.batch_bytes_max, 500);
        assert!(!settings.is_synced());
    }

    #[test]
    fn a_brokers_file_stands_behind_the_topic() {
        let file = Configs::from([
            ("log.retention.ms".to_owned(), "5000".to_owned()),
            ("replica.lag.time.max.ms".to_owned(), "1000".to_owned()),
        ]);
        let settings = Settings::of(&Image::default(), &topic(&[]), NodeId(1), &file);
        assert_eq!(settings.log.retention_ms, Some(5_000));
        assert_eq!(settings.leader.lag_max, Duration::from_secs(1));
    }
}
