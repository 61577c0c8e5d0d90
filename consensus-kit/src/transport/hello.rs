//! Who is at the other end: the first frame in each direction.

use prost::Message;
use quorate_core::ids::{DirectoryId, LogIndex, NodeId};
use uuid::Uuid;

use crate::founding::{Claim, Phase, WirePhase};

/// Hellos name a few voters; more than this is not one.
pub(super) const HELLO_CAP: usize = 64 << 10;
/// Nodes that a hello may list.
const LISTED_CAP: usize = 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To learn what the other says of itself; nothing follows.
    Meeting,
    /// Messages from the one who dialled.
    Messages,
    /// One snapshot from the one who dialled.
    Snapshot,
}

/// The first frame of whoever dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The backend's name; another one is another protocol.
    pub(super) engine: String,
    pub(super) purpose: Purpose,
    pub(super) claim: Claim,
    /// Whom the caller wants to reach: a wrong address or an emptied folder shows here.
    pub(super) to: NodeId,
    pub(super) to_directory: Option<DirectoryId>,
    /// The caller knows the other as a learner, which may be empty. A voter may not.
    pub(super) to_learner: bool,
    /// The entry that made the caller a member.
    pub(super) member_since: LogIndex,
}

/// The first frame of whoever was dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) claim: Claim,
    /// Why the caller is not let in.
    pub(super) refused: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct WireClaim {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(bytes = "vec", tag = "2")]
    directory: Vec<u8>,
    #[prost(int32, repeated, tag = "3")]
    listed: Vec<i32>,
    #[prost(message, optional, tag = "4")]
    phase: Option<WirePhase>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct WireHello {
    #[prost(string, tag = "1")]
    engine: String,
    #[prost(uint32, tag = "2")]
    purpose: u32,
    #[prost(message, optional, tag = "3")]
    claim: Option<WireClaim>,
    #[prost(int32, tag = "4")]
    to: i32,
    #[prost(bytes = "vec", tag = "5")]
    to_directory: Vec<u8>,
    #[prost(uint64, tag = "6")]
    member_since: u64,
    #[prost(bool, tag = "7")]
    to_learner: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct WireAnswer {
    #[prost(message, optional, tag = "1")]
    claim: Option<WireClaim>,
    #[prost(string, tag = "2")]
    refused: String,
}

impl WireClaim {
    fn of(claim: &Claim) -> Self {
        Self {
            node: claim.node.0,
            directory: claim.directory.0.as_bytes().to_vec(),
            listed: claim.listed.iter().map(|node| node.0).collect(),
            phase: Some(WirePhase::of(&claim.phase)),
        }
    }

    fn read(self) -> Option<Claim> {
        if self.node < 0 || self.listed.len() > LISTED_CAP {
            return None;
        }
        Some(Claim {
            node: NodeId(self.node),
            directory: directory(&self.directory)?,
            listed: self.listed.into_iter().map(NodeId).collect(),
            phase: self.phase.map_or(Some(Phase::Fresh), WirePhase::read)?,
        })
    }
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let purpose = match self.purpose {
            Purpose::Meeting => 1,
            Purpose::Messages => 2,
            Purpose::Snapshot => 3,
        };
        WireHello {
            engine: self.engine.clone(),
            purpose,
            claim: Some(WireClaim::of(&self.claim)),
            to: self.to.0,
            to_directory: self.to_directory.map(|id| id.0.as_bytes().to_vec()).unwrap_or_default(),
            member_since: self.member_since.0,
            to_learner: self.to_learner,
        }
        .encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let wire = WireHello::decode(bytes).ok()?;
        let purpose = match wire.purpose {
            1 => Purpose::Meeting,
            2 => Purpose::Messages,
            3 => Purpose::Snapshot,
            _ => return None,
        };
        let to_directory =
            if wire.to_directory.is_empty() { None } else { Some(directory(&wire.to_directory)?) };
        Some(Self {
            engine: wire.engine,
            purpose,
            claim: wire.claim?.read()?,
            to: NodeId(wire.to),
            to_directory,
            member_since: LogIndex(wire.member_since),
            to_learner: wire.to_learner,
        })
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let refused = self.refused.clone().unwrap_or_default();
        WireAnswer { claim: Some(WireClaim::of(&self.claim)), refused }.encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let wire = WireAnswer::decode(bytes).ok()?;
        let refused = Some(wire.refused).filter(|refused| !refused.is_empty());
        Some(Self { claim: wire.claim?.read()?, refused })
    }
}

fn directory(bytes: &[u8]) -> Option<DirectoryId> {
    Uuid::from_slice(bytes).ok().map(DirectoryId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::founding::Charter;
    use quorate_core::consensus::LogId;

    #[test]
    fn what_is_said_is_understood() {
        let founders = [(NodeId(0), crate::membership::Member::default())].into();
        let phase = Phase::Tentative(Charter { log: LogId([3; 16]), founders });
        let listed = [NodeId(0), NodeId(4)].into();
        let directory = DirectoryId(Uuid::from_bytes([2; 16]));
        let claim = Claim { node: NodeId(4), directory, listed, phase };
        let hello = Hello {
            engine: "raftrs".into(),
            purpose: Purpose::Messages,
            claim: claim.clone(),
            to: NodeId(0),
            to_directory: Some(directory),
            member_since: LogIndex(3),
            to_learner: true,
        };
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        let answer = Answer { claim, refused: Some("no".into()) };
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        assert_eq!(Hello::decode(b"\xff\xff"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let _nonsense = (Hello::decode(&bytes).is_some(), Answer::decode(&bytes).is_some());
        }
    }
}
