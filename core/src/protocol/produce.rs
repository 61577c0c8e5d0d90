//! Produce, versions 3 to 13: our own codec, because this is the hot path. Record batches stay slices of the frame.

use bytes::{BufMut as _, Bytes, BytesMut};
use smallvec::SmallVec;

use super::{
    bodies::StrBytes,
    errors::ErrorCode,
    guard::ELEMENTS_MAX,
    hints::{LeaderHint, NodeEndpoint, read_endpoints, write_endpoints},
    primitives::{Malformed, Reader, Writer as _},
    topics::{TopicRef, Topics, read_string, same_topic},
};
use crate::ids::{NodeId, Offset};

/// The first version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 9;
/// The first version that names topics by id (KIP-516).
const TOPIC_IDS: i16 = 13;

/// A request to append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceRequest {
    /// The producer's transactional id, if it has one.
    pub transactional_id: Option<StrBytes>,
    /// How many must have the records before the answer: 0 none, and there is no answer; 1 the leader; -1 the ISR.
    pub acks: i16,
    /// How long the answer may take, in ms.
    pub timeout_ms: i32,
    /// What to append where, in the order of the request.
    pub partitions: SmallVec<[ProducePartition; 4]>,
}

/// What to append to one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducePartition {
    /// The topic.
    pub topic: TopicRef,
    /// The partition's number.
    pub index: i32,
    /// Record batches as the producer made them; a slice of the frame.
    pub records: Option<Bytes>,
}

impl ProduceRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &Bytes, version: i16) -> Result<Self, Malformed> {
        let flexible = version >= FLEXIBLE;
        let mut reader = Reader::new(body);
        let transactional_id = reader.nullable_string(flexible)?.map(|id| read_string(body, id));
        let mut request = Self {
            transactional_id: transactional_id.transpose()?,
            acks: reader.i16()?,
            timeout_ms: reader.i32()?,
            partitions: SmallVec::new(),
        };
        let mut left = ELEMENTS_MAX;
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        for _ in 0..reader.count(flexible, topics.element_min())? {
            let topic = topics.read(&mut reader, body)?;
            let count = reader.count(flexible, if flexible { 6 } else { 8 })?;
            left = left.checked_sub(count + 1).ok_or(Malformed::TooManyElements)?;
            for _ in 0..count {
                let index = reader.i32()?;
                let records = reader.nullable_bytes(flexible)?.map(|records| body.slice_ref(records));
                reader.skip_tags(flexible)?;
                request.partitions.push(ProducePartition { topic: topic.clone(), index, records });
            }
            reader.skip_tags(flexible)?;
        }
        reader.skip_tags(flexible)?;
        reader.finish()?;
        Ok(request)
    }

    /// Appends the body. Consecutive partitions of a topic are told together. A topic must be named as the version
    /// names it.
    pub fn encode(&self, buffer: &mut BytesMut, version: i16) {
        let flexible = version >= FLEXIBLE;
        buffer.nullable_string(flexible, self.transactional_id.as_deref());
        buffer.put_i16(self.acks);
        buffer.put_i32(self.timeout_ms);
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        let groups = || self.partitions.chunk_by(|a, b| same_topic(&a.topic, &b.topic));
        buffer.count(flexible, Some(groups().count()));
        for group in groups() {
            topics.write(buffer, group.first().map(|partition| &partition.topic));
            buffer.count(flexible, Some(group.len()));
            for partition in group {
                buffer.put_i32(partition.index);
                buffer.nullable_bytes(flexible, partition.records.as_deref());
                no_tags(buffer, flexible);
            }
            no_tags(buffer, flexible);
        }
        no_tags(buffer, flexible);
    }
}

/// What became of a [`ProduceRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceResponse {
    /// Each partition of the request.
    pub partitions: SmallVec<[ProducedPartition; 4]>,
    /// How long the client should be silent, in ms.
    pub throttle_ms: i32,
    /// Where the leaders are that partitions hint at (KIP-951; from version 10 on).
    pub endpoints: Vec<NodeEndpoint>,
}

/// What became of one partition's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducedPartition {
    /// The topic.
    pub topic: TopicRef,
    /// The partition's number.
    pub index: i32,
    /// Whether they were appended.
    pub error: ErrorCode,
    /// The offset of the first; -1 unless appended.
    pub base_offset: Offset,
    /// The leader's time stamp in ms, where the topic has the leader's; else -1.
    pub append_time_ms: i64,
    /// The first offset that the partition has (version 5); -1 where it is not known.
    pub log_start: Offset,
    /// Which records are to blame (KIP-467, version 8).
    pub record_errors: Vec<RecordError>,
    /// The reason in words (version 8).
    pub message: Option<StrBytes>,
    /// Who leads, told with NOT_LEADER_OR_FOLLOWER (KIP-951, version 10).
    pub leader: Option<LeaderHint>,
}

