//! Requests that only brokers of one cluster send each other, under keys that Kafka does not use.

use bytes::{BufMut as _, BytesMut};
use uuid::Uuid;

use super::{
    errors::ErrorCode,
    primitives::{Malformed, Reader, Writer as _},
};
use crate::ids::{BrokerEpoch, DirectoryId, NodeId};

/// Opens every internal connection (key 32000): who speaks, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloRequest {
    /// The cluster; zero while the sender knows none.
    pub cluster: Uuid,
    /// The sender.
    pub node: NodeId,
    /// Its first log directory.
    pub directory: DirectoryId,
    /// Its process: another one after every start.
    pub incarnation: Uuid,
    /// Its registration; -1 while it has none.
    pub broker_epoch: BrokerEpoch,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// What an internal connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Replica fetches.
    Replication,
    /// Requests to the controller.
    Controller,
    /// Streaming the metadata log.
    Observe,
}

/// The answer to a [`HelloRequest`]: who was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloResponse {
    /// Why the connection is refused, if it is; it is closed then.
    pub error: ErrorCode,
    /// The reason in words.
    pub message: Option<String>,
    /// The cluster of the node that was reached; zero while it knows none.
    pub cluster: Uuid,
    /// The node that was reached.
    pub node: NodeId,
    /// Its process.
    pub incarnation: Uuid,
}

impl HelloRequest {
    /// Appends the body.
    pub fn encode(&self, buffer: &mut BytesMut) {
        buffer.uuid(self.cluster);
        buffer.put_i32(self.node.0);
        buffer.uuid(self.directory.0);
        buffer.uuid(self.incarnation);
        buffer.put_i64(self.broker_epoch.0);
        buffer.put_i8(match self.purpose {
            Purpose::Replication => 0,
            Purpose::Controller => 1,
            Purpose::Observe => 2,
        });
        buffer.put_u8(0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let hello = Self {
            cluster: reader.uuid()?,
            node: NodeId(reader.i32()?),
            directory: DirectoryId(reader.uuid()?),
            incarnation: reader.uuid()?,
            broker_epoch: BrokerEpoch(reader.i64()?),
            purpose: match reader.i8()? {
                0 => Purpose::Replication,
                1 => Purpose::Controller,
                2 => Purpose::Observe,
                _ => return Err(Malformed::Value),
            },
        };
        reader.skip_tags(true)?;
        reader.finish()?;
        Ok(hello)
    }
}

impl HelloResponse {
    /// Appends the body.
    pub fn encode(&self, buffer: &mut BytesMut) {
        buffer.put_i16(self.error.0);
        buffer.nullable_string(true, self.message.as_deref());
        buffer.uuid(self.cluster);
        buffer.put_i32(self.node.0);
        buffer.uuid(self.incarnation);
        buffer.put_u8(0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let hello = Self {
            error: ErrorCode(reader.i16()?),
            message: reader.nullable_string(true)?.map(str::to_owned),
            cluster: reader.uuid()?,
            node: NodeId(reader.i32()?),
            incarnation: reader.uuid()?,
        };
        reader.skip_tags(true)?;
        reader.finish()?;
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hellos_come_back_and_cut_ones_are_refused() {
        let request = HelloRequest {
            cluster: Uuid::from_bytes([1; 16]),
            node: NodeId(0),
            directory: DirectoryId(Uuid::from_bytes([2; 16])),
            incarnation: Uuid::from_bytes([3; 16]),
            broker_epoch: BrokerEpoch::NONE,
            purpose: Purpose::Controller,
        };
        let response = HelloResponse {
            error: ErrorCode::INCONSISTENT_CLUSTER_ID,
            message: Some("another cluster".to_owned()),
            cluster: Uuid::nil(),
            node: NodeId(7),
            incarnation: Uuid::from_bytes([4; 16]),
        };
        let (mut one, mut two) = (BytesMut::new(), BytesMut::new());
        request.encode(&mut one);
        response.encode(&mut two);
        assert_eq!(HelloRequest::decode(&one), Ok(request));
        assert_eq!(HelloResponse::decode(&two), Ok(response));
        assert!((0..one.len()).all(|cut| HelloRequest::decode(&one[..cut]).is_err()));
        assert!((0..two.len()).all(|cut| HelloResponse::decode(&two[..cut]).is_err()));
    }
}
