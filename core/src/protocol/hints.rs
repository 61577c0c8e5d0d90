//! Hints at the new leader in Produce and Fetch responses (KIP-951), which save a client the Metadata request.

use bytes::{BufMut as _, BytesMut};

use super::primitives::{Malformed, Reader, Writer as _};
use crate::ids::{LeaderEpoch, NodeId};

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader; -1 while there is none.
    pub leader: NodeId,
    /// Its epoch.
    pub epoch: LeaderEpoch,
}

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The node.
    pub node: NodeId,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its rack.
    pub rack: Option<String>,
}

impl LeaderHint {
    /// Appends the hint as tagged field `tag`.
    pub(super) fn write(self, buffer: &mut BytesMut, tag: u32) {
        let mut bytes = [0; 9];
        let mut into = &mut bytes[..];
        into.put_i32(self.leader.0);
        into.put_i32(self.epoch.0);
        buffer.tag(tag, &bytes);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let hint = Self { leader: NodeId(reader.i32()?), epoch: LeaderEpoch(reader.i32()?) };
        reader.skip_tags(true)?;
        reader.finish().map_err(|_| Malformed::TagLength)?;
        Ok(hint)
    }
}

/// Appends endpoints as tagged field `tag`.
pub(super) fn write_endpoints(buffer: &mut BytesMut, tag: u32, endpoints: &[NodeEndpoint]) {
    let mut bytes = BytesMut::new();
    bytes.count(true, Some(endpoints.len()));
    for endpoint in endpoints {
        bytes.put_i32(endpoint.node.0);
        bytes.nullable_string(true, Some(&endpoint.host));
        bytes.put_i32(i32::from(endpoint.port));
        bytes.nullable_string(true, endpoint.rack.as_deref());
        bytes.put_u8(0);
    }
    buffer.tag(tag, &bytes);
}

pub(super) fn read_endpoints(reader: &mut Reader<'_>) -> Result<Vec<NodeEndpoint>, Malformed> {
    let mut endpoints = Vec::new();
    for _ in 0..reader.count(true, 11)? {
        let node = NodeId(reader.i32()?);
        let host = reader.string(true)?.to_owned();
        let port = u16::try_from(reader.i32()?).map_err(|_| Malformed::Value)?;
        let rack = reader.nullable_string(true)?.map(str::to_owned);
        reader.skip_tags(true)?;
        endpoints.push(NodeEndpoint { node, host, port, rack });
    }
    reader.finish().map_err(|_| Malformed::TagLength)?;
    Ok(endpoints)
}
