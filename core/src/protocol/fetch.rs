//! Fetch requests, versions 4 to 18: our own codec, because this is the hot path and because replicas add a field.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    bodies::StrBytes,
    guard::ELEMENTS_MAX,
    primitives::{Malformed, Reader, Writer as _},
    topics::{TopicRef, Topics, read_string, same_topic},
};
use crate::ids::{BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, Offset};

/// The first version with compact lengths and tagged fields.
pub(super) const FLEXIBLE: i16 = 12;
/// The first version that names topics by id (KIP-516).
pub(super) const TOPIC_IDS: i16 = 13;
/// The first version whose replica state is a tagged field (KIP-903).
const REPLICA_STATE: i16 = 15;

/// Tag of a partition in a replica's request: where its synced end stands. Ours.
const TAG_SYNCED_END: u32 = 10_000;

/// What Kafka's newer schema says of a replica that tells no high watermark (KIP-1166).
const NO_HIGH_WATERMARK: i64 = i64::MAX;

/// A request for records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// The cluster that the client means to talk to, if it says.
    pub cluster_id: Option<StrBytes>,
    /// The replica that fetches; -1 for a consumer.
    pub replica: NodeId,
    /// The replica's registration (version 15); -1 where it is not told.
    pub replica_epoch: BrokerEpoch,
    /// How long to wait for `min_bytes`, in ms.
    pub max_wait_ms: i32,
    /// How many bytes to wait for.
    pub min_bytes: i32,
    /// How many bytes to answer with, but for the first batch.
    pub max_bytes: i32,
    /// 0: up to the high watermark; 1: up to the last stable offset.
    pub isolation: i8,
    /// The fetch session (KIP-227); 0 for none or a new one.
    pub session_id: i32,
    /// The request's number in the session; -1 for no session, 0 to open one.
    pub session_epoch: i32,
    /// What to fetch; in a session, what changes.
    pub partitions: Vec<FetchPartition>,
    /// What to take out of the session.
    pub forgotten: Vec<(TopicRef, i32)>,
    /// The consumer's rack (KIP-392).
    pub rack: StrBytes,
}

impl Default for FetchRequest {
    /// A consumer's request without a session.
    fn default() -> Self {
        Self {
            cluster_id: None,
            replica: NodeId::NONE,
            replica_epoch: BrokerEpoch::NONE,
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: i32::MAX,
            isolation: 0,
            session_id: 0,
            session_epoch: -1,
            partitions: Vec::new(),
            forgotten: Vec::new(),
            rack: StrBytes::new(),
        }
    }
}

/// One partition to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// The topic.
    pub topic: TopicRef,
    /// The partition's number.
    pub index: i32,
    /// The leader epoch that the client knows; -1 for none (KIP-320).
    pub leader_epoch: LeaderEpoch,
    /// The first offset wanted.
    pub offset: Offset,
    /// The epoch of the last record that the client has (KIP-595); -1 for none.
    pub last_epoch: LeaderEpoch,
    /// The replica's own first offset; -1 from a consumer.
    pub log_start: Offset,
    /// How many bytes to answer with, but for the first batch.
    pub max_bytes: i32,
    /// The replica's log directory (KIP-853); zero where it is not told.
    pub directory: DirectoryId,
    /// The high watermark that the replica knows (KIP-1166), where it is told.
    pub high_watermark: Option<Offset>,
    /// Up to where the replica's log is durable, where it is told.
    pub synced_end: Option<Offset>,
}

impl FetchPartition {
    /// A consumer's wish for records from `offset` on.
    #[must_use]
    pub fn from(topic: TopicRef, index: i32, offset: Offset, max_bytes: i32) -> Self {
        Self {
            topic,
            index,
            leader_epoch: LeaderEpoch::NONE,
            offset,
            last_epoch: LeaderEpoch::NONE,
            log_start: Offset(-1),
            max_bytes,
            directory: DirectoryId::default(),
            high_watermark: None,
            synced_end: None,
        }
    }
}

