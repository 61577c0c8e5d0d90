//! What a lab and a node in a process of its own say to each other: frames of a JSON header and of bytes.

use std::io::{self, Read, Write};

use bytes::Bytes;
use quorate_core::consensus::{
    Chain, CompactError, Epoch, Founding, LogId, LogIndex, MembershipChange, MembershipError, NodeId, Peer,
    ProposeError, Resume, SnapshotError, SnapshotMeta, StartError, Status,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, time::Duration};

/// A header's most bytes, and a body's. Entries and chunks are of 1 MiB, and some are sent together.
const HEADER_MAX: u32 = 4 << 20;
const BODY_MAX: u32 = 64 << 20;

/// One frame: two lengths (4 bytes each, big-endian), header, body.
pub(super) fn write_frame(to: &mut impl Write, header: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let header = serde_json::to_vec(header)?;
    let length = |length: usize| u32::try_from(length).map_err(|_| io::Error::other("a frame is too large"));
    to.write_all(&length(header.len())?.to_be_bytes())?;
    to.write_all(&length(body.len())?.to_be_bytes())?;
    to.write_all(&header)?;
    to.write_all(body)
}

/// The next frame; `None` at the end of the stream.
pub(super) fn read_frame<H: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(H, Bytes)>> {
    let mut lengths = [0; 8];
    match from.read_exact(&mut lengths) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [a, b, c, d, e, f, g, h] = lengths;
    let (header, body) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    if header > HEADER_MAX || body > BODY_MAX {
        return Err(io::Error::other(format!("a frame of {header} and {body} bytes")));
    }
    let mut read = |length: u32| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        from.take(u64::from(length)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == u64::from(length) {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    };
    let header = serde_json::from_slice(&read(header)?)?;
    Ok(Some((header, read(body)?.into())))
}

/// What a lab asks of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Answers bear it; a stream is named by the request that opened it.
    pub(super) id: u64,
    pub(super) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    /// The configuration, as JSON.
    Construct(String),
    Start(WireResume),
    /// Opens a stream of what is committed after an index.
    Committed(u64),
    /// Asks a stream for more.
    Next(u64),
    /// Asks a snapshot for its next chunk.
    Chunk(u64),
    /// A stream, or a snapshot, is not read any more.
    Close(u64),
    /// In an epoch; the body is the entry.
    Propose(u64),
    ReadBarrier,
    Compact(WireMeta),
    /// The body is the next chunk of the snapshot that another request compacts with; no chunk ends it.
    CompactChunk {
        of: u64,
        chunk: Option<Result<(), String>>,
    },
    ChangeMembership(WireChange),
    Resign(u64),
    Shutdown,
}

