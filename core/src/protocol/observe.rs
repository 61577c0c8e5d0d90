//! The request by which a node that is no voter follows the metadata log (key 32001): entries after an index, from any
//! voter, or a snapshot in pieces where the log begins later.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::primitives::{Malformed, Reader, Writer as _};
use crate::{
    consensus::{Chain, LogId, SNAPSHOT_CHUNK_BYTES, SnapshotMeta},
    ids::{Epoch, LogIndex, NodeId},
};

/// Asks for what follows an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObserveRequest {
    /// The last entry that the observer has.
    pub after: LogIndex,
    /// About how many bytes of entries to send.
    pub max_bytes: u32,
    /// How long to wait for an entry, in milliseconds.
    pub wait_ms: u32,
    /// A piece of the snapshot at this index instead, by its number.
    pub piece: Option<(LogIndex, u32)>,
}

/// What follows the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObserveResponse {
    /// The log; zero while the cluster is not founded.
    pub log_id: LogId,
    /// The newest epoch that the voter knows of.
    pub epoch: Epoch,
    /// Who leads it, if the voter knows.
    pub leader: Option<NodeId>,
    /// The last entry that the voter knows to be committed.
    pub committed: LogIndex,
    /// What was asked for.
    pub content: Observed,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Entries: epoch and data, without holes from the index on. None if nothing came in time.
    Entries(Vec<(Epoch, Bytes)>),
    /// The log begins later: this snapshot must be taken first, in so many pieces.
    Snapshot(SnapshotMeta, u32),
    /// A piece of a snapshot; empty if the voter does not keep that snapshot any more.
    Piece(Bytes),
}

impl ObserveRequest {
    /// Appends the body.
    pub fn encode(&self, buffer: &mut BytesMut) {
        buffer.put_u64(self.after.0);
        buffer.put_u32(self.max_bytes);
        buffer.put_u32(self.wait_ms);
        buffer.bool(self.piece.is_some());
        if let Some((index, piece)) = self.piece {
            buffer.put_u64(index.0);
            buffer.put_u32(piece);
        }
        buffer.put_u8(0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let after = LogIndex(u64_of(&mut reader)?);
        let (max_bytes, wait_ms) = (u32_of(&mut reader)?, u32_of(&mut reader)?);
        let piece = match reader.bool()? {
            true => Some((LogIndex(u64_of(&mut reader)?), u32_of(&mut reader)?)),
            false => None,
        };
        reader.skip_tags(true)?;
        reader.finish()?;
        Ok(Self { after, max_bytes, wait_ms, piece })
    }
}

impl ObserveResponse {
    /// Appends the body.
    pub fn encode(&self, buffer: &mut BytesMut) {
        buffer.put_slice(&self.log_id.0);
        buffer.put_u64(self.epoch.0);
        buffer.put_i32(self.leader.map_or(-1, |node| node.0));
        buffer.put_u64(self.committed.0);
        match &self.content {
            Observed::Entries(entries) => {
                buffer.put_u8(0);
                buffer.count(true, Some(entries.len()));
                for (epoch, data) in entries {
                    buffer.put_u64(epoch.0);
                    buffer.nullable_bytes(true, Some(data));
                }
            }
            Observed::Snapshot(meta, pieces) => {
                buffer.put_u8(1);
                buffer.put_u64(meta.index.0);
                buffer.put_u64(meta.epoch.0);
                buffer.put_slice(&meta.chain.0);
                buffer.put_u64(meta.bytes);
                buffer.put_u32(*pieces);
            }
            Observed::Piece(bytes) => {
                buffer.put_u8(2);
                buffer.nullable_bytes(true, Some(bytes));
            }
        }
        buffer.put_u8(0);
    }

    /// Reads a body; entries and pieces are slices of it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let log_id = LogId(*reader.uuid()?.as_bytes());
        let epoch = Epoch(u64_of(&mut reader)?);
        let leader = Some(NodeId(reader.i32()?)).filter(|node| node.0 >= 0);
        let committed = LogIndex(u64_of(&mut reader)?);
        let content = match reader.i8()? {
            0 => {
                // An epoch and a length are the least that an entry has.
                let count = reader.count(true, 9)?;
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    let epoch = Epoch(u64_of(&mut reader)?);
                    entries.push((epoch, bytes_of(&mut reader, body)?));
                }
                Observed::Entries(entries)
            }
            1 => {
                let (index, epoch) = (LogIndex(u64_of(&mut reader)?), Epoch(u64_of(&mut reader)?));
                let chain = Chain(*reader.uuid()?.as_bytes());
                let meta = SnapshotMeta { index, epoch, chain, bytes: u64_of(&mut reader)? };
                Observed::Snapshot(meta, u32_of(&mut reader)?)
            }
            2 => {
                let piece = bytes_of(&mut reader, body)?;
                if piece.len() > SNAPSHOT_CHUNK_BYTES {
                    return Err(Malformed::Value);
                }
                Observed::Piece(piece)
            }
            _ => return Err(Malformed::Value),
        };
        reader.skip_tags(true)?;
        reader.finish()?;
        Ok(Self { log_id, epoch, leader, committed, content })
    }
}

fn u64_of(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    Ok(reader.i64()?.cast_unsigned())
}

fn u32_of(reader: &mut Reader<'_>) -> Result<u32, Malformed> {
    Ok(reader.i32()?.cast_unsigned())
}

fn bytes_of(reader: &mut Reader<'_>, body: &Bytes) -> Result<Bytes, Malformed> {
    let bytes = reader.nullable_bytes(true)?.ok_or(Malformed::Value)?;
    Ok(body.slice_ref(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_back_and_cut_ones_are_refused() {
        for piece in [None, Some((LogIndex(9), 3))] {
            let request = ObserveRequest { after: LogIndex(7), max_bytes: 1, wait_ms: 2, piece };
            let mut buffer = BytesMut::new();
            request.encode(&mut buffer);
            assert_eq!(ObserveRequest::decode(&buffer), Ok(request));
            assert!((0..buffer.len()).all(|cut| ObserveRequest::decode(&buffer[..cut]).is_err()));
        }
        let meta = SnapshotMeta { index: LogIndex(4), epoch: Epoch(2), chain: Chain([5; 16]), bytes: 6 };
        for content in [
            Observed::Entries(vec![(Epoch(1), Bytes::new()), (Epoch(2), Bytes::from_static(b"data"))]),
            Observed::Snapshot(meta, 2),
            Observed::Piece(Bytes::from_static(b"piece")),
        ] {
            let (log_id, epoch, committed) = (LogId([1; 16]), Epoch(3), LogIndex(8));
            let response = ObserveResponse { log_id, epoch, leader: Some(NodeId(0)), committed, content };
            let mut buffer = BytesMut::new();
            response.encode(&mut buffer);
            let bytes = buffer.freeze();
            assert_eq!(ObserveResponse::decode(&bytes), Ok(response));
            assert!((0..bytes.len()).all(|cut| ObserveResponse::decode(&bytes.slice(..cut)).is_err()));
        }
    }
}
