//! The backend under a simulated clock, network and disk.
//!
//! Time is simulated, but chance is not all ours: openraft waits by a `select!` of tokio's that is not biased. A run cannot
//! be repeated bit by bit, and no test here claims that it can.

mod suite;

use bytes::Bytes;
use openraft::{Vote, raft::VoteRequest};
use quorate_consensus_kit::lab::Backend;
use quorate_core::ids::{Epoch, LogIndex, NodeId};

use crate::{
    Openraft,
    transport::{Answer, Content, Request, decode, encode},
    types::{place, raft_id},
};

const BACKEND: Backend = Backend {
    name: "openraft",
    make: |config, tail| Ok(Box::new(Openraft::new(config)?.with_tail(tail))),
    ask,
    granted,
};

fn ask(from: NodeId, term: u64) -> Bytes {
    let last_log_id = place(Epoch(term - 1), LogIndex(99));
    let vote = VoteRequest { vote: Vote::new(term, raft_id(from)), last_log_id };
    encode(term, &Content::Request(Request::Vote(vote)))
}

fn granted(body: Bytes, from: NodeId, _: NodeId, term: u64) -> Option<bool> {
    match decode(body, from).unwrap() {
        (asked, Content::Answer(Answer::Vote(answer))) if asked == term => Some(answer.vote_granted),
        _ => None,
    }
}

quorate_consensus_kit::lab_tests!(BACKEND);
