//! Kafka's keys that mean nothing here, with the reason, besides those of `quorate_core`'s table. They are accepted, so
//! that a Kafka file can be tried as it is, and each is named once at the start.

const RAFT: &str = "Kafka's own Raft is not used; the keys of the chosen backend begin with 'consensus.'";
const ZOOKEEPER: &str = "there is no ZooKeeper; see controller.quorum.voters";
const JAVA: &str = "it names a Java class, and nothing here loads any";
const LATER_GROUPS: &str = "consumer groups are not served yet";
const LATER_TRANSACTIONS: &str = "transactions are not served yet";
const LATER_SHARE: &str = "share groups are not served yet";
const LATER_SECURITY: &str = "encryption and authentication are not served yet; listeners are PLAINTEXT";
const LATER_QUOTAS: &str = "quotas are not served yet";
const LATER_COMPACTION: &str = "log compaction is not served yet";
const LATER_TIERS: &str = "tiered storage is not served yet";
const MEASURE: &str = "metrics are read from /metrics; see quorate.http.listener";

/// Why `name`, a key that Kafka knows, means nothing here.
pub(crate) fn reason(name: &str) -> Option<&'static str> {
    let exact = EXACT.iter().find(|(key, _)| *key == name).map(|(_, reason)| *reason);
    exact.or_else(|| PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, reason)| *reason))
}

const EXACT: &[(&str, &str)] = &[
    ("num.replica.alter.log.dirs.threads", "partitions are not moved between folders yet"),
    ("log.flush.interval.ms", "quorate.durability decides when records are synced"),
    ("log.preallocate", "segments grow as they are written"),
    ("inter.broker.protocol.version", "the metadata carries the feature level"),
    ("log.message.format.version", "records have one format, version 2"),
    ("log.message.downconversion.enable", "clients below the record format version 2 are not served"),
    ("message.format.version", "records have one format, version 2"),
    ("initial.broker.registration.timeout.ms", "a broker registers as soon as a controller leads"),
    ("broker.id.generation.enable", "node.id is always given"),
    ("reserved.broker.max.id", "node.id is always given"),
    ("leader.imbalance.per.broker.percentage", "leaders are not moved for balance yet"),
    ("auto.include.jmx.reporter", MEASURE),
    ("authorizer.class.name", LATER_SECURITY),
    ("super.users", LATER_SECURITY),
    ("allow.everyone.if.no.acl.found", LATER_SECURITY),
    ("principal.builder.class", JAVA),
    ("create.topic.policy.class.name", JAVA),
    ("alter.config.policy.class.name", JAVA),
    ("client.quota.callback.class", LATER_QUOTAS),
    ("early.start.listeners", "every listener is bound before anything else"),
    ("fetch.purgatory.purge.interval.requests", "a waiting request is a timer, not an entry to be purged"),
    ("producer.purgatory.purge.interval.requests", "a waiting request is a timer, not an entry to be purged"),
    (
        "delete.records.purgatory.purge.interval.requests",
        "a waiting request is a timer, not an entry to be purged",
    ),
    ("controlled.shutdown.max.retries", "a controlled shutdown is tried until its time is up"),
    ("controlled.shutdown.retry.backoff.ms", "a controlled shutdown is tried until its time is up"),
];

const PREFIXES: &[(&str, &str)] = &[
    ("zookeeper.", ZOOKEEPER),
    ("controller.quorum.", RAFT),
    ("metadata.log.", RAFT),
    ("metadata.max.", RAFT),
    ("ssl.", LATER_SECURITY),
    ("sasl.", LATER_SECURITY),
    ("security.", LATER_SECURITY),
    ("delegation.token.", LATER_SECURITY),
    ("password.encoder.", LATER_SECURITY),
    ("connections.max.reauth.", LATER_SECURITY),
    ("connection.failed.authentication.", LATER_SECURITY),
    ("listener.name.", "listeners take no settings of their own yet"),
    ("quota.", LATER_QUOTAS),
    ("replication.quota.", LATER_QUOTAS),
    ("alter.log.dirs.replication.quota.", LATER_QUOTAS),
    ("controller.quota.", LATER_QUOTAS),
    ("log.cleaner.", LATER_COMPACTION),
    ("remote.", LATER_TIERS),
    ("log.local.retention.", LATER_TIERS),
    ("group.share.", LATER_SHARE),
    ("share.coordinator.", LATER_SHARE),
    ("group.", LATER_GROUPS),
    ("offsets.", LATER_GROUPS),
    ("offset.metadata.", LATER_GROUPS),
    ("transaction.", LATER_TRANSACTIONS),
    ("transactional.id.", LATER_TRANSACTIONS),
    ("metrics.", MEASURE),
    ("kafka.csv.", MEASURE),
    ("telemetry.", "client telemetry is not served yet"),
    ("client.metrics.", "client telemetry is not served yet"),
    ("confluent.", "it is a key of another product"),
];
