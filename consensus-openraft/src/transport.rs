//! What peers say to each other, on the wire. Everything that arrives is checked: openraft takes much of it for granted.

use bytes::Bytes;
use openraft::{
    LeaderId, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse},
};
use prost::{Message, Oneof};
use quorate_consensus_kit::log::Entry as KitEntry;
use quorate_core::ids::{Epoch, LogIndex, NodeId};

use crate::{
    config::MAX_ENTRY_BYTES,
    types::{Entry, Place, Types, epoch_of, index_of, last_index, node_of, place, raft_id},
};

pub(crate) type Append = AppendEntriesRequest<Types>;

/// What one node wants of another.
pub(crate) enum Request {
    /// Raft's AppendEntries.
    Append(Append),
    /// Raft's RequestVote.
    Vote(VoteRequest<u64>),
    /// Whether the other would vote for this node, whose log ends there.
    Canvass(Option<Place>),
    /// An index that every read must have reached; the leader knows.
    Read,
    /// The leader of the term gives up; whether the other is to campaign.
    Abdicate { term: u64, campaign: bool },
    /// The other has acknowledged the entry to the leader of the term, and has it no more.
    Forgot { term: u64, index: LogIndex },
}

/// What the other says.
pub(crate) enum Answer {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Canvass(bool),
    Read(Result<LogIndex, String>),
    Done,
}

/// One message.
pub(crate) enum Content {
    Request(Request),
    Answer(Answer),
}

#[derive(Clone, PartialEq, Message)]
struct WireVote {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, optional, tag = "2")]
    voted_for: Option<u64>,
    #[prost(bool, tag = "3")]
    committed: bool,
}

/// An entry's place, as the port counts; the index 0 is before the first.
#[derive(Clone, PartialEq, Message)]
struct WirePlace {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireEntry {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint32, tag = "3")]
    engine: u32,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WireAppend {
    #[prost(message, optional, tag = "1")]
    vote: Option<WireVote>,
    #[prost(message, optional, tag = "2")]
    before: Option<WirePlace>,
    #[prost(message, repeated, tag = "3")]
    entries: Vec<WireEntry>,
    #[prost(message, optional, tag = "4")]
    committed: Option<WirePlace>,
}

#[derive(Clone, PartialEq, Message)]
struct WireAppended {
    /// 1: all; 2: up to `matching`; 3: `before` is not there; 4: there is a higher vote.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(message, optional, tag = "2")]
    matching: Option<WirePlace>,
    #[prost(message, optional, tag = "3")]
    vote: Option<WireVote>,
}

#[derive(Clone, PartialEq, Message)]
struct WireVoting {
    #[prost(message, optional, tag = "1")]
    vote: Option<WireVote>,
    #[prost(message, optional, tag = "2")]
    last: Option<WirePlace>,
    #[prost(bool, tag = "3")]
    granted: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WireTerm {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(bool, tag = "2")]
    campaign: bool,
    #[prost(uint64, tag = "3")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireRead {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(string, tag = "2")]
    problem: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireNothing {}

#[derive(Clone, PartialEq, Message)]
struct WireMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(oneof = "WireContent", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    content: Option<WireContent>,
}

#[derive(Clone, PartialEq, Oneof)]
enum WireContent {
    #[prost(message, tag = "2")]
    Append(WireAppend),
    #[prost(message, tag = "3")]
    Appended(WireAppended),
    #[prost(message, tag = "4")]
    Vote(WireVoting),
    #[prost(message, tag = "5")]
    Voted(WireVoting),
    #[prost(message, tag = "6")]
    Canvass(WirePlace),
    #[prost(bool, tag = "7")]
    Canvassed(bool),
    #[prost(message, tag = "8")]
    Read(WireNothing),
    #[prost(message, tag = "9")]
    ReadAt(WireRead),
    #[prost(message, tag = "10")]
    Abdicate(WireTerm),
    #[prost(message, tag = "11")]
    Forgot(WireTerm),
    #[prost(message, tag = "12")]
    Done(WireNothing),
}

impl WireVote {
    fn of(vote: &Vote<u64>) -> Self {
        let LeaderId { term, voted_for } = vote.leader_id;
        Self { term, voted_for, committed: vote.committed }
    }

    fn read(self) -> Option<Vote<u64>> {
        let known = self.voted_for.is_none_or(|voted_for| node_of(voted_for).is_some());
        let leader_id = LeaderId { term: self.term, voted_for: self.voted_for };
        known.then_some(Vote { leader_id, committed: self.committed })
    }
}

impl WirePlace {
    fn of(at: Option<&Place>) -> Self {
        Self { epoch: at.map_or(0, |at| epoch_of(at).0), index: last_index(at).0 }
    }

    fn read(self) -> Option<Place> {
        place(Epoch(self.epoch), LogIndex(self.index))
    }
}

impl WireEntry {
    fn of(entry: &Entry) -> Self {
        let KitEntry { index, epoch, engine, data } = entry.to_kit();
        Self { epoch: epoch.0, index: index.0, engine: u32::from(engine), data }
    }

