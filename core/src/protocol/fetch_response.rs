//! Fetch responses, versions 4 to 18. Records are not copied into the frame: it is put together around them.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    errors::ErrorCode,
    fetch::{FLEXIBLE, TOPIC_IDS, no_tags},
    guard::ELEMENTS_MAX,
    hints::{LeaderHint, NodeEndpoint, read_endpoints, write_endpoints},
    outgoing::{Outgoing, Records},
    primitives::{Malformed, Reader, Writer as _},
    topics::{TopicRef, Topics, same_topic},
};
use crate::ids::{LeaderEpoch, NodeId, Offset, ProducerId};

/// The answer to a [`super::fetch::FetchRequest`].
#[derive(Clone, Debug, Default)]
pub struct FetchResponse {
    /// How long the client should be silent, in ms.
    pub throttle_ms: i32,
    /// What is wrong with the request as a whole (version 7).
    pub error: ErrorCode,
    /// The session that the request belongs to; 0 for none (version 7).
    pub session_id: i32,
    /// The partitions; in a session, those with news.
    pub partitions: Vec<FetchedPartition>,
    /// Where the leaders are that partitions hint at (KIP-951, version 16).
    pub endpoints: Vec<NodeEndpoint>,
}

/// One partition's part of the answer.
#[derive(Clone, Debug)]
pub struct FetchedPartition {
    /// The topic.
    pub topic: TopicRef,
    /// The partition's number.
    pub index: i32,
    /// Why there are no records.
    pub error: ErrorCode,
    /// The leader's high watermark; -1 with an error.
    pub high_watermark: Offset,
    /// The last stable offset; -1 with an error.
    pub last_stable: Offset,
    /// The first offset that the leader has; -1 with an error.
    pub log_start: Offset,
    /// Where the reader's history parts from the leader's (KIP-595, version 12).
    pub diverging: Option<EpochEnd>,
    /// Who leads (KIP-951, version 12).
    pub leader: Option<LeaderHint>,
    /// Aborted transactions in the records, for a reader of committed ones: `None` for others.
    pub aborted: Option<Vec<Aborted>>,
    /// Where the consumer had better read (KIP-392, version 11); -1 for here.
    pub preferred_replica: NodeId,
    /// Whole batches, the first of which may begin before the offset that was asked for.
    pub records: Records,
}

/// An epoch of the leader's log and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The first offset after it.
    pub end: Offset,
}

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Its producer.
    pub producer: ProducerId,
    /// Its first offset.
    pub first: Offset,
}

impl FetchedPartition {
    /// No records, for this reason.
    #[must_use]
    pub fn failed(topic: TopicRef, index: i32, error: ErrorCode) -> Self {
        Self {
            topic,
            index,
            error,
            high_watermark: Offset(-1),
            last_stable: Offset(-1),
            log_start: Offset(-1),
            diverging: None,
            leader: None,
            aborted: None,
            preferred_replica: NodeId::NONE,
            records: Records::default(),
        }
    }

