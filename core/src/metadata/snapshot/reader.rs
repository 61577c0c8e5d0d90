//! Reads an image, a chunk at a time. The bytes come from a disk or from another node: every number is checked, and
//! no length is believed before its bytes are here.

use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    DecodeError, MAGIC, RECORD_BYTES_MAX,
    record::{Body, ConfigsOf, ConfigsRecord, Header, Record, Trailer},
};
use crate::{
    consensus::{Chain, LogId},
    ids::{Epoch, LogIndex, NodeId, TopicId},
    metadata::{
        check,
        command::uuid,
        image::{Configs, Controller, Deaf, Founding, Image, Topic},
    },
};

/// Takes chunks until the image is whole.
#[derive(Default)]
pub struct Reader {
    buffer: BytesMut,
    started: bool,
    image: Option<Image>,
    topic: Option<Topic>,
    records: u64,
    hash: Sha256,
    complete: bool,
}

impl Reader {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// [`DecodeError`]; the reader is of no more use.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.buffer.extend_from_slice(bytes);
        if !self.started {
            let Some(magic) = self.buffer.get(..MAGIC.len()) else { return Ok(()) };
            if magic != MAGIC {
                return Err(damaged("it does not begin as one, or a later version wrote it"));
            }
            self.hash.update(MAGIC);
            self.buffer.advance(MAGIC.len());
            self.started = true;
        }
        while let Some(length) = self.buffer.first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > RECORD_BYTES_MAX {
                return Err(damaged("a record is too long"));
            }
            if self.complete {
                return Err(damaged("it goes on after its end"));
            }
            let Some(bytes) = self.buffer.get(4..4 + length) else { return Ok(()) };
            let record = Record::decode(bytes).map_err(|error| damaged(error.to_string()))?;
            let whole = self.buffer.split_to(4 + length);
            self.take(record.body.ok_or_else(|| damaged("a record of an unknown kind"))?)?;
            self.hash.update(&whole);
            self.records += 1;
        }
        Ok(())
    }

    /// The image.
    ///
    /// # Errors
    /// [`DecodeError::CutOff`] if bytes are missing; [`DecodeError::Damaged`] if the image breaks a rule that every
    /// image keeps.
    pub fn finish(self) -> Result<Image, DecodeError> {
        if !self.complete || !self.buffer.is_empty() {
            return Err(DecodeError::CutOff { records: self.records });
        }
        let image = self.image.ok_or(DecodeError::CutOff { records: self.records })?;
        match check::problem(&image) {
            Some(problem) => Err(damaged(problem)),
            None => Ok(image),
        }
    }

    fn take(&mut self, body: Body) -> Result<(), DecodeError> {
        let image = match (body, &mut self.image) {
            (Body::Header(header), none @ None) => {
                *none = Some(read_header(header).ok_or_else(|| damaged("its header makes no sense"))?);
                return Ok(());
            }
            (Body::Header(_), Some(_)) => return Err(damaged("it has two headers")),
            (_, None) => return Err(damaged("it has no header")),
            (Body::Partitions(part), Some(_)) => {
                let topic = self.topic.as_mut().ok_or_else(|| damaged("partitions of no topic"))?;
                topic.partitions.extend(part.partitions.into_iter().map(Into::into));
                return Ok(());
            }
            (Body::Configs(ConfigsRecord { of: Some(ConfigsOf::Topic(_)), entries }), Some(_)) => {
                let topic = self.topic.as_mut().ok_or_else(|| damaged("configs of no topic"))?;
                let configs = entries.into_iter().map(|config| (config.name, config.value));
                Arc::make_mut(&mut topic.configs).extend(configs);
                return Ok(());
            }
            (other, Some(image)) => (other, image),
        };
        let (body, image) = image;
        match body {
            Body::Broker(record) => {
                let broker = record.broker().ok_or_else(|| damaged("a broker's listener makes no sense"))?;
                image.brokers.insert(broker.node, Arc::new(broker));
            }
            Body::Configs(record) => take_configs(image, record)?,
            Body::Topic(record) => {
                end_topic(image, self.topic.take());
                let (id, name) = (TopicId(uuid(record.id)), Arc::from(record.name));
                self.topic =
                    Some(Topic { id, name, partitions: imbl::Vector::new(), configs: Arc::default() });
            }
            Body::Trailer(trailer) => {
                end_topic(image, self.topic.take());
                self.verify(&trailer)?;
                self.complete = true;
            }
            Body::Header(_) | Body::Partitions(_) => {}
        }
        Ok(())
    }

    fn verify(&self, trailer: &Trailer) -> Result<(), DecodeError> {
        let hash = self.hash.clone().finalize();
        if trailer.records == self.records && trailer.sha256 == hash.as_slice() {
            Ok(())
        } else {
            Err(DecodeError::HashDiffers)
        }
    }
}

fn end_topic(image: &mut Image, topic: Option<Topic>) {
    if let Some(topic) = topic {
        image.names.insert(topic.name.clone(), topic.id);
        image.topics.insert(topic.id, Arc::new(topic));
    }
}

fn take_configs(image: &mut Image, record: ConfigsRecord) -> Result<(), DecodeError> {
    let entries: Configs = record.entries.into_iter().map(|config| (config.name, config.value)).collect();
    match record.of {
        Some(ConfigsOf::Cluster(_)) => Arc::make_mut(&mut image.cluster_configs).extend(entries),
        Some(ConfigsOf::Broker(node)) => {
            let configs = image.broker_configs.entry(NodeId(node)).or_default();
            Arc::make_mut(configs).extend(entries);
        }
        Some(ConfigsOf::Topic(_)) | None => return Err(damaged("configs of nothing")),
    }
    Ok(())
}

fn read_header(header: Header) -> Option<Image> {
    let founding = match header.founding {
        Some(founding) => Some(Founding {
            cluster: uuid(founding.cluster),
            generation: founding.generation,
            durability: founding.durability.try_into().ok()?,
        }),
        None => None,
    };
    let controller = match header.controller {
        Some(controller) => Some(Controller {
            epoch: Epoch(controller.epoch),
            node: NodeId(controller.node),
            incarnation: uuid(controller.incarnation),
            host: controller.host,
            port: u16::try_from(controller.port).ok()?,
        }),
        None => None,
    };
    Some(Image {
        log_id: LogId(header.log_id.try_into().ok()?),
        index: LogIndex(header.index),
        epoch: Epoch(header.epoch),
        chain: Chain(header.chain.try_into().ok()?),
        founding,
        controller,
        features: header.features.into_iter().map(|(name, level)| (Arc::from(name), level)).collect(),
        next_producer_id: header.next_producer_id,
        unclean_elections: header.unclean_elections,
        deaf: header.deaf.map(|deaf| Deaf {
            epoch: Epoch(deaf.epoch),
            heard: deaf.heard.into_iter().map(NodeId).collect(),
        }),
        ..Image::default()
    })
}

fn damaged(what: impl Into<String>) -> DecodeError {
    DecodeError::Damaged(what.into())
}