    fn read(self) -> Option<Entry> {
        let engine = u8::try_from(self.engine).ok()?;
        let entry =
            KitEntry { index: LogIndex(self.index), epoch: Epoch(self.epoch), engine, data: self.data };
        Entry::of_kit(entry).filter(|entry| entry.to_kit().data.len() <= MAX_ENTRY_BYTES)
    }
}

/// A message as it travels. `id` joins a request and its answer.
pub(crate) fn encode(id: u64, content: &Content) -> Bytes {
    let content = match content {
        Content::Request(request) => encode_request(request),
        Content::Answer(answer) => encode_answer(answer),
    };
    WireMessage { id, content: Some(content) }.encode_to_vec().into()
}

fn encode_request(request: &Request) -> WireContent {
    match request {
        Request::Append(append) => WireContent::Append(WireAppend {
            vote: Some(WireVote::of(&append.vote)),
            before: Some(WirePlace::of(append.prev_log_id.as_ref())),
            entries: append.entries.iter().map(WireEntry::of).collect(),
            committed: Some(WirePlace::of(append.leader_commit.as_ref())),
        }),
        Request::Vote(vote) => WireContent::Vote(WireVoting {
            vote: Some(WireVote::of(&vote.vote)),
            last: Some(WirePlace::of(vote.last_log_id.as_ref())),
            granted: false,
        }),
        Request::Canvass(last) => WireContent::Canvass(WirePlace::of(last.as_ref())),
        Request::Read => WireContent::Read(WireNothing {}),
        Request::Abdicate { term, campaign } => {
            WireContent::Abdicate(WireTerm { term: *term, campaign: *campaign, index: 0 })
        }
        Request::Forgot { term, index } => {
            WireContent::Forgot(WireTerm { term: *term, campaign: false, index: index.0 })
        }
    }
}

fn encode_answer(answer: &Answer) -> WireContent {
    match answer {
        Answer::Append(appended) => {
            let (kind, matching, vote) = match appended {
                AppendEntriesResponse::Success => (1, None, None),
                AppendEntriesResponse::PartialSuccess(matching) => (2, matching.as_ref(), None),
                AppendEntriesResponse::Conflict => (3, None, None),
                AppendEntriesResponse::HigherVote(vote) => (4, None, Some(WireVote::of(vote))),
            };
            WireContent::Appended(WireAppended { kind, matching: Some(WirePlace::of(matching)), vote })
        }
        Answer::Vote(voted) => WireContent::Voted(WireVoting {
            vote: Some(WireVote::of(&voted.vote)),
            last: Some(WirePlace::of(voted.last_log_id.as_ref())),
            granted: voted.vote_granted,
        }),
        Answer::Canvass(granted) => WireContent::Canvassed(*granted),
        Answer::Read(Ok(index)) => WireContent::ReadAt(WireRead { index: index.0, problem: String::new() }),
        Answer::Read(Err(problem)) => WireContent::ReadAt(WireRead { index: 0, problem: problem.clone() }),
        Answer::Done => WireContent::Done(WireNothing {}),
    }
}

/// Reads a message that `from` has sent; `None` if it is anything that a node of this version would not send.
pub(crate) fn decode(body: Bytes, from: NodeId) -> Option<(u64, Content)> {
    let message = WireMessage::decode(body).ok()?;
    let content = match message.content? {
        WireContent::Append(append) => Content::Request(Request::Append(read_append(append, from)?)),
        WireContent::Vote(WireVoting { vote, last, .. }) => {
            let vote = vote?.read().filter(|vote| !vote.committed && is_of(vote, from))?;
            Content::Request(Request::Vote(VoteRequest { vote, last_log_id: last?.read() }))
        }
        WireContent::Canvass(last) => Content::Request(Request::Canvass(last.read())),
        WireContent::Read(_) => Content::Request(Request::Read),
        WireContent::Abdicate(WireTerm { term, campaign, .. }) => {
            Content::Request(Request::Abdicate { term, campaign })
        }
        WireContent::Forgot(WireTerm { term, index, .. }) => {
            Content::Request(Request::Forgot { term, index: LogIndex(index) })
        }
        WireContent::Appended(appended) => Content::Answer(Answer::Append(read_appended(appended)?)),
        WireContent::Voted(WireVoting { vote, last, granted }) => {
            Content::Answer(Answer::Vote(VoteResponse {
                vote: vote?.read()?,
                vote_granted: granted,
                last_log_id: last?.read(),
            }))
        }
        WireContent::Canvassed(granted) => Content::Answer(Answer::Canvass(granted)),
        WireContent::ReadAt(WireRead { index, problem }) => {
            Content::Answer(Answer::Read(if problem.is_empty() { Ok(LogIndex(index)) } else { Err(problem) }))
        }
        WireContent::Done(_) => Content::Answer(Answer::Done),
    };
    Some((message.id, content))
}

/// Whether a node speaks for itself.
fn is_of(vote: &Vote<u64>, from: NodeId) -> bool {
    vote.leader_id.term > 0 && vote.leader_id.voted_for == Some(raft_id(from))
}

/// Entries must follow each other and what is before them, in epochs that never fall.
fn read_append(wire: WireAppend, from: NodeId) -> Option<Append> {
    let vote = wire.vote?.read().filter(|vote| vote.committed && is_of(vote, from))?;
    let prev_log_id = wire.before?.read();
    let entries: Vec<Entry> = wire.entries.into_iter().map(WireEntry::read).collect::<Option<_>>()?;
    let mut last =
        (last_index(prev_log_id.as_ref()), prev_log_id.map_or(Epoch(0), |before| epoch_of(&before)));
    for entry in &entries {
        let (index, epoch) = (index_of(&entry.log_id), epoch_of(&entry.log_id));
        if Some(index.0) != last.0.0.checked_add(1) || epoch < last.1 || epoch.0 > vote.leader_id.term {
            return None;
        }
        last = (index, epoch);
    }
    Some(Append { vote, prev_log_id, entries, leader_commit: wire.committed?.read() })
}

fn read_appended(wire: WireAppended) -> Option<AppendEntriesResponse<u64>> {
    match wire.kind {
        1 => Some(AppendEntriesResponse::Success),
        2 => Some(AppendEntriesResponse::PartialSuccess(wire.matching?.read())),
        3 => Some(AppendEntriesResponse::Conflict),
        4 => Some(AppendEntriesResponse::HigherVote(wire.vote?.read()?)),
        _ => None,
    }
}

/// What accompanies a snapshot: in which leadership it is sent.
pub(crate) fn encode_vote(vote: &Vote<u64>) -> Bytes {
    WireVote::of(vote).encode_to_vec().into()
}

/// Reads [`encode_vote`]'s form; `None` if `from` does not lead by it.
pub(crate) fn decode_vote(body: Bytes, from: NodeId) -> Option<Vote<u64>> {
    WireVote::decode(body).ok()?.read().filter(|vote| vote.committed && is_of(vote, from))
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;

    use super::*;

    fn at(epoch: u64, index: u64) -> Option<Place> {
        place(Epoch(epoch), LogIndex(index))
    }

    fn append(vote: Vote<u64>, before: Option<Place>, entries: &[(u64, u64)]) -> Append {
        let entries =
            entries.iter().map(|(epoch, index)| Entry::new_blank(at(*epoch, *index).unwrap())).collect();
        Append { vote, prev_log_id: before, entries, leader_commit: at(1, 2) }
    }

    fn accepted(append: Append) -> bool {
        decode(encode(1, &Content::Request(Request::Append(append))), NodeId(3)).is_some()
    }

    #[test]
    fn only_entries_that_follow_each_other_pass_and_only_in_ones_own_name() {
        let vote = Vote::new_committed(5, 3);
        assert!(accepted(append(vote, None, &[(0, 1), (1, 2)])));
        assert!(accepted(append(vote, at(2, 7), &[(2, 8), (5, 9)])));
        assert!(accepted(append(vote, at(2, 7), &[])));
        assert!(!accepted(append(vote, at(2, 7), &[(2, 9)])), "a hole");
        assert!(!accepted(append(vote, at(2, 7), &[(1, 8)])), "an epoch that falls");
        assert!(!accepted(append(vote, at(2, 7), &[(6, 8)])), "an epoch to come");
        assert!(!accepted(append(Vote::new_committed(5, 4), None, &[])), "in another's name");
        assert!(!accepted(append(Vote::new(5, 3), None, &[])), "of a leader that no quorum has granted");
        assert!(decode(Bytes::from_static(b"\xff"), NodeId(3)).is_none());
        assert!(decode(Bytes::new(), NodeId(3)).is_none());
    }

    #[test]
    fn votes_and_answers_are_read_as_they_were_written() {
        let vote = VoteRequest { vote: Vote::new(5, 3), last_log_id: at(2, 7) };
        let Some((9, Content::Request(Request::Vote(read)))) =
            decode(encode(9, &Content::Request(Request::Vote(vote.clone()))), NodeId(3))
        else {
            panic!("no vote")
        };
        assert_eq!(read, vote);
        for answer in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(at(2, 7)),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(Vote::new(8, 1)),
        ] {
            let wire = encode_answer(&Answer::Append(answer));
            let WireContent::Appended(wire) = wire else { panic!("another answer") };
            assert!(read_appended(wire.clone()).is_some(), "{wire:?}");
        }
        let nobody = Vote { leader_id: LeaderId { term: 4, voted_for: None }, committed: false };
        assert_eq!(WireVote::of(&nobody).read(), Some(nobody));
        assert_eq!(decode_vote(encode_vote(&Vote::new_committed(5, 3)), NodeId(2)), None);
    }
}
