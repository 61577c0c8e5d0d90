//! How Produce and Fetch name topics: by name in old versions, by id in new ones (KIP-516).

use bytes::{Bytes, BytesMut};

use super::{
    bodies::StrBytes,
    primitives::{Malformed, Reader, Writer as _},
};
use crate::ids::TopicId;

/// A topic, as a request names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef {
    /// By its name.
    Name(StrBytes),
    /// By its id.
    Id(TopicId),
}

/// How a version writes topics.
#[derive(Clone, Copy)]
pub(super) struct Topics {
    pub(super) flexible: bool,
    pub(super) ids: bool,
}

impl Topics {
    /// The least that a topic with an array of partitions takes.
    pub(super) fn element_min(self) -> usize {
        match (self.ids, self.flexible) {
            (true, _) => 18,
            (false, true) => 3,
            (false, false) => 6,
        }
    }

    pub(super) fn read(self, reader: &mut Reader<'_>, body: &Bytes) -> Result<TopicRef, Malformed> {
        if self.ids {
            return Ok(TopicRef::Id(TopicId(reader.uuid()?)));
        }
        let name = reader.string(self.flexible)?;
        Ok(TopicRef::Name(read_string(body, name)?))
    }

    /// Writes a topic; one that is not named as the version does it becomes the empty name or the zero id.
    pub(super) fn write(self, buffer: &mut BytesMut, topic: Option<&TopicRef>) {
        match (self.ids, topic) {
            (true, Some(TopicRef::Id(id))) => buffer.uuid(id.0),
            (true, _) => buffer.uuid(uuid::Uuid::nil()),
            (false, Some(TopicRef::Name(name))) => buffer.nullable_string(self.flexible, Some(name)),
            (false, _) => buffer.nullable_string(self.flexible, Some("")),
        }
    }
}

/// Whether both are the same topic, told in the same way.
pub(super) fn same_topic(a: &TopicRef, b: &TopicRef) -> bool {
    a == b
}

/// `text`, which was read from `body`, as a slice of it that keeps it alive.
pub(super) fn read_string(body: &Bytes, text: &str) -> Result<StrBytes, Malformed> {
    StrBytes::from_utf8(body.slice_ref(text.as_bytes())).map_err(|_| Malformed::NotUtf8)
}
