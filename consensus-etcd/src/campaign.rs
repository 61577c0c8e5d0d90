//! A campaign: one transaction that makes a node the leader, opens the epoch and, the first time, founds the log.

use bytes::Bytes;
use quorate_core::consensus::{Chain, Epoch, LogId, LogIndex, NodeId};
use uuid::Uuid;

use crate::{
    head::Head,
    proposal::Leadership,
    storage::{
        Compare, Lease, Op, Revision, Txn, TxnReply,
        keys::Keys,
        records::{LeaderRecord, Tail, write_entry, write_epoch, write_id},
    },
};

/// Who campaigns, in one session.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) endpoint: String,
    /// Random: names this session for ever, also across a restore that repeats revisions.
    pub(crate) token: Uuid,
    pub(crate) lease: Lease,
}

/// A campaign that was or will be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Bid {
    pub(crate) txn: Txn,
    pub(crate) log: LogId,
    epoch: Epoch,
    opening: Tail,
    leader: Bytes,
    keys: Keys,
}

/// How a bid ended.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Won(Leadership),
    /// Another node was faster, or the head was old.
    Lost,
}

impl Bid {
    /// A bid for the epoch after `head`'s. `None` while somebody leads, unless that is one of `ended`: what the leader
    /// key holds of this node's own former life, or of a process that is known to have ended, and what nobody else will
    /// give up before its lease runs out. `founding` is the id of the log in case that there is none.
    pub(crate) fn new(
        keys: &Keys,
        head: &Head,
        me: &Candidate,
        ended: [Option<&Bytes>; 2],
        founding: LogId,
    ) -> Option<Self> {
        let vacant = match &head.leader {
            None => Compare::Unmoved(keys.leader(), 0),
            Some((_, held)) if ended.contains(&Some(held)) => Compare::Holds(keys.leader(), held.clone()),
            Some(_) => return None,
        };
        let log = head.id.unwrap_or(founding);
        let epoch = Epoch(head.epoch.0.checked_add(1)?);
        let before = if head.tail.index == LogIndex(0) { Chain::start(log) } else { head.tail.chain };
        let opening = Tail {
            index: LogIndex(head.tail.index.0.checked_add(1)?),
            epoch,
            chain: before.link(epoch, b""),
        };
        let (node, endpoint) = (me.node, me.endpoint.clone());
        let leader = LeaderRecord { node, epoch, token: me.token, endpoint }.write();
        let put = |key, value, lease| Op::Put { key, value, lease };
        let mut when = vec![
            vacant,
            Compare::Unmoved(keys.epoch(), head.epoch_modified),
            Compare::Unmoved(keys.tail(), head.tail_modified),
        ];
        let mut then = vec![
            put(keys.leader(), leader.clone(), Some(me.lease)),
            put(keys.epoch(), write_epoch(epoch), None),
            put(keys.entry(opening.index), write_entry(epoch, opening.chain, b""), None),
            put(keys.tail(), opening.write(), None),
        ];
        if head.id.is_none() {
            when.push(Compare::Unmoved(keys.id(), 0));
            then.push(put(keys.id(), write_id(log), None));
        }
        let otherwise = vec![Op::Get(Keys::one(keys.leader())), Op::Get(Keys::one(keys.tail()))];
        Some(Self { txn: Txn { when, then, otherwise }, log, epoch, opening, leader, keys: keys.clone() })
    }

    /// Reads the answer; the same after the first and after a repeated request, whichever was carried out.
    pub(crate) fn judge(&self, reply: &TxnReply) -> Verdict {
        let tail_modified = if reply.succeeded { Some(reply.revision) } else { self.earlier(reply) };
        match tail_modified {
            Some(tail_modified) => Verdict::Won(Leadership {
                epoch: self.epoch,
                opened_at: self.opening.index,
                leader: self.leader.clone(),
                tail: self.opening,
                tail_modified,
                keys: self.keys.clone(),
            }),
            None => Verdict::Lost,
        }
    }

    /// The revision of an earlier request of this bid that was carried out: the leader key holds its token, and
    /// nobody has written since, because only its owner may.
    fn earlier(&self, reply: &TxnReply) -> Option<Revision> {
        let [leader, tail] = reply.gets.as_slice() else { return None };
        let mine = leader.first().is_some_and(|held| held.value == self.leader);
        let tail = tail.first().filter(|_| mine)?;
        (Tail::read(tail) == Ok(self.opening)).then_some(tail.modified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::KeyValue;

    fn me() -> Candidate {
        Candidate { node: NodeId(1), endpoint: "h:1".to_owned(), token: Uuid::from_u128(7), lease: 5 }
    }

    #[test]
    fn the_first_bid_founds_the_log_and_later_ones_do_not() {
        let keys = Keys::new("/q", 1);
        let bid = Bid::new(&keys, &Head::default(), &me(), [None; 2], LogId([3; 16])).unwrap();
        let puts = |bid: &Bid, key: &str| {
            bid.txn.then.iter().any(|op| matches!(op, Op::Put { key: put, .. } if *put == key))
        };
        assert!(puts(&bid, "/q/1/id") && bid.log == LogId([3; 16]));
        let Verdict::Won(won) = bid.judge(&TxnReply { succeeded: true, revision: 4, gets: vec![] }) else {
            panic!("not won")
        };
        assert_eq!((won.epoch, won.opened_at, won.tail_modified), (Epoch(1), LogIndex(1), 4));
        assert_eq!(won.tail.chain, Chain::start(LogId([3; 16])).link(Epoch(1), b""));
        let founded = Head { id: Some(LogId([4; 16])), epoch: Epoch(6), ..Head::default() };
        let bid = Bid::new(&keys, &founded, &me(), [None; 2], LogId([3; 16])).unwrap();
        assert!(!puts(&bid, "/q/1/id") && bid.log == LogId([4; 16]) && bid.epoch == Epoch(7));
    }

    #[test]
    fn a_bid_whose_answer_was_lost_is_recognised_and_another_leader_is_not() {
        let keys = Keys::new("/q", 1);
        let bid = Bid::new(&keys, &Head::default(), &me(), [None; 2], LogId([3; 16])).unwrap();
        let kv = |key: String, value, modified| vec![KeyValue { key, value, modified }];
        let tail = kv(keys.tail(), bid.opening.write(), 9);
        let gets = vec![kv(keys.leader(), bid.leader.clone(), 9), tail.clone()];
        let Verdict::Won(won) = bid.judge(&TxnReply { succeeded: false, revision: 12, gets }) else {
            panic!("not won")
        };
        assert_eq!(won.tail_modified, 9);
        let gets = vec![kv(keys.leader(), Bytes::from_static(b"other"), 9), tail];
        assert!(matches!(bid.judge(&TxnReply { succeeded: false, revision: 12, gets }), Verdict::Lost));
    }

    #[test]
    fn nobody_bids_while_another_leads_but_a_former_life_is_replaced() {
        let keys = Keys::new("/q", 1);
        let held = LeaderRecord {
            node: NodeId(1),
            epoch: Epoch(1),
            token: Uuid::from_u128(6),
            endpoint: "h:1".to_owned(),
        };
        let bytes = held.write();
        let head = Head { leader: Some((held, bytes.clone())), epoch: Epoch(1), ..Head::default() };
        assert!(Bid::new(&keys, &head, &me(), [None; 2], LogId([3; 16])).is_none());
        let bid = Bid::new(&keys, &head, &me(), [None, Some(&bytes)], LogId([3; 16])).unwrap();
        assert_eq!(bid.txn.when.first(), Some(&Compare::Holds(keys.leader(), bytes)));
    }
}
