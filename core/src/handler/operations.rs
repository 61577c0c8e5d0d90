//! What a client may do, as bits (KIP-430). Nobody is kept from anything until there are authorizers.

/// Where the client did not ask.
pub(super) const NOT_ASKED: i32 = i32::MIN;

/// Kafka's numbers: READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS.
const TOPIC: [u32; 8] = [3, 4, 5, 6, 7, 8, 10, 11];
/// Kafka's numbers: CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE.
const CLUSTER: [u32; 7] = [5, 7, 8, 9, 10, 11, 12];

/// On a topic.
pub(super) fn topic(asked: bool) -> i32 {
    bits(asked, &TOPIC)
}

/// On the cluster.
pub(super) fn cluster(asked: bool) -> i32 {
    bits(asked, &CLUSTER)
}

fn bits(asked: bool, operations: &[u32]) -> i32 {
    if asked { operations.iter().fold(0, |bits, operation| bits | 1 << operation) } else { NOT_ASKED }
}
