//! Writes an image, a chunk at a time.

use std::{ops::Bound, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    CONFIGS_PER_RECORD, MAGIC, PARTITIONS_PER_RECORD, SNAPSHOT_CHUNK_BYTES,
    record::{
        Body, BrokerRecord, ConfigsOf, ConfigsRecord, ControllerRecord, DeafRecord, FoundingRecord, Header,
        PartitionsRecord, Record, TopicRecord, Trailer,
    },
};
use crate::{
    ids::{NodeId, TopicId},
    metadata::{
        command::ConfigEntry,
        image::{Configs, Image, Topic},
    },
};

/// The chunks of an image, in order.
pub struct Chunks {
    image: Arc<Image>,
    next: Stage,
    pending: BytesMut,
    records: u64,
    hash: Sha256,
}

/// What is written next.
enum Stage {
    Header,
    Broker(Bound<NodeId>),
    Topic(Bound<TopicId>),
    Partitions(Arc<Topic>, usize),
    Trailer,
    End,
}

impl Chunks {
    /// Of this image.
    #[must_use]
    pub fn of(image: Arc<Image>) -> Self {
        let mut chunks =
            Self { image, next: Stage::Header, pending: BytesMut::new(), records: 0, hash: Sha256::new() };
        chunks.hash.update(MAGIC);
        chunks.pending.put_slice(MAGIC);
        chunks
    }

    /// Writes the next few records.
    fn advance(&mut self) {
        let image = self.image.clone();
        self.next = match &self.next {
            Stage::Header => {
                self.push(Body::Header(header(&image)));
                self.push_configs(ConfigsOf::Cluster(true), &image.cluster_configs);
                for (node, configs) in &image.broker_configs {
                    self.push_configs(ConfigsOf::Broker(node.0), configs);
                }
                Stage::Broker(Bound::Unbounded)
            }
            Stage::Broker(after) => match image.brokers.range((*after, Bound::Unbounded)).next() {
                Some((node, broker)) => {
                    self.push(Body::Broker(BrokerRecord::from(broker.as_ref())));
                    Stage::Broker(Bound::Excluded(*node))
                }
                None => Stage::Topic(Bound::Unbounded),
            },
            Stage::Topic(after) => match image.topics.range((*after, Bound::Unbounded)).next() {
                Some((id, topic)) => {
                    let name = topic.name.to_string();
                    self.push(Body::Topic(TopicRecord { id: Some(id.0.into()), name }));
                    self.push_configs(ConfigsOf::Topic(true), &topic.configs);
                    Stage::Partitions(topic.clone(), 0)
                }
                None => Stage::Trailer,
            },
            Stage::Partitions(topic, from) => {
                let (topic, from) = (topic.clone(), *from);
                let part = topic.partitions.iter().skip(from).take(PARTITIONS_PER_RECORD);
                let partitions = part.map(Into::into).collect();
                self.push(Body::Partitions(PartitionsRecord { partitions }));
                let next = from + PARTITIONS_PER_RECORD;
                if next < topic.partitions.len() {
                    Stage::Partitions(topic, next)
                } else {
                    Stage::Topic(Bound::Excluded(topic.id))
                }
            }
            Stage::Trailer => {
                let sha256 = self.hash.clone().finalize().to_vec();
                self.push(Body::Trailer(Trailer { records: self.records, sha256 }));
                Stage::End
            }
            Stage::End => Stage::End,
        };
    }

    fn push_configs(&mut self, of: ConfigsOf, configs: &Configs) {
        let entries: Vec<ConfigEntry> = configs
            .iter()
            .map(|(name, value)| ConfigEntry { name: name.clone(), value: value.clone() })
            .collect();
        for part in entries.chunks(CONFIGS_PER_RECORD) {
            self.push(Body::Configs(ConfigsRecord { of: Some(of), entries: part.to_vec() }));
        }
    }

    fn push(&mut self, body: Body) {
        let record = Record { body: Some(body) }.encode_to_vec();
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX).to_be_bytes();
        for part in [&length[..], &record] {
            self.hash.update(part);
            self.pending.put_slice(part);
        }
        self.records += 1;
    }
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while self.pending.len() < SNAPSHOT_CHUNK_BYTES && !matches!(self.next, Stage::End) {
            self.advance();
        }
        let length = self.pending.len().min(SNAPSHOT_CHUNK_BYTES);
        (length > 0).then(|| self.pending.split_to(length).freeze())
    }
}

fn header(image: &Image) -> Header {
    Header {
        log_id: image.log_id.0.to_vec(),
        index: image.index.0,
        epoch: image.epoch.0,
        chain: image.chain.0.to_vec(),
        founding: image.founding.map(|founding| FoundingRecord {
            cluster: Some(founding.cluster.into()),
            generation: founding.generation,
            durability: founding.durability.into(),
        }),
        controller: image.controller.as_ref().map(|controller| ControllerRecord {
            epoch: controller.epoch.0,
            node: controller.node.0,
            incarnation: Some(controller.incarnation.into()),
            host: controller.host.clone(),
            port: u32::from(controller.port),
        }),
        features: image.features.iter().map(|(name, level)| (name.to_string(), *level)).collect(),
        next_producer_id: image.next_producer_id,
        unclean_elections: image.unclean_elections,
        deaf: image.deaf.as_ref().map(|deaf| DeafRecord {
            epoch: deaf.epoch.0,
            heard: deaf.heard.iter().map(|node| node.0).collect(),
        }),
    }
}
