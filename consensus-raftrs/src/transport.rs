//! Raft's messages on the wire, and whose ids are whose.
//!
//! Raft forbids the id 0, which is a legal node: inside, a node is its id plus one.

use bytes::Bytes;
use prost_raft::Message as _;
use quorate_core::ids::NodeId;
use raft::eraftpb::{Message, MessageType};

/// A read request's context: the node's life, and a number.
pub(crate) const READ_CONTEXT_BYTES: usize = 16;

/// Raft's id of a node.
pub(crate) fn raft_id(node: NodeId) -> u64 {
    u64::try_from(node.0).map_or(0, |id| id + 1)
}

/// The node of Raft's id; `None` for Raft's "nobody".
pub(crate) fn node_of(id: u64) -> Option<NodeId> {
    i32::try_from(id.checked_sub(1)?).ok().map(NodeId)
}

/// A message as it travels.
pub(crate) fn encode(message: &Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

/// Reads a message and checks what Raft takes for granted of it: raft-rs panics over a malformed one.
pub(crate) fn decode(body: Bytes, from: NodeId, me: NodeId) -> Result<Message, String> {
    let message = Message::decode(body).map_err(|error| error.to_string())?;
    if message.from != raft_id(from) || message.to != raft_id(me) {
        return Err(format!("a message from {} to {}", message.from, message.to));
    }
    let kind = MessageType::from_i32(message.msg_type).ok_or("a message of an unknown type")?;
    if is_well_formed(kind, &message) { Ok(message) } else { Err(format!("a malformed {kind:?}")) }
}

fn is_well_formed(kind: MessageType, message: &Message) -> bool {
    match kind {
        MessageType::MsgAppend => are_consecutive(message),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            matches!(message.entries.as_slice(), [entry] if entry.data.len() == READ_CONTEXT_BYTES)
        }
        MessageType::MsgSnapshot => message.snapshot.as_ref().is_some_and(|snapshot| {
            snapshot.data.is_empty()
                && snapshot.metadata.as_ref().is_some_and(|meta| meta.index > 0 && meta.conf_state.is_some())
        }),
        MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow => message.entries.is_empty() && message.term > 0,
        // Local ones, and proposals, which only core forwards.
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => false,
    }
}

/// Whether the entries follow each other and the message's place, in terms that never fall.
fn are_consecutive(message: &Message) -> bool {
    let mut last = (message.index, message.log_term);
    message.term > 0
        && message.entries.iter().all(|entry| {
            let follows = Some(entry.index) == last.0.checked_add(1) && entry.term >= last.1;
            last = (entry.index, entry.term);
            follows && entry.term <= message.term && matches!(entry.entry_type, 0 | 2)
        })
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;

    fn append(indexes: &[u64]) -> Message {
        let mut message = Message { from: 1, to: 2, term: 5, index: 3, log_term: 2, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries =
            indexes.iter().map(|index| Entry { index: *index, term: 4, ..Entry::default() }).collect();
        message
    }

    fn accepted(message: &Message) -> bool {
        decode(encode(message), NodeId(0), NodeId(1)).is_ok()
    }

    #[test]
    fn only_messages_that_raft_can_take_pass() {
        assert!(accepted(&append(&[4, 5])));
        assert!(!accepted(&append(&[4, 6])), "a hole");
        assert!(!accepted(&append(&[5])), "not where it says");
        assert!(!accepted(&Message { from: 3, ..append(&[4]) }), "in another's name");
        let mut forward = append(&[4]);
        forward.set_msg_type(MessageType::MsgPropose);
        assert!(!accepted(&forward));
        let mut read = append(&[]);
        read.set_msg_type(MessageType::MsgReadIndex);
        assert!(!accepted(&read), "a read without a context");
        assert!(decode(Bytes::from_static(b"\xff"), NodeId(0), NodeId(1)).is_err());
    }

    #[test]
    fn node_zero_has_an_id_inside() {
        assert_eq!((raft_id(NodeId(0)), node_of(1), node_of(0)), (1, Some(NodeId(0)), None));
    }
}
