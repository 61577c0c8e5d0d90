//! What the values say. Small values are text (`name=value` by spaces), so that an operator can read them with
//! etcdctl; a field that is not known is skipped, and a new meaning needs a new [`FORMAT`].

use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use quorate_core::{
    consensus::{Chain, Epoch, LogId, LogIndex, NodeId},
    ids::{DirectoryId, base64_id, parse_base64_id},
};
use thiserror::Error;
use uuid::Uuid;

use super::{KeyValue, keys::Keys};

/// The format of all keys and values under one log. A log with a greater one is refused.
pub(crate) const FORMAT: u64 = 1;

/// A value that this version cannot read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the key {key} in etcd is damaged: {reason}")]
pub(crate) struct Damaged {
    pub(crate) key: String,
    pub(crate) reason: String,
}

/// The end of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) index: LogIndex,
    pub(crate) epoch: Epoch,
    pub(crate) chain: Chain,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderRecord {
    pub(crate) node: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) token: Uuid,
    pub(crate) endpoint: String,
}

/// A node that may lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CandidateRecord {
    /// Its controller listener.
    pub(crate) endpoint: String,
    /// The identity of its data folder: the same number in another cluster has another one.
    pub(crate) directory: DirectoryId,
}

/// A snapshot that is complete in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotRecord {
    pub(crate) index: LogIndex,
    pub(crate) epoch: Epoch,
    pub(crate) chain: Chain,
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
}

/// What a generation begins with: the state of the one before at an entry, as a node had kept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryRecord {
    /// The generation before.
    pub(crate) generation: u64,
    /// The last entry of it that is contained.
    pub(crate) index: LogIndex,
    /// The history at that entry.
    pub(crate) chain: Chain,
    /// Whose state it is.
    pub(crate) node: NodeId,
    /// The index that stands for it: the first entry of this generation is the next one.
    pub(crate) base: LogIndex,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: LogIndex,
    pub(crate) epoch: Epoch,
    pub(crate) chain: Chain,
    pub(crate) data: Bytes,
}

/// Bytes before an entry's data: format, epoch, chain.
const ENTRY_HEADER_BYTES: usize = 1 + 8 + 16;

pub(crate) fn write_entry(epoch: Epoch, chain: Chain, data: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(ENTRY_HEADER_BYTES + data.len());
    value.put_u8(1);
    value.put_u64(epoch.0);
    value.put_slice(&chain.0);
    value.put_slice(data);
    value.freeze()
}

pub(crate) fn read_entry(keys: &Keys, kv: &KeyValue) -> Result<Entry, Damaged> {
    let damaged = |reason: &str| Damaged { key: kv.key.clone(), reason: reason.to_owned() };
    let index = keys.index_of(&kv.key).ok_or_else(|| damaged("its name is not an index"))?;
    let (format, rest) = kv.value.split_first().ok_or_else(|| damaged("it is empty"))?;
    let (epoch, rest) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut short"))?;
    let (chain, _) = rest.split_first_chunk::<16>().ok_or_else(|| damaged("it is cut short"))?;
    if *format != 1 {
        return Err(damaged(&format!("entry format {format} is not known")));
    }
    let (epoch, chain) = (Epoch(u64::from_be_bytes(*epoch)), Chain(*chain));
    Ok(Entry { index, epoch, chain, data: kv.value.slice(ENTRY_HEADER_BYTES..) })
}

impl Tail {
    pub(crate) fn write(&self) -> Bytes {
        format!("index={} epoch={} chain={}", self.index, self.epoch, self.chain).into()
    }

    pub(crate) fn read(kv: &KeyValue) -> Result<Self, Damaged> {
        let fields = Fields::of(kv)?;
        Ok(Self {
            index: LogIndex(fields.number("index")?),
            epoch: Epoch(fields.number("epoch")?),
            chain: Chain(fields.hex("chain")?),
        })
    }
}

impl LeaderRecord {
    pub(crate) fn write(&self) -> Bytes {
        let Self { node, epoch, token, endpoint } = self;
        format!("node={node} epoch={epoch} token={} endpoint={endpoint}", token.simple()).into()
    }

    pub(crate) fn read(kv: &KeyValue) -> Result<Self, Damaged> {
        let fields = Fields::of(kv)?;
        Ok(Self {
            node: NodeId(fields.number("node")?),
            epoch: Epoch(fields.number("epoch")?),
            token: Uuid::from_bytes(fields.hex("token")?),
            endpoint: fields.text("endpoint")?.to_owned(),
        })
    }
}

