//! What a broker can be told on behalf of the topics that do not say it themselves: Kafka's keys of brokers that stand
//! behind the keys of topics.

use super::{Key, Kind, Scope};

/// Keys of a broker that topics follow, by name.
pub const TOPIC_DEFAULT_KEYS: &[Key] = &[
    Key {
        name: "compression.gzip.level",
        kind: Kind::Int(-1, 9),
        default: Some("-1"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set compression.gzip.level: the level where the broker \
        compresses with gzip; -1 is the codec's default.",
    },
    Key {
        name: "compression.lz4.level",
        kind: Kind::Int(1, 17),
        default: Some("9"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set compression.lz4.level: the level where the broker compresses \
        with lz4.",
    },
    Key {
        name: "compression.type",
        kind: Kind::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        default: Some("producer"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set compression.type: the codec of stored batches; 'producer' \
        keeps what the producer chose.",
    },
    Key {
        name: "compression.zstd.level",
        kind: Kind::Int(-131072, 22),
        default: Some("3"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set compression.zstd.level: the level where the broker \
        compresses with zstd.",
    },
    Key {
        name: "log.cleaner.delete.retention.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("86400000"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set delete.retention.ms: how long a tombstone outlives its \
        compaction, in milliseconds.",
    },
    Key {
        name: "log.cleaner.max.compaction.lag.ms",
        kind: Kind::Long(1, i64::MAX),
        default: Some("9223372036854775807"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set max.compaction.lag.ms: the longest time that a record waits \
        for compaction, in milliseconds.",
    },
    Key {
        name: "log.cleaner.min.cleanable.ratio",
        kind: Kind::Double(0.0, 1.0),
        default: Some("0.5"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set min.cleanable.dirty.ratio: the share of a log that is not \
        compacted yet at which compaction begins.",
    },
    Key {
        name: "log.cleaner.min.compaction.lag.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("0"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set min.compaction.lag.ms: the shortest time that a record stays \
        as it is, in milliseconds.",
    },
    Key {
        name: "log.cleanup.policy",
        kind: Kind::List(&["compact", "delete"]),
        default: Some("delete"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set cleanup.policy: what becomes of old segments: deleted, or \
        compacted to the last record of each key, or both.",
    },
    Key {
        name: "log.flush.interval.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("9223372036854775807"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set flush.ms: accepted for Kafka's sake; syncs are grouped \
        without a timer.",
    },
    Key {
        name: "log.index.interval.bytes",
        kind: Kind::Int(0, i32::MAX as i64),
        default: Some("4096"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set index.interval.bytes: bytes of records for each entry of the \
        offset index.",
    },
    Key {
        name: "log.index.size.max.bytes",
        kind: Kind::Int(4, i32::MAX as i64),
        default: Some("10485760"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set segment.index.bytes: the largest size of a segment's index, \
        in bytes.",
    },
    Key {
        name: "log.message.timestamp.after.max.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("3600000"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set message.timestamp.after.max.ms: how far in the future a \
        record's timestamp may be, in milliseconds.",
    },
    Key {
        name: "log.message.timestamp.before.max.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("9223372036854775807"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set message.timestamp.before.max.ms: how far in the past a \
        record's timestamp may be, in milliseconds.",
    },
    Key {
        name: "log.message.timestamp.type",
        kind: Kind::OneOf(&["CreateTime", "LogAppendTime"]),
        default: Some("CreateTime"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set message.timestamp.type: whose clock stamps records: the \
        producer's or the broker's.",
    },
    Key {
        name: "log.preallocate",
        kind: Kind::Boolean,
        default: Some("false"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set preallocate: whether a segment's file gets its full size \
        when it is made.",
    },
    Key {
        name: "log.retention.bytes",
        kind: Kind::Long(-1, i64::MAX),
        default: Some("-1"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set retention.bytes: the size of a partition above which old \
        segments are deleted, in bytes; -1 is without limit.",
    },
    Key {
        name: "log.retention.ms",
        kind: Kind::Long(-1, i64::MAX),
        default: Some("604800000"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set retention.ms: the age above which segments are deleted, in \
        milliseconds; -1 is without limit.",
    },
    Key {
        name: "log.roll.jitter.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("0"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set segment.jitter.ms: a random time by which a segment may end \
        sooner, in milliseconds.",
    },
    Key {
        name: "log.roll.ms",
        kind: Kind::Long(1, i64::MAX),
        default: Some("604800000"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set segment.ms: the time after which a segment ends though it is \
        not full, in milliseconds.",
    },
    Key {
        name: "log.segment.bytes",
        kind: Kind::Int(1048576, i32::MAX as i64),
        default: Some("1073741824"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set segment.bytes: the size of a segment, in bytes.",
    },
    Key {
        name: "log.segment.delete.delay.ms",
        kind: Kind::Long(0, i64::MAX),
        default: Some("60000"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set file.delete.delay.ms: how long a deleted segment stays on \
        disk, in milliseconds.",
    },
    Key {
        name: "message.max.bytes",
        kind: Kind::Int(0, i32::MAX as i64),
        default: Some("1048588"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set max.message.bytes: the largest batch that a producer may \
        send, in bytes.",
    },
    Key {
        name: "min.insync.replicas",
        kind: Kind::Int(1, i32::MAX as i64),
        default: Some("1"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set min.insync.replicas: how many replicas must be in sync for \
        acks=all to be accepted.",
    },
    Key {
        name: "unclean.leader.election.enable",
        kind: Kind::Boolean,
        default: Some("false"),
        scope: Scope::ClusterWide,
        doc: "What topics follow that do not set unclean.leader.election.enable: whether a replica that may \
        lack acknowledged records leads where no other can.",
    },
];