    fn encode(self, frame: &mut Outgoing, version: i16) {
        let flexible = version >= FLEXIBLE;
        let buffer = frame.buffer();
        buffer.put_i32(self.index);
        buffer.put_i16(self.error.0);
        buffer.put_i64(self.high_watermark.0);
        buffer.put_i64(self.last_stable.0);
        if version >= 5 {
            buffer.put_i64(self.log_start.0);
        }
        buffer.count(flexible, self.aborted.as_ref().map(Vec::len));
        for aborted in self.aborted.iter().flatten() {
            buffer.put_i64(aborted.producer.0);
            buffer.put_i64(aborted.first.0);
            no_tags(buffer, flexible);
        }
        if version >= 11 {
            buffer.put_i32(self.preferred_replica.0);
        }
        // Never null: the Java client takes null records for a broken answer.
        buffer.count(flexible, Some(self.records.len()));
        frame.push(self.records);
        if flexible {
            write_partition_tags(frame.buffer(), self.diverging, self.leader);
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
        partition.high_watermark = Offset(reader.i64()?);
        partition.last_stable = Offset(reader.i64()?);
        if version >= 5 {
            partition.log_start = Offset(reader.i64()?);
        }
        if let Some(count) = reader.nullable_count(flexible, 16)? {
            let aborted = (0..count).map(|_| {
                let one = Aborted { producer: ProducerId(reader.i64()?), first: Offset(reader.i64()?) };
                reader.skip_tags(flexible)?;
                Ok(one)
            });
            partition.aborted = Some(aborted.collect::<Result<_, Malformed>>()?);
        }
        if version >= 11 {
            partition.preferred_replica = NodeId(reader.i32()?);
        }
        if let Some(records) = reader.nullable_bytes(flexible)? {
            partition.records = body.slice_ref(records).into();
        }
        reader.tags(flexible, |tag, mut value| {
            match tag {
                0 => partition.diverging = read_epoch_end(&mut value)?,
                1 => {
                    let hint = LeaderHint::read(&mut value)?;
                    partition.leader = Some(hint).filter(|hint| hint.epoch != LeaderEpoch::NONE);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(partition)
    }
}

impl FetchResponse {
    /// Nothing but an error for the request as a whole.
    #[must_use]
    pub fn failed(error: ErrorCode) -> Self {
        Self { error, ..Self::default() }
    }

    /// Appends the body to `frame`, records by reference.
    pub fn encode(self, frame: &mut Outgoing, version: i16) {
        let flexible = version >= FLEXIBLE;
        let buffer = frame.buffer();
        buffer.put_i32(self.throttle_ms);
        if version >= 7 {
            buffer.put_i16(self.error.0);
            buffer.put_i32(self.session_id);
        }
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        let groups: Vec<usize> =
            self.partitions.chunk_by(|a, b| same_topic(&a.topic, &b.topic)).map(<[_]>::len).collect();
        buffer.count(flexible, Some(groups.len()));
        let mut partitions = self.partitions.into_iter().peekable();
        for count in groups {
            let buffer = frame.buffer();
            topics.write(buffer, partitions.peek().map(|partition| &partition.topic));
            buffer.count(flexible, Some(count));
            partitions.by_ref().take(count).for_each(|partition| partition.encode(frame, version));
            no_tags(frame.buffer(), flexible);
        }
        let buffer = frame.buffer();
        if version >= 16 && !self.endpoints.is_empty() {
            buffer.unsigned_varint(1);
            write_endpoints(buffer, 0, &self.endpoints);
        } else {
            no_tags(buffer, flexible);
        }
    }

    /// Reads a body. Records are slices of it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &Bytes, version: i16) -> Result<Self, Malformed> {
        let flexible = version >= FLEXIBLE;
        let mut reader = Reader::new(body);
        let mut response = Self { throttle_ms: reader.i32()?, ..Self::default() };
        if version >= 7 {
            response.error = ErrorCode(reader.i16()?);
            response.session_id = reader.i32()?;
        }
        let mut left = ELEMENTS_MAX;
        let topics = Topics { flexible, ids: version >= TOPIC_IDS };
        for _ in 0..reader.count(flexible, topics.element_min())? {
            let topic = topics.read(&mut reader, body)?;
            let count = reader.count(flexible, 24)?;
            left = left.checked_sub(count + 1).ok_or(Malformed::TooManyElements)?;
            for _ in 0..count {
                let partition = FetchedPartition::decode(topic.clone(), &mut reader, body, version)?;
                response.partitions.push(partition);
            }
            reader.skip_tags(flexible)?;
        }
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

fn write_partition_tags(buffer: &mut BytesMut, diverging: Option<EpochEnd>, leader: Option<LeaderHint>) {
    buffer.unsigned_varint(u32::from(diverging.is_some()) + u32::from(leader.is_some()));
    if let Some(EpochEnd { epoch, end }) = diverging {
        let mut bytes = [0; 13];
        let mut into = &mut bytes[..];
        into.put_i32(epoch.0);
        into.put_i64(end.0);
        buffer.tag(0, &bytes);
    }
    if let Some(leader) = leader {
        leader.write(buffer, 1);
    }
}

fn read_epoch_end(reader: &mut Reader<'_>) -> Result<Option<EpochEnd>, Malformed> {
    let end = EpochEnd { epoch: LeaderEpoch(reader.i32()?), end: Offset(reader.i64()?) };
    reader.skip_tags(true)?;
    reader.finish().map_err(|_| Malformed::TagLength)?;
    Ok(Some(end).filter(|end| end.epoch != LeaderEpoch::NONE))
}
