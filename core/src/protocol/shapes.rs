//! The shapes of the messages that `kafka_protocol` decodes, in the language of [`super::guard`], after the schemas of
//! Apache Kafka 4.4.

use super::apis::ApiKey;

/// The shape of a request's body; `None` where `kafka_protocol` does not decode it.
#[must_use]
pub fn request(key: ApiKey) -> Option<&'static str> {
    lookup(REQUESTS, key)
}

/// The shape of a response's body; `None` where `kafka_protocol` does not decode it.
#[must_use]
pub fn response(key: ApiKey) -> Option<&'static str> {
    lookup(RESPONSES, key)
}

fn lookup(shapes: &[(ApiKey, &'static str)], key: ApiKey) -> Option<&'static str> {
    shapes.iter().find(|(of, _)| *of == key).map(|(_, shape)| *shape)
}

const REQUESTS: &[(ApiKey, &str)] = &[
    (ApiKey::LIST_OFFSETS, "i b2+ [ s [ i i4+ l ] ] i10+"),
    (ApiKey::METADATA, "[ u10+ s ] b4+ b8-10 b8+"),
    (ApiKey::API_VERSIONS, "s3+ s3+"),
    (ApiKey::CREATE_TOPICS, "[ s i h [ i ( i ) ] [ s s ] ] i b"),
    (ApiKey::DELETE_TOPICS, "[6+ s u ] (-5 s ) i"),
    (ApiKey::INIT_PRODUCER_ID, "s i l3+ h3+"),
    (ApiKey::OFFSET_FOR_LEADER_EPOCH, "i3+ [ s [ i i i ] ]"),
    (ApiKey::DESCRIBE_CONFIGS, "[ b s ( s ) ] b b3+"),
    (ApiKey::INCREMENTAL_ALTER_CONFIGS, "[ b s [ s b s ] ] b"),
    (ApiKey::DESCRIBE_QUORUM, "[ s [ i ] ]"),
    (ApiKey::ALTER_PARTITION, "i l [ u [ i i (-2 i ) [3+ i l ] b i ] ]"),
    (ApiKey::ENVELOPE, "y y y"),
    (ApiKey::DESCRIBE_CLUSTER, "b b1+ b2+"),
    (ApiKey::BROKER_REGISTRATION, "i s u [ s s h h ] [ s h h ] s b1+ (2+ u ) l3+"),
    (ApiKey::BROKER_HEARTBEAT, "i l l b b <1+ 0 ( u ) >"),
    (ApiKey::ALLOCATE_PRODUCER_IDS, "i l"),
    (ApiKey::DESCRIBE_TOPIC_PARTITIONS, "[ s ] i { s i }"),
];

const RESPONSES: &[(ApiKey, &str)] = &[
    (ApiKey::LIST_OFFSETS, "i2+ [ s [ i h l l i4+ ] ]"),
    (
        ApiKey::METADATA,
        "i3+ [ i s i s1+ ] s2+ i1+ [ h s u10+ b1+ [ h i i i7+ ( i ) ( i ) (5+ i ) ] i8+ ] i8-10 h13+",
    ),
    (ApiKey::API_VERSIONS, "h [ h h h ] i1+ < 0 [ s h h ] > < 1 l > < 2 [ s h h ] > < 3 b >"),
    (ApiKey::CREATE_TOPICS, "i [ s u7+ h s i5+ h5+ [5+ s s b b b ] < 0 h > ]"),
    (ApiKey::DELETE_TOPICS, "i [ s u6+ h s5+ ]"),
    (ApiKey::INIT_PRODUCER_ID, "i h l h"),
    (ApiKey::OFFSET_FOR_LEADER_EPOCH, "i [ s [ h i i l ] ]"),
    (ApiKey::DESCRIBE_CONFIGS, "i [ h s b s [ s s b b b [ s s b ] b3+ s3+ ] ]"),
    (ApiKey::INCREMENTAL_ALTER_CONFIGS, "i [ h s b s ]"),
    (
        ApiKey::DESCRIBE_QUORUM,
        "h s2+ [ s [ i h s2+ i i l [ i u2+ l l1+ l1+ ] [ i u2+ l l1+ l1+ ] ] ] [2+ i [ s s h ] ]",
    ),
    (ApiKey::ALTER_PARTITION, "i h [ u [ i h i i ( i ) b i ] ]"),
    (ApiKey::ENVELOPE, "y h"),
    (ApiKey::DESCRIBE_CLUSTER, "i h s b1+ s i [ i s i s b2+ ] i"),
    (ApiKey::BROKER_REGISTRATION, "i h l"),
    (ApiKey::BROKER_HEARTBEAT, "i h b b b"),
    (ApiKey::ALLOCATE_PRODUCER_IDS, "i h l i"),
    (ApiKey::DESCRIBE_TOPIC_PARTITIONS, "i [ h s u b [ h i i i ( i ) ( i ) ( i ) ( i ) ( i ) ] i ] { s i }"),
];
