//! Who the voters are: an identity that survives no lost disk, and an address.

use std::collections::BTreeMap;

use prost::Message;
use quorate_core::ids::{DirectoryId, LogIndex, NodeId};
use uuid::Uuid;

/// One member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// The log directory it became a member with. A node that comes with another one has lost its votes and entries,
    /// and is not this member.
    pub directory: DirectoryId,
    /// Where its controller listener is reached, `host:port`.
    pub endpoint: String,
    /// The entry that made it a member; 0 for a founder. Of two directories that claim one node, the later one is
    /// right.
    pub since: LogIndex,
}

/// The members at one index of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Who votes.
    pub voters: BTreeMap<NodeId, Member>,
    /// Who is on the way to become a voter.
    pub learners: BTreeMap<NodeId, Member>,
}

/// One step of change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A node begins to receive the log.
    AddLearner(NodeId, Member),
    /// A learner that has caught up votes from now on.
    Promote(NodeId),
    /// A voter or learner goes.
    Remove(NodeId),
}

impl Membership {
    /// A voter or learner.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.voters.get(&node).or_else(|| self.learners.get(&node))
    }

    /// Every voter and learner.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.voters.iter().chain(&self.learners).map(|(node, member)| (*node, member))
    }

    /// Whether the node votes, and with this directory.
    #[must_use]
    pub fn is_voter(&self, node: NodeId, directory: DirectoryId) -> bool {
        self.voters.get(&node).is_some_and(|member| member.directory == directory)
    }

    /// Takes a step, which the entry at `index` says. A step that was taken before changes nothing.
    pub fn apply(&mut self, change: &MemberChange, index: LogIndex) {
        match change {
            MemberChange::AddLearner(node, member) => {
                if !self.voters.contains_key(node) {
                    self.learners.insert(*node, Member { since: index, ..member.clone() });
                }
            }
            MemberChange::Promote(node) => {
                if let Some(member) = self.learners.remove(node) {
                    self.voters.insert(*node, member);
                }
            }
            MemberChange::Remove(node) => {
                self.voters.remove(node);
                self.learners.remove(node);
            }
        }
    }

    /// As it is kept in snapshots and sent in hellos.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads [`Membership::encode`]'s form; `None` if it is anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Self::from_wire(WireMembership::decode(bytes).ok()?)
    }

    pub(crate) fn to_wire(&self) -> WireMembership {
        let wire = |members: &BTreeMap<NodeId, Member>| {
            members.iter().map(|(node, member)| member.to_wire(*node)).collect()
        };
        WireMembership { voters: wire(&self.voters), learners: wire(&self.learners) }
    }

    pub(crate) fn from_wire(wire: WireMembership) -> Option<Self> {
        let members =
            |members: Vec<WireMember>| members.into_iter().map(Member::from_wire).collect::<Option<_>>();
        Some(Self { voters: members(wire.voters)?, learners: members(wire.learners)? })
    }
}

impl MemberChange {
    /// As it is kept in the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, member) = match self {
            Self::AddLearner(node, member) => (1, member.to_wire(*node)),
            Self::Promote(node) => (2, Member::default().to_wire(*node)),
            Self::Remove(node) => (3, Member::default().to_wire(*node)),
        };
        WireChange { kind, member: Some(member) }.encode_to_vec()
    }

    /// Reads [`MemberChange::encode`]'s form; `None` if it is anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let wire = WireChange::decode(bytes).ok()?;
        let (node, member) = Member::from_wire(wire.member?)?;
        match wire.kind {
            1 => Some(Self::AddLearner(node, member)),
            2 => Some(Self::Promote(node)),
            3 => Some(Self::Remove(node)),
            _ => None,
        }
    }
}

impl Member {
    fn to_wire(&self, node: NodeId) -> WireMember {
        WireMember {
            node: node.0,
            directory: self.directory.0.as_bytes().to_vec(),
            endpoint: self.endpoint.clone(),
            since: self.since.0,
        }
    }

    fn from_wire(wire: WireMember) -> Option<(NodeId, Self)> {
        let node = NodeId(wire.node);
        let directory = DirectoryId(Uuid::from_slice(&wire.directory).ok()?);
        let member = Self { directory, endpoint: wire.endpoint, since: LogIndex(wire.since) };
        (node.0 >= 0).then_some((node, member))
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct WireMember {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(bytes = "vec", tag = "2")]
    directory: Vec<u8>,
    #[prost(string, tag = "3")]
    endpoint: String,
    #[prost(uint64, tag = "4")]
    since: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct WireMembership {
    #[prost(message, repeated, tag = "1")]
    voters: Vec<WireMember>,
    #[prost(message, repeated, tag = "2")]
    learners: Vec<WireMember>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct WireChange {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(message, optional, tag = "2")]
    member: Option<WireMember>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(byte: u8) -> Member {
        let directory = DirectoryId(Uuid::from_bytes([byte; 16]));
        Member { directory, endpoint: format!("h{byte}:9"), since: LogIndex(0) }
    }

    #[test]
    fn a_node_learns_before_it_votes_and_every_step_is_idempotent() {
        let mut membership = Membership::default();
        let add = MemberChange::AddLearner(NodeId(0), member(1));
        for change in [&add, &add, &MemberChange::Promote(NodeId(0)), &MemberChange::Promote(NodeId(0)), &add]
        {
            membership.apply(change, LogIndex(5));
        }
        assert!(membership.is_voter(NodeId(0), member(1).directory));
        assert!(!membership.is_voter(NodeId(0), member(2).directory), "an emptied node is not the voter");
        assert!(membership.learners.is_empty());
        membership.apply(&MemberChange::Remove(NodeId(0)), LogIndex(6));
        assert_eq!(membership, Membership::default());
    }

    #[test]
    fn what_is_written_is_read() {
        let mut membership = Membership::default();
        membership.voters.insert(NodeId(0), member(1));
        membership.learners.insert(NodeId(7), member(2));
        assert_eq!(Membership::decode(&membership.encode()), Some(membership));
        for change in [
            MemberChange::AddLearner(NodeId(3), member(3)),
            MemberChange::Promote(NodeId(3)),
            MemberChange::Remove(NodeId(3)),
        ] {
            assert_eq!(MemberChange::decode(&change.encode()), Some(change));
        }
        assert_eq!(MemberChange::decode(b"\x08"), None);
    }
}