impl FetchRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &Bytes, version: i16) -> Result<Self, Malformed> {
        let flexible = version >= FLEXIBLE;
        let mut reader = Reader::new(body);
        let mut request = Self::default();
        if version < REPLICA_STATE {
            request.replica = NodeId(reader.i32()?);
        }
        request.max_wait_ms = reader.i32()?;
        request.min_bytes = reader.i32()?;
        request.max_bytes = reader.i32()?;
        request.isolation = reader.i8()?;
        if version >= 7 {
            request.session_id = reader.i32()?;
            request.session_epoch = reader.i32()?;
        }
        let mut left = ELEMENTS_MAX;
        request.read_partitions(&mut reader, body, version, &mut left)?;
        if version >= 7 {
            request.read_forgotten(&mut reader, body, version, &mut left)?;
        }
        if version >= 11 {
            request.rack = read_string(body, reader.string(flexible)?)?;
        }
        reader.tags(flexible, |tag, mut value| {
            match tag {
                0 => {
                    let id = value.nullable_string(true)?;
                    request.cluster_id = id.map(|id| read_string(body, id)).transpose()?;
                }
                1 if version >= REPLICA_STATE => {
                    request.replica = NodeId(value.i32()?);
                    request.replica_epoch = BrokerEpoch(value.i64()?);
                    value.skip_tags(true)?;
                }
                _ => return Ok(()),
            }
            value.finish().map_err(|_| Malformed::TagLength)
        })?;
        reader.finish()?;
        Ok(request)
    }

    fn read_partitions(
        &mut self,
        reader: &mut Reader<'_>,
        body: &Bytes,
        version: i16,
        left: &mut usize,
    ) -> Result<(), Malformed> {
        let flexible = version >= FLEXIBLE;
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        for _ in 0..reader.count(flexible, topics.element_min())? {
            let topic = topics.read(reader, body)?;
            let count = reader.count(flexible, 16)?;
            *left = left.checked_sub(count + 1).ok_or(Malformed::TooManyElements)?;
            for _ in 0..count {
                self.partitions.push(read_partition(topic.clone(), reader, version)?);
            }
            reader.skip_tags(flexible)?;
        }
        Ok(())
    }

    fn read_forgotten(
        &mut self,
        reader: &mut Reader<'_>,
        body: &Bytes,
        version: i16,
        left: &mut usize,
    ) -> Result<(), Malformed> {
        let flexible = version >= FLEXIBLE;
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        for _ in 0..reader.count(flexible, topics.element_min())? {
            let topic = topics.read(reader, body)?;
            let count = reader.count(flexible, 4)?;
            *left = left.checked_sub(count + 1).ok_or(Malformed::TooManyElements)?;
            for _ in 0..count {
                self.forgotten.push((topic.clone(), reader.i32()?));
            }
            reader.skip_tags(flexible)?;
        }
        Ok(())
    }

    /// Appends the body. Consecutive partitions of a topic are told together. A topic must be named as the version
    /// names it; what a version does not have is left out.
    pub fn encode(&self, buffer: &mut BytesMut, version: i16) {
        let flexible = version >= FLEXIBLE;
        if version < REPLICA_STATE {
            buffer.put_i32(self.replica.0);
        }
        buffer.put_i32(self.max_wait_ms);
        buffer.put_i32(self.min_bytes);
        buffer.put_i32(self.max_bytes);
        buffer.put_i8(self.isolation);
        if version >= 7 {
            buffer.put_i32(self.session_id);
            buffer.put_i32(self.session_epoch);
        }
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        let groups = || self.partitions.chunk_by(|a, b| same_topic(&a.topic, &b.topic));
        buffer.count(flexible, Some(groups().count()));
        for group in groups() {
            topics.write(buffer, group.first().map(|partition| &partition.topic));
            buffer.count(flexible, Some(group.len()));
            group.iter().for_each(|partition| write_partition(buffer, partition, version));
            no_tags(buffer, flexible);
        }
        if version >= 7 {
            let groups = || self.forgotten.chunk_by(|a, b| same_topic(&a.0, &b.0));
            buffer.count(flexible, Some(groups().count()));
            for group in groups() {
                topics.write(buffer, group.first().map(|(topic, _)| topic));
                buffer.count(flexible, Some(group.len()));
                group.iter().for_each(|(_, index)| buffer.put_i32(*index));
                no_tags(buffer, flexible);
            }
        }
        if version >= 11 {
            buffer.nullable_string(flexible, Some(&self.rack));
        }
        if flexible {
            self.write_tags(buffer, version);
        }
    }

    fn write_tags(&self, buffer: &mut BytesMut, version: i16) {
        let replica = version >= REPLICA_STATE && self.replica != NodeId::NONE;
        buffer.unsigned_varint(u32::from(self.cluster_id.is_some()) + u32::from(replica));
        if let Some(id) = &self.cluster_id {
            let mut value = BytesMut::new();
            value.nullable_string(true, Some(id));
            buffer.tag(0, &value);
        }
        if replica {
            let mut value = BytesMut::new();
            value.put_i32(self.replica.0);
            value.put_i64(self.replica_epoch.0);
            value.put_u8(0);
            buffer.tag(1, &value);
        }
    }
}

