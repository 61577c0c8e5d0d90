//! openraft's types, and the kit's: entries, places in the log, members.
//!
//! openraft counts entries from 0, the port from 1: openraft's entry 0, which names the founders, is the log's first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use openraft::{
    CommittedLeaderId, LogId, Membership, RaftLogId, RaftTypeConfig, StoredMembership,
    entry::{FromAppData, RaftEntry, RaftPayload},
    impls::OneshotResponder,
};
use prost::Message;
use quorate_consensus_kit::{
    log::{Entry as KitEntry, Point},
    membership::{Member, Membership as KitMembership},
    snapshot::SnapshotFile,
};
use quorate_core::{
    consensus::SnapshotMeta as Meta,
    ids::{DirectoryId, Epoch, LogIndex, NodeId},
};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::runtime::ScopedRuntime;

/// The kit's mark of an entry that says who the members are.
const MEMBERS: u8 = 1;
/// Members that an entry may name.
const MEMBERS_CAP: usize = 1024;

/// What openraft is made of here.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Proposal;
    type R = ();
    type NodeId = u64;
    type Node = Member;
    type Entry = Entry;
    /// `None` before it has arrived.
    type SnapshotData = Option<Arc<SnapshotFile>>;
    type AsyncRuntime = ScopedRuntime;
    type Responder = OneshotResponder<Self>;
}

pub(crate) type Place = LogId<u64>;
pub(crate) type Configs = Membership<u64, Member>;
/// The members, and the entry that says so.
pub(crate) type Members = StoredMembership<u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(crate) type Snapshot = openraft::Snapshot<Types>;
pub(crate) type StorageError = openraft::StorageError<u64>;

/// What was proposed, for one leadership.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) data: Bytes,
}

/// One proposal's part in an epoch.
#[derive(Debug)]
pub(crate) struct Ticket {
    epoch: Epoch,
    appended: AtomicBool,
    _room: OwnedSemaphorePermit,
}

impl Ticket {
    pub(crate) fn new(epoch: Epoch, room: OwnedSemaphorePermit) -> Arc<Self> {
        Arc::new(Self { epoch, appended: AtomicBool::new(false), _room: room })
    }

    /// Whether it has been appended. If not, and openraft has refused it, it never will be.
    pub(crate) fn is_appended(&self) -> bool {
        self.appended.load(Ordering::Acquire)
    }
}

/// One entry of openraft's log.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) log_id: Place,
    pub(crate) payload: Payload,
}

#[derive(Clone)]
pub(crate) enum Payload {
    /// Opens an epoch.
    Blank,
    /// What was proposed; here with its ticket, elsewhere without.
    Data(Bytes, Option<Arc<Ticket>>),
    /// Who the members are.
    Members(Configs),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.payload {
            Payload::Blank => "opening",
            Payload::Data(..) => "entry",
            Payload::Members(_) => "members",
        };
        write!(f, "{kind} {}", self.log_id)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RaftPayload<u64, Member> for Entry {
    fn is_blank(&self) -> bool {
        matches!(self.payload, Payload::Blank)
    }

    fn get_membership(&self) -> Option<&Configs> {
        match &self.payload {
            Payload::Members(members) => Some(members),
            _ => None,
        }
    }
}

impl RaftLogId<u64> for Entry {
    fn get_log_id(&self) -> &Place {
        &self.log_id
    }

    /// A leader appends the entry. Between the look at who leads and this moment another epoch may have begun: then the
    /// entry becomes an empty one, so that what was proposed is in no epoch but its own.
    fn set_log_id(&mut self, log_id: &Place) {
        self.log_id = *log_id;
        if let Payload::Data(_, Some(ticket)) = &self.payload {
            ticket.appended.store(true, Ordering::Release);
            if ticket.epoch != epoch_of(log_id) {
                self.payload = Payload::Blank;
            }
        }
    }
}

impl RaftEntry<u64, Member> for Entry {
    fn new_blank(log_id: Place) -> Self {
        Self { log_id, payload: Payload::Blank }
    }

    fn new_membership(log_id: Place, members: Configs) -> Self {
        Self { log_id, payload: Payload::Members(members) }
    }
}

impl FromAppData<Proposal> for Entry {
    fn from_app_data(proposal: Proposal) -> Self {
        Self { log_id: Place::default(), payload: Payload::Data(proposal.data, Some(proposal.ticket)) }
    }
}

impl Entry {
    /// As the kit's log keeps it.
    pub(crate) fn to_kit(&self) -> KitEntry {
        let (engine, data) = match &self.payload {
            Payload::Blank => (0, Bytes::new()),
            Payload::Data(data, _) => (0, data.clone()),
            Payload::Members(members) => (MEMBERS, encode_configs(members).into()),
        };
        KitEntry { index: index_of(&self.log_id), epoch: epoch_of(&self.log_id), engine, data }
    }