/// What a node says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Answer {
        id: u64,
        answer: Answer,
    },
    /// A leader event: epoch, leader.
    Leader(u64, WireLeader),
    /// No leader event will follow.
    LeadersEnd,
    Status(Box<WireStatus>),
    /// The compaction of a request asks for its next chunk.
    Want(u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Constructed {
        failed: Option<WireStartError>,
        traces: Option<String>,
        took_us: u64,
    },
    Started(Option<WireStartError>),
    /// Items, the bytes of all entries together in the body; none if the stream has ended.
    Items(Vec<WireItem>),
    /// The body is a chunk, or the snapshot has ended, or is unreadable.
    Chunk(Option<Result<(), String>>),
    Proposed(Result<u64, WireProposeError>),
    Barrier(Result<u64, String>),
    Compacted(Option<WireCompactError>),
    Changed(Option<WireMembershipError>),
    Done,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireItem {
    Entry {
        index: u64,
        epoch: u64,
        bytes: u32,
    },
    /// Its chunks are asked for by this number.
    Snapshot {
        meta: WireMeta,
        number: u64,
    },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum WireLeader {
    Unknown,
    Other(i32),
    Me(u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireResume {
    log_id: Option<[u8; 16]>,
    applied: u64,
    chain: [u8; 16],
}

impl From<Resume> for WireResume {
    fn from(resume: Resume) -> Self {
        Self { log_id: resume.log_id.map(|id| id.0), applied: resume.applied.0, chain: resume.chain.0 }
    }
}

impl From<WireResume> for Resume {
    fn from(wire: WireResume) -> Self {
        Self { log_id: wire.log_id.map(LogId), applied: LogIndex(wire.applied), chain: Chain(wire.chain) }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WireMeta {
    index: u64,
    epoch: u64,
    chain: [u8; 16],
    bytes: u64,
}

impl From<SnapshotMeta> for WireMeta {
    fn from(meta: SnapshotMeta) -> Self {
        Self { index: meta.index.0, epoch: meta.epoch.0, chain: meta.chain.0, bytes: meta.bytes }
    }
}

impl From<WireMeta> for SnapshotMeta {
    fn from(wire: WireMeta) -> Self {
        let (index, epoch) = (LogIndex(wire.index), Epoch(wire.epoch));
        Self { index, epoch, chain: Chain(wire.chain), bytes: wire.bytes }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireChange {
    Add(i32, String),
    Remove(i32),
}

impl From<MembershipChange> for WireChange {
    fn from(change: MembershipChange) -> Self {
        match change {
            MembershipChange::Add { node, endpoint } => Self::Add(node.0, endpoint),
            MembershipChange::Remove(node) => Self::Remove(node.0),
        }
    }
}

impl From<WireChange> for MembershipChange {
    fn from(wire: WireChange) -> Self {
        match wire {
            WireChange::Add(node, endpoint) => Self::Add { node: NodeId(node), endpoint },
            WireChange::Remove(node) => Self::Remove(NodeId(node)),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireStartError {
    Config(String),
    Storage(String),
    Foreign(String),
}

impl From<StartError> for WireStartError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(text) => Self::Config(text),
            StartError::Storage(text) => Self::Storage(text),
            StartError::Foreign(text) => Self::Foreign(text),
        }
    }
}

impl From<WireStartError> for StartError {
    fn from(wire: WireStartError) -> Self {
        match wire {
            WireStartError::Config(text) => Self::Config(text),
            WireStartError::Storage(text) => Self::Storage(text),
            WireStartError::Foreign(text) => Self::Foreign(text),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireProposeError {
    NotLeader(Option<i32>),
    TooLarge,
    Busy,
    Unknown,
    Stopped,
}

impl From<ProposeError> for WireProposeError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { hint } => Self::NotLeader(hint.map(|node| node.0)),
            ProposeError::TooLarge => Self::TooLarge,
            ProposeError::Busy => Self::Busy,
            ProposeError::Unknown => Self::Unknown,
            ProposeError::Stopped => Self::Stopped,
        }
    }
}

impl From<WireProposeError> for ProposeError {
    fn from(wire: WireProposeError) -> Self {
        match wire {
            WireProposeError::NotLeader(hint) => Self::NotLeader { hint: hint.map(NodeId) },
            WireProposeError::TooLarge => Self::TooLarge,
            WireProposeError::Busy => Self::Busy,
            WireProposeError::Unknown => Self::Unknown,
            WireProposeError::Stopped => Self::Stopped,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireCompactError {
    Unavailable(String),
    Foreign,
    Snapshot(String),
    Storage(String),
}

impl From<CompactError> for WireCompactError {
    fn from(error: CompactError) -> Self {
        match error {
            CompactError::Unavailable(text) => Self::Unavailable(text),
            CompactError::Foreign => Self::Foreign,
            CompactError::Snapshot(error) => Self::Snapshot(error.0),
            CompactError::Storage(text) => Self::Storage(text),
        }
    }
}

impl From<WireCompactError> for CompactError {
    fn from(wire: WireCompactError) -> Self {
        match wire {
            WireCompactError::Unavailable(text) => Self::Unavailable(text),
            WireCompactError::Foreign => Self::Foreign,
            WireCompactError::Snapshot(text) => Self::Snapshot(SnapshotError(text)),
            WireCompactError::Storage(text) => Self::Storage(text),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireMembershipError {
    Unsupported,
    NotLeader,
    InProgress,
    Unavailable(String),
}

impl From<MembershipError> for WireMembershipError {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::Unsupported => Self::Unsupported,
            MembershipError::NotLeader => Self::NotLeader,
            MembershipError::InProgress => Self::InProgress,
            MembershipError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

impl From<WireMembershipError> for MembershipError {
    fn from(wire: WireMembershipError) -> Self {
        match wire {
            WireMembershipError::Unsupported => Self::Unsupported,
            WireMembershipError::NotLeader => Self::NotLeader,
            WireMembershipError::InProgress => Self::InProgress,
            WireMembershipError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireStatus {
    backend: String,
    log_id: Option<[u8; 16]>,
    epoch: u64,
    committed: u64,
    first: u64,
    quorum_contact_age: Option<Duration>,
    voters: Vec<(i32, String)>,
    peers: Vec<WirePeer>,
    founding: Option<(Vec<i32>, Vec<WirePeer>)>,
    max_entry_bytes: usize,
    fatal: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WirePeer {
    node: Option<i32>,
    endpoint: String,
    contact_age: Option<Duration>,
    matched: Option<u64>,
    problem: Option<String>,
}

impl From<Peer> for WirePeer {
    fn from(peer: Peer) -> Self {
        Self {
            node: peer.node.map(|node| node.0),
            endpoint: peer.endpoint,
            contact_age: peer.contact_age,
            matched: peer.matched.map(|index| index.0),
            problem: peer.problem,
        }
    }
}

impl From<WirePeer> for Peer {
    fn from(wire: WirePeer) -> Self {
        Self {
            node: wire.node.map(NodeId),
            endpoint: wire.endpoint,
            contact_age: wire.contact_age,
            matched: wire.matched.map(LogIndex),
            problem: wire.problem,
        }
    }
}

impl From<Status> for WireStatus {
    fn from(status: Status) -> Self {
        let founding = |founding: Founding| {
            let have = founding.have.into_iter().map(|node| node.0).collect();
            (have, founding.awaited.into_iter().map(WirePeer::from).collect())
        };
        Self {
            backend: status.backend.to_owned(),
            log_id: status.log_id.map(|id| id.0),
            epoch: status.epoch.0,
            committed: status.committed.0,
            first: status.first.0,
            quorum_contact_age: status.quorum_contact_age,
            voters: status.voters.into_iter().map(|(node, endpoint)| (node.0, endpoint)).collect(),
            peers: status.peers.into_iter().map(WirePeer::from).collect(),
            founding: status.founding.map(founding),
            max_entry_bytes: status.max_entry_bytes,
            fatal: status.fatal,
        }
    }
}

impl WireStatus {
    /// The status, under the name of the backend for a process that outlives it.
    pub(super) fn status(self, backend: &'static str) -> Status {
        let founding = |(have, awaited): (Vec<i32>, Vec<WirePeer>)| Founding {
            have: have.into_iter().map(NodeId).collect(),
            awaited: awaited.into_iter().map(Peer::from).collect(),
        };
        Status {
            backend,
            log_id: self.log_id.map(LogId),
            epoch: Epoch(self.epoch),
            committed: LogIndex(self.committed),
            first: LogIndex(self.first),
            quorum_contact_age: self.quorum_contact_age,
            voters: self.voters.into_iter().map(|(node, at)| (NodeId(node), at)).collect::<BTreeMap<_, _>>(),
            peers: self.peers.into_iter().map(Peer::from).collect(),
            founding: self.founding.map(founding),
            max_entry_bytes: self.max_entry_bytes,
            fatal: self.fatal,
        }
    }

    /// Whether two differ in more than in ages, which always grow.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let ageless = |status: &Self| {
            let mut status = status.clone();
            status.quorum_contact_age = None;
            let awaited = status.founding.iter_mut().flat_map(|(_, awaited)| awaited);
            status.peers.iter_mut().chain(awaited).for_each(|peer| peer.contact_age = None);
            status
        };
        ageless(self) != ageless(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written_and_a_short_one_is_an_error() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Request { id: 7, call: Call::Propose(3) }, b"entry").unwrap();
        let (request, body) = read_frame::<Request>(&mut bytes.as_slice()).unwrap().unwrap();
        assert!(matches!(request, Request { id: 7, call: Call::Propose(3) }));
        assert_eq!(body, "entry");
        assert!(read_frame::<Request>(&mut [].as_slice()).unwrap().is_none());
        bytes.pop();
        assert!(read_frame::<Request>(&mut bytes.as_slice()).is_err());
        assert!(read_frame::<Request>(&mut [0xFF; 64].as_slice()).is_err());
    }

    #[test]
    fn a_status_comes_back_as_it_was() {
        let peer = Peer { node: Some(NodeId(2)), endpoint: "h:1".to_owned(), ..Peer::default() };
        let status = Status {
            backend: "memory",
            epoch: Epoch(4),
            voters: BTreeMap::from([(NodeId(1), "h:2".to_owned())]),
            peers: vec![peer.clone()],
            founding: Some(Founding { have: vec![NodeId(1)], awaited: vec![peer] }),
            ..Status::default()
        };
        let wire = WireStatus::from(status.clone());
        let text = serde_json::to_string(&wire).unwrap();
        assert_eq!(serde_json::from_str::<WireStatus>(&text).unwrap().status("memory"), status);
    }
}