fn read_partition(
    topic: TopicRef,
    reader: &mut Reader<'_>,
    version: i16,
) -> Result<FetchPartition, Malformed> {
    let mut partition = FetchPartition::from(topic, reader.i32()?, Offset(0), 0);
    if version >= 9 {
        partition.leader_epoch = LeaderEpoch(reader.i32()?);
    }
    partition.offset = Offset(reader.i64()?);
    if version >= 12 {
        partition.last_epoch = LeaderEpoch(reader.i32()?);
    }
    if version >= 5 {
        partition.log_start = Offset(reader.i64()?);
    }
    partition.max_bytes = reader.i32()?;
    reader.tags(version >= FLEXIBLE, |tag, mut value| {
        match tag {
            0 if version >= 17 => partition.directory = DirectoryId(value.uuid()?),
            1 if version >= 18 => {
                partition.high_watermark =
                    Some(value.i64()?).filter(|hw| *hw != NO_HIGH_WATERMARK).map(Offset);
            }
            TAG_SYNCED_END => partition.synced_end = Some(Offset(value.i64()?)),
            _ => return Ok(()),
        }
        value.finish().map_err(|_| Malformed::TagLength)
    })?;
    Ok(partition)
}

fn write_partition(buffer: &mut BytesMut, partition: &FetchPartition, version: i16) {
    buffer.put_i32(partition.index);
    if version >= 9 {
        buffer.put_i32(partition.leader_epoch.0);
    }
    buffer.put_i64(partition.offset.0);
    if version >= 12 {
        buffer.put_i32(partition.last_epoch.0);
    }
    if version >= 5 {
        buffer.put_i64(partition.log_start.0);
    }
    buffer.put_i32(partition.max_bytes);
    if version < FLEXIBLE {
        return;
    }
    let directory = (version >= 17 && !partition.directory.0.is_nil()).then_some(partition.directory);
    let high_watermark = partition.high_watermark.filter(|_| version >= 18);
    let synced_end = partition.synced_end;
    let present = [directory.is_some(), high_watermark.is_some(), synced_end.is_some()];
    buffer.unsigned_varint(present.iter().map(|present| u32::from(*present)).sum());
    if let Some(directory) = directory {
        buffer.tag(0, directory.0.as_bytes());
    }
    if let Some(Offset(offset)) = high_watermark {
        buffer.tag(1, &offset.to_be_bytes());
    }
    if let Some(Offset(offset)) = synced_end {
        buffer.tag(TAG_SYNCED_END, &offset.to_be_bytes());
    }
}

pub(super) fn no_tags(buffer: &mut BytesMut, flexible: bool) {
    if flexible {
        buffer.put_u8(0);
    }
}

#[cfg(test)]
#[path = "fetch_test.rs"]
mod tests;