    /// Reads [`Entry::to_kit`]'s form; `None` if it is anything else.
    pub(crate) fn of_kit(entry: KitEntry) -> Option<Self> {
        let log_id = place(entry.epoch, entry.index)?;
        let payload = match entry.engine {
            0 if entry.data.is_empty() => Payload::Blank,
            0 => Payload::Data(entry.data, None),
            MEMBERS => Payload::Members(decode_configs(&entry.data)?),
            _ => return None,
        };
        Some(Self { log_id, payload })
    }
}

/// openraft's id of an entry; `None` before the first.
pub(crate) fn place(epoch: Epoch, index: LogIndex) -> Option<Place> {
    Some(LogId::new(CommittedLeaderId::new(epoch.0, 0), index.0.checked_sub(1)?))
}

/// openraft's id of a point in history; `None` before the first entry.
pub(crate) fn place_of(point: Point) -> Option<Place> {
    place(point.epoch, point.index)
}

pub(crate) fn index_of(place: &Place) -> LogIndex {
    LogIndex(place.index.saturating_add(1))
}

/// The index of the last of several entries, 0 for none.
pub(crate) fn last_index(place: Option<&Place>) -> LogIndex {
    place.map_or(LogIndex(0), index_of)
}

pub(crate) fn epoch_of(place: &Place) -> Epoch {
    Epoch(place.leader_id.term)
}

pub(crate) fn raft_id(node: NodeId) -> u64 {
    u64::try_from(node.0).unwrap_or_default()
}

pub(crate) fn node_of(id: u64) -> Option<NodeId> {
    i32::try_from(id).ok().map(NodeId)
}

/// Founders, as openraft is initialised with them.
pub(crate) fn founders(founders: &BTreeMap<NodeId, Member>) -> BTreeMap<u64, Member> {
    founders.iter().map(|(node, member)| (raft_id(*node), member.clone())).collect()
}

/// The members as the kit sees them. While a change is half done, whoever votes before and after it votes; the others
/// are on their way in or out. Before the first entry, the founders are the members.
pub(crate) fn kit_membership(members: &Members, founders: &BTreeMap<NodeId, Member>) -> KitMembership {
    let configs = members.membership();
    let mut known =
        configs.nodes().filter_map(|(id, member)| Some((node_of(*id)?, member.clone()))).peekable();
    if known.peek().is_none() {
        return KitMembership { voters: founders.clone(), ..KitMembership::default() };
    }
    let votes =
        |node: &NodeId| configs.get_joint_config().iter().all(|config| config.contains(&raft_id(*node)));
    let (voters, learners) = known.partition(|(node, _)| votes(node));
    KitMembership { voters, learners }
}

/// What a snapshot of the kit stands for, in openraft's words; `None` if it does not say who the members are.
pub(crate) fn snapshot_meta(meta: &Meta, engine: &[u8]) -> Option<SnapshotMeta> {
    Some(SnapshotMeta {
        last_log_id: place(meta.epoch, meta.index),
        last_membership: decode_members(engine)?,
        snapshot_id: format!("{}-{}", meta.epoch, meta.index),
    })
}

#[derive(Clone, PartialEq, Message)]
struct WireConfig {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct WireMember {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(bytes = "vec", tag = "2")]
    directory: Vec<u8>,
    #[prost(string, tag = "3")]
    endpoint: String,
    #[prost(uint64, tag = "4")]
    since: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireMembers {
    #[prost(message, repeated, tag = "1")]
    configs: Vec<WireConfig>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<WireMember>,
    /// The entry that says so, as the port counts; 0 where it is the entry itself.
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(uint64, tag = "4")]
    epoch: u64,
}

/// The members, as they are kept in entries.
fn encode_configs(configs: &Configs) -> Vec<u8> {
    to_wire(configs, None).encode_to_vec()
}

/// The members and the entry that says so, as they are kept in snapshots.
pub(crate) fn encode_members(members: &Members) -> Bytes {
    to_wire(members.membership(), members.log_id().as_ref()).encode_to_vec().into()
}

fn to_wire(configs: &Configs, at: Option<&Place>) -> WireMembers {
    let config = |voters: &BTreeSet<u64>| WireConfig { voters: voters.iter().copied().collect() };
    let member = |(node, member): (&u64, &Member)| WireMember {
        node: *node,
        directory: member.directory.0.as_bytes().to_vec(),
        endpoint: member.endpoint.clone(),
        since: member.since.0,
    };
    WireMembers {
        configs: configs.get_joint_config().iter().map(config).collect(),
        members: configs.nodes().map(member).collect(),
        index: last_index(at).0,
        epoch: at.map_or(0, |at| epoch_of(at).0),
    }
}

fn decode_configs(bytes: &[u8]) -> Option<Configs> {
    of_wire(WireMembers::decode(bytes).ok()?)
}

fn decode_members(bytes: &[u8]) -> Option<Members> {
    let wire = WireMembers::decode(bytes).ok()?;
    let at = place(Epoch(wire.epoch), LogIndex(wire.index));
    Some(Members::new(at, of_wire(wire)?))
}

fn of_wire(wire: WireMembers) -> Option<Configs> {
    if wire.configs.len() > 2 || wire.members.len() > MEMBERS_CAP {
        return None;
    }
    let member = |wire: WireMember| {
        node_of(wire.node)?;
        let directory = DirectoryId(Uuid::from_slice(&wire.directory).ok()?);
        Some((wire.node, Member { directory, endpoint: wire.endpoint, since: LogIndex(wire.since) }))
    };
    let members: BTreeMap<u64, Member> = wire.members.into_iter().map(member).collect::<Option<_>>()?;
    let configs: Vec<BTreeSet<u64>> =
        wire.configs.into_iter().map(|config| config.voters.into_iter().collect()).collect();
    let known = configs.iter().flatten().all(|voter| members.contains_key(voter));
    known.then(|| Configs::new(configs, members))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(byte: u8) -> Member {
        let directory = DirectoryId(Uuid::from_bytes([byte; 16]));
        Member { directory, endpoint: format!("h{byte}:9"), since: LogIndex(u64::from(byte)) }
    }

    fn configs(voters: &[&[u64]], all: &[u64]) -> Configs {
        let nodes: BTreeMap<u64, Member> =
            all.iter().map(|id| (*id, member(u8::try_from(*id).unwrap()))).collect();
        Configs::new(voters.iter().map(|config| config.iter().copied().collect()).collect(), nodes)
    }

    #[test]
    fn what_is_written_is_read() {
        let joint = configs(&[&[0, 1], &[0, 1, 2]], &[0, 1, 2, 7]);
        let entry = Entry::new_membership(place(Epoch(3), LogIndex(9)).unwrap(), joint.clone());
        let read = Entry::of_kit(entry.to_kit()).unwrap();
        assert_eq!((read.log_id, read.get_membership()), (entry.log_id, Some(&joint)));
        let members = Members::new(place(Epoch(3), LogIndex(9)), joint);
        assert_eq!(decode_members(&encode_members(&members)), Some(members));
        assert_eq!(decode_members(&encode_members(&Members::default())), Some(Members::default()));
    }

    #[test]
    fn members_that_are_not_named_or_cannot_be_are_refused() {
        let good = to_wire(&configs(&[&[0]], &[0]), None);
        assert!(of_wire(good.clone()).is_some());
        let unnamed = WireConfig { voters: vec![0, 5] };
        assert!(of_wire(WireMembers { configs: vec![unnamed], ..good.clone() }).is_none());
        assert!(of_wire(WireMembers { configs: vec![WireConfig::default(); 3], ..good.clone() }).is_none());
        let mut strange = good;
        strange.members[0].node = u64::MAX;
        assert!(of_wire(strange).is_none());
    }

    #[test]
    fn while_a_change_is_half_done_only_those_vote_who_do_before_and_after() {
        let members = Members::new(None, configs(&[&[0, 1], &[0, 1, 2]], &[0, 1, 2, 7]));
        let seen = kit_membership(&members, &BTreeMap::new());
        let ids = |of: &BTreeMap<NodeId, Member>| of.keys().map(|node| node.0).collect::<Vec<_>>();
        assert_eq!((ids(&seen.voters), ids(&seen.learners)), (vec![0, 1], vec![2, 7]));
        let founders = BTreeMap::from([(NodeId(4), member(4))]);
        assert_eq!(kit_membership(&Members::default(), &founders).voters, founders);
    }

    #[tokio::test]
    async fn a_proposal_that_meets_another_epoch_becomes_an_empty_entry() {
        let room = Arc::new(tokio::sync::Semaphore::new(9));
        for (epoch, kept) in [(5, true), (6, false)] {
            let ticket = Ticket::new(Epoch(5), room.clone().try_acquire_many_owned(3).unwrap());
            let proposal = Proposal { ticket: ticket.clone(), data: Bytes::from_static(b"x") };
            let mut entry = Entry::from_app_data(proposal);
            assert!(!ticket.is_appended());
            entry.set_log_id(&place(Epoch(epoch), LogIndex(2)).unwrap());
            assert!(ticket.is_appended());
            assert_eq!(entry.is_blank(), !kept);
        }
    }
}