impl SnapshotRecord {
    pub(crate) fn write(&self) -> Bytes {
        let Self { index, epoch, chain, bytes, chunks } = self;
        format!("index={index} epoch={epoch} chain={chain} bytes={bytes} chunks={chunks}").into()
    }

    pub(crate) fn read(kv: &KeyValue) -> Result<Self, Damaged> {
        let fields = Fields::of(kv)?;
        Ok(Self {
            index: LogIndex(fields.number("index")?),
            epoch: Epoch(fields.number("epoch")?),
            chain: Chain(fields.hex("chain")?),
            bytes: fields.number("bytes")?,
            chunks: fields.number("chunks")?,
        })
    }
}

impl HistoryRecord {
    pub(crate) fn write(&self) -> Bytes {
        let Self { generation, index, chain, node, base } = self;
        format!("generation={generation} index={index} chain={chain} node={node} base={base}").into()
    }

    pub(crate) fn read(kv: &KeyValue) -> Result<Self, Damaged> {
        let fields = Fields::of(kv)?;
        Ok(Self {
            generation: fields.number("generation")?,
            index: LogIndex(fields.number("index")?),
            chain: Chain(fields.hex("chain")?),
            node: NodeId(fields.number("node")?),
            base: LogIndex(fields.number("base")?),
        })
    }
}

/// The generation that goes on where this one ends.
pub(crate) fn write_ended(generation: u64) -> Bytes {
    format!("generation={generation}").into()
}

pub(crate) fn read_ended(kv: &KeyValue) -> Result<u64, Damaged> {
    Fields::of(kv)?.number("generation")
}

pub(crate) fn write_id(id: LogId) -> Bytes {
    format!("format={FORMAT} id={}", base64_id(Uuid::from_bytes(id.0))).into()
}

pub(crate) fn read_id(kv: &KeyValue) -> Result<LogId, Damaged> {
    let fields = Fields::of(kv)?;
    let format: u64 = fields.number("format")?;
    if format > FORMAT {
        let reason = format!("it has format {format} and this version knows {FORMAT}; upgrade this node");
        return Err(fields.damaged(reason));
    }
    let id =
        parse_base64_id(fields.text("id")?).ok_or_else(|| fields.damaged("its id is not one".to_owned()))?;
    Ok(LogId(*id.as_bytes()))
}

pub(crate) fn write_epoch(epoch: Epoch) -> Bytes {
    format!("epoch={epoch}").into()
}

pub(crate) fn read_epoch(kv: &KeyValue) -> Result<Epoch, Damaged> {
    Fields::of(kv)?.number("epoch").map(Epoch)
}

impl CandidateRecord {
    pub(crate) fn write(&self) -> Bytes {
        format!("endpoint={} directory={}", self.endpoint, self.directory).into()
    }

    pub(crate) fn read(kv: &KeyValue) -> Result<Self, Damaged> {
        let fields = Fields::of(kv)?;
        let endpoint = fields.text("endpoint")?.to_owned();
        let directory = fields.text("directory").ok().and_then(parse_base64_id);
        Ok(Self { endpoint, directory: DirectoryId(directory.unwrap_or_default()) })
    }

    /// Whether this is the same node as `other`, as far as both say whose they are.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let nobody = DirectoryId::default();
        self.directory == other.directory || self.directory == nobody || other.directory == nobody
    }
}

/// A value of the form `name=value name=value`.
struct Fields<'a> {
    key: &'a str,
    text: &'a str,
}

impl<'a> Fields<'a> {
    fn of(kv: &'a KeyValue) -> Result<Self, Damaged> {
        match std::str::from_utf8(&kv.value) {
            Ok(text) => Ok(Self { key: &kv.key, text }),
            Err(_) => Err(Damaged { key: kv.key.clone(), reason: "it is not text".to_owned() }),
        }
    }

    fn damaged(&self, reason: String) -> Damaged {
        let mut value = String::new();
        // Writing to a string does not fail.
        let _ = write!(value, "{reason} ({:.80})", self.text);
        Damaged { key: self.key.to_owned(), reason: value }
    }

    fn text(&self, name: &str) -> Result<&'a str, Damaged> {
        let mut fields = self.text.split(' ').filter_map(|field| field.split_once('='));
        let found = fields.find(|(field, _)| *field == name).map(|(_, value)| value);
        found.ok_or_else(|| self.damaged(format!("it has no '{name}'")))
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<N, Damaged> {
        self.text(name)?.parse().map_err(|_| self.damaged(format!("its '{name}' is not a number")))
    }

