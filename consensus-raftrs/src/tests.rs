//! The backend under a simulated clock, network and disk.

use bytes::Bytes;
use quorate_consensus_kit::lab::{Backend, faults::storm};
use quorate_core::ids::NodeId;
use raft::eraftpb::{Message, MessageType};

use crate::{
    Raftrs,
    transport::{decode, encode, raft_id},
};

const BACKEND: Backend = Backend {
    name: "raftrs",
    make: |config, tail| Ok(Box::new(Raftrs::new(config)?.with_tail(tail))),
    ask,
    granted,
};

fn ask(from: NodeId, term: u64) -> Bytes {
    let mut ask =
        Message { from: raft_id(from), to: 1, term, index: 99, log_term: term - 1, ..Message::default() };
    ask.set_msg_type(MessageType::MsgRequestVote);
    encode(&ask)
}

fn granted(body: Bytes, from: NodeId, to: NodeId, term: u64) -> Option<bool> {
    let answer = decode(body, from, to).unwrap();
    let answers = answer.get_msg_type() == MessageType::MsgRequestVoteResponse && answer.term == term;
    answers.then_some(!answer.reject)
}

quorate_consensus_kit::lab_tests!(BACKEND);

#[test]
fn a_storm_repeats_from_its_seed() {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(storm(BACKEND, 77))
    };
    assert_eq!(run(), run());
}