/// A record that is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Which record of the batch, from 0.
    pub index: i32,
    /// What is wrong.
    pub message: Option<StrBytes>,
}

impl ProducedPartition {
    /// Nothing was appended, for this reason.
    #[must_use]
    pub fn failed(topic: TopicRef, index: i32, error: ErrorCode) -> Self {
        Self {
            topic,
            index,
            error,
            base_offset: Offset(-1),
            append_time_ms: -1,
            log_start: Offset(-1),
            record_errors: Vec::new(),
            message: None,
            leader: None,
        }
    }

    fn encode(&self, buffer: &mut BytesMut, version: i16) {
        let flexible = version >= FLEXIBLE;
        buffer.put_i32(self.index);
        buffer.put_i16(self.error.0);
        buffer.put_i64(self.base_offset.0);
        buffer.put_i64(self.append_time_ms);
        if version >= 5 {
            buffer.put_i64(self.log_start.0);
        }
        if version >= 8 {
            buffer.count(flexible, Some(self.record_errors.len()));
            for error in &self.record_errors {
                buffer.put_i32(error.index);
                buffer.nullable_string(flexible, error.message.as_deref());
                no_tags(buffer, flexible);
            }
            buffer.nullable_string(flexible, self.message.as_deref());
        }
        match &self.leader {
            Some(leader) if version >= 10 => {
                buffer.unsigned_varint(1);
                leader.write(buffer, 0);
            }
            _ => no_tags(buffer, flexible),
        }
    }

    fn decode(
        topic: TopicRef,
        reader: &mut Reader<'_>,
        body: &Bytes,
        version: i16,
    ) -> Result<Self, Malformed> {
        let flexible = version >= FLEXIBLE;
        let (index, error) = (reader.i32()?, ErrorCode(reader.i16()?));
        let mut partition = Self::failed(topic, index, error);
        partition.base_offset = Offset(reader.i64()?);
        partition.append_time_ms = reader.i64()?;
        if version >= 5 {
            partition.log_start = Offset(reader.i64()?);
        }
        if version >= 8 {
            for _ in 0..reader.nullable_count(flexible, 6)?.unwrap_or(0) {
                let index = reader.i32()?;
                let message =
                    reader.nullable_string(flexible)?.map(|text| read_string(body, text)).transpose()?;
                reader.skip_tags(flexible)?;
                partition.record_errors.push(RecordError { index, message });
            }
            partition.message =
                reader.nullable_string(flexible)?.map(|text| read_string(body, text)).transpose()?;
        }
        reader.tags(flexible, |tag, mut value| {
            if tag == 0 {
                partition.leader =
                    Some(LeaderHint::read(&mut value)?).filter(|hint| hint.leader != NodeId::NONE);
            }
            Ok(())
        })?;
        Ok(partition)
    }
}

impl ProduceResponse {
    /// Appends the body.
    pub fn encode(&self, buffer: &mut BytesMut, version: i16) {
        let flexible = version >= FLEXIBLE;
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        let groups = || self.partitions.chunk_by(|a, b| same_topic(&a.topic, &b.topic));
        buffer.count(flexible, Some(groups().count()));
        for group in groups() {
            topics.write(buffer, group.first().map(|partition| &partition.topic));
            buffer.count(flexible, Some(group.len()));
            for partition in group {
                partition.encode(buffer, version);
            }
            no_tags(buffer, flexible);
        }
        buffer.put_i32(self.throttle_ms);
        if version >= 10 && !self.endpoints.is_empty() {
            buffer.unsigned_varint(1);
            write_endpoints(buffer, 0, &self.endpoints);
        } else {
            no_tags(buffer, flexible);
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &Bytes, version: i16) -> Result<Self, Malformed> {
        let flexible = version >= FLEXIBLE;
        let mut reader = Reader::new(body);
        let mut response = Self::default();
        let mut left = ELEMENTS_MAX;
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        for _ in 0..reader.count(flexible, topics.element_min())? {
            let topic = topics.read(&mut reader, body)?;
            let count = reader.count(flexible, 22)?;
            left = left.checked_sub(count + 1).ok_or(Malformed::TooManyElements)?;
            for _ in 0..count {
                let partition = ProducedPartition::decode(topic.clone(), &mut reader, body, version)?;
                response.partitions.push(partition);
            }
            reader.skip_tags(flexible)?;
        }
        response.throttle_ms = reader.i32()?;
        let mut endpoints = Vec::new();
        reader.tags(flexible, |tag, mut value| {
            if tag == 0 {
                endpoints = read_endpoints(&mut value)?;
            }
            Ok(())
        })?;
        response.endpoints = endpoints;
        reader.finish()?;
        Ok(response)
    }
}

fn no_tags(buffer: &mut BytesMut, flexible: bool) {
    if flexible {
        buffer.put_u8(0);
    }
}

#[cfg(test)]
#[path = "produce_test.rs"]
mod tests;
