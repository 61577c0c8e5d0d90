//! The bodies of control-plane messages: the one module that names `kafka_protocol`, so that it can be exchanged.
//!
//! Decoding goes through the guard; the types themselves are the crate's.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, Request};
use thiserror::Error;

use super::{
    apis::{self, ApiKey},
    guard,
    primitives::Malformed,
    shapes,
};

pub use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterPartitionRequest, AlterPartitionResponse,
    ApiVersionsRequest, ApiVersionsResponse, BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerId,
    BrokerRegistrationRequest, BrokerRegistrationResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterRequest, DescribeClusterResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, EnvelopeRequest, EnvelopeResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, ProducerId, TopicName, TransactionalId,
};
pub use kafka_protocol::messages::{
    allocate_producer_ids_request, allocate_producer_ids_response, alter_partition_request,
    alter_partition_response, api_versions_request, api_versions_response, broker_heartbeat_request,
    broker_heartbeat_response, broker_registration_request, broker_registration_response,
    create_topics_request, create_topics_response, delete_topics_request, delete_topics_response,
    describe_cluster_request, describe_cluster_response, describe_configs_request, describe_configs_response,
    describe_quorum_request, describe_quorum_response, describe_topic_partitions_request,
    describe_topic_partitions_response, envelope_request, envelope_response,
    incremental_alter_configs_request, incremental_alter_configs_response, init_producer_id_request,
    init_producer_id_response, list_offsets_request, list_offsets_response, metadata_request,
    metadata_response, offset_for_leader_epoch_request, offset_for_leader_epoch_response,
};
pub use kafka_protocol::protocol::{Encodable as Body, Request as RequestBody, StrBytes};

/// A message cannot be said in a version: a field is set that the version does not have, or is too long for it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{key} cannot be encoded in version {version}: {reason}")]
pub struct EncodeError {
    /// The kind of message.
    pub key: ApiKey,
    /// The version.
    pub version: i16,
    /// What the codec says.
    pub reason: String,
}

/// Decodes a request's body, after the guard has walked it. Strings and byte sequences are slices of `body`.
///
/// # Errors
/// [`Malformed`].
pub fn decode_request<R: Request>(body: Bytes, version: i16) -> Result<R, Malformed> {
    let key = ApiKey(R::KEY);
    check(key, shapes::request(key), &body, version)?;
    decode(body, version)
}

/// Decodes a response's body, after the guard has walked it.
///
/// # Errors
/// [`Malformed`].
pub fn decode_response<R: Request>(body: Bytes, version: i16) -> Result<R::Response, Malformed> {
    let key = ApiKey(R::KEY);
    check(key, shapes::response(key), &body, version)?;
    decode(body, version)
}

/// Appends a body to `buffer`.
///
/// # Errors
/// [`EncodeError`]; what was appended then is of no use.
pub fn encode<B: Encodable>(
    buffer: &mut BytesMut,
    body: &B,
    key: ApiKey,
    version: i16,
) -> Result<(), EncodeError> {
    let encoded = body.encode(buffer, version);
    encoded.map_err(|error| EncodeError { key, version, reason: error.to_string() })
}

fn check(key: ApiKey, shape: Option<&str>, body: &[u8], version: i16) -> Result<(), Malformed> {
    let (Some(shape), Some(api)) = (shape, apis::find(key)) else { return Err(Malformed::Version) };
    if !api.serves(version) {
        return Err(Malformed::Version);
    }
    guard::check(shape, body, version, api.is_flexible(version))
}

fn decode<D: Decodable>(mut body: Bytes, version: i16) -> Result<D, Malformed> {
    let decoded = D::decode(&mut body, version).map_err(|_| Malformed::Value)?;
    if body.is_empty() { Ok(decoded) } else { Err(Malformed::Trailing) }
}

/// A string for a message.
#[must_use]
pub fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// A topic's name for a message.
#[must_use]
pub fn topic_name(value: impl Into<String>) -> TopicName {
    TopicName(text(value))
}

#[cfg(test)]
#[path = "bodies_test.rs"]
mod tests;