    fn hex(&self, name: &str) -> Result<[u8; 16], Damaged> {
        let text = self.text(name)?;
        let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
        let number =
            number.ok_or_else(|| self.damaged(format!("its '{name}' is not 32 hexadecimal digits")))?;
        Ok(number.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: Bytes) -> KeyValue {
        KeyValue { key: key.to_owned(), value, modified: 1 }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let keys = Keys::new("/q", 1);
        let chain = Chain([0xab; 16]);
        let tail = Tail { index: LogIndex(7), epoch: Epoch(3), chain };
        assert_eq!(Tail::read(&kv("/q/1/tail", tail.write())), Ok(tail));
        let leader =
            LeaderRecord { node: NodeId(0), epoch: Epoch(3), token: Uuid::max(), endpoint: "h:1".to_owned() };
        assert_eq!(LeaderRecord::read(&kv("/q/1/leader", leader.write())), Ok(leader));
        let snapshot = SnapshotRecord { index: LogIndex(7), epoch: Epoch(3), chain, bytes: 5, chunks: 1 };
        assert_eq!(SnapshotRecord::read(&kv("/q/1/snap", snapshot.write())), Ok(snapshot));
        let (generation, index, base) = (1, LogIndex(7), LogIndex(900));
        let history = HistoryRecord { generation, index, chain, node: NodeId(0), base };
        assert_eq!(HistoryRecord::read(&kv("/q/2/history", history.write())), Ok(history));
        assert_eq!(read_ended(&kv("/q/1/ended", write_ended(2))), Ok(2));
        assert_eq!(read_id(&kv("/q/1/id", write_id(LogId([9; 16])))), Ok(LogId([9; 16])));
        let entry = Entry { index: LogIndex(7), epoch: Epoch(3), chain, data: Bytes::from_static(b"x") };
        let value = write_entry(Epoch(3), chain, b"x");
        assert_eq!(read_entry(&keys, &kv(&keys.entry(LogIndex(7)), value)), Ok(entry));
    }

    #[test]
    fn a_candidate_is_told_from_one_of_the_same_number_with_another_folder() {
        let candidate = |byte| CandidateRecord {
            endpoint: "h:1".to_owned(),
            directory: DirectoryId(Uuid::from_bytes([byte; 16])),
        };
        let read = CandidateRecord::read(&kv("/q/1/candidates/1", candidate(7).write())).unwrap();
        assert_eq!(read, candidate(7));
        assert!(read.is_same(&candidate(7)) && read.is_same(&candidate(0)) && !read.is_same(&candidate(8)));
        let older = CandidateRecord::read(&kv("/q/1/candidates/1", Bytes::from_static(b"endpoint=h:1")));
        assert_eq!(older, Ok(candidate(0)));
    }

    #[test]
    fn the_values_have_golden_bytes() {
        let tail = Tail { index: LogIndex(7), epoch: Epoch(3), chain: Chain([0xab; 16]) };
        assert_eq!(tail.write(), "index=7 epoch=3 chain=abababababababababababababababab");
        assert_eq!(write_id(LogId([0; 16])), "format=1 id=AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(write_entry(Epoch(1), Chain([2; 16]), b"d").len(), ENTRY_HEADER_BYTES + 1);
    }

    #[test]
    fn damage_is_named_with_its_key() {
        let keys = Keys::new("/q", 1);
        for broken in ["", "index=x epoch=1 chain=00", "index=1 epoch=1 chain=00", "\u{fffd}"] {
            let error = Tail::read(&kv("/q/1/tail", Bytes::copy_from_slice(broken.as_bytes()))).unwrap_err();
            assert!(error.to_string().contains("/q/1/tail"), "{error}");
        }
        let newer = kv("/q/1/id", Bytes::from_static(b"format=2 id=AAAAAAAAAAAAAAAAAAAAAA"));
        assert!(read_id(&newer).unwrap_err().to_string().contains("upgrade"));
        assert!(
            read_entry(&keys, &kv("/q/1/log/00000000000000000001", Bytes::from_static(&[1, 2]))).is_err()
        );
        assert!(read_entry(&keys, &kv("/q/1/log/x", write_entry(Epoch(1), Chain::default(), b""))).is_err());
    }
}
