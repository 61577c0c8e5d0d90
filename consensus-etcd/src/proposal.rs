//! Proposals: one transaction a batch, and what its answer means.

use bytes::Bytes;
use quorate_core::consensus::{Epoch, LogIndex};

use crate::storage::{
    Compare, Op, Revision, Txn, TxnReply,
    keys::Keys,
    records::{Damaged, Tail, read_entry, write_entry},
};

/// Entries in a batch. etcd takes 128 operations a transaction; one more is the tail.
pub(crate) const BATCH_ENTRIES: usize = 120;
/// Bytes of data in a batch, and in an entry. etcd takes requests of 1.5 MiB.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// One leadership: what its next transaction compares with and writes.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    pub(crate) epoch: Epoch,
    pub(crate) opened_at: LogIndex,
    /// The value of the leader key, this leadership's token in it.
    pub(crate) leader: Bytes,
    pub(crate) tail: Tail,
    pub(crate) tail_modified: Revision,
    pub(crate) keys: Keys,
}

/// A batch that was or will be asked for.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) txn: Txn,
    pub(crate) first: LogIndex,
    end: Tail,
}

impl Batch {
    /// Only looks what has become of it; [`Leadership::judge`] reads the answer.
    pub(crate) fn look(&self) -> Txn {
        Txn { then: self.txn.otherwise.clone(), ..Txn::default() }
    }
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of it is in the log.
    Committed,
    /// None of it is, nor ever will be: the leadership is lost.
    Lost,
    /// The leadership is lost, and the place where the batch would stand has been compacted away.
    Unknown,
    /// The leadership is intact and yet the tail has moved: etcd was restored, or somebody else writes here.
    TailMoved(Tail),
}

impl Leadership {
    /// The batch of `entries`, in order; at most [`BATCH_ENTRIES`] and [`BATCH_BYTES`].
    pub(crate) fn batch(&self, entries: &[Bytes]) -> Batch {
        let mut end = self.tail;
        let mut then = Vec::with_capacity(entries.len() + 1);
        for data in entries {
            end =
                Tail { index: end.index.next(), epoch: self.epoch, chain: end.chain.link(self.epoch, data) };
            let value = write_entry(self.epoch, end.chain, data);
            then.push(Op::Put { key: self.keys.entry(end.index), value, lease: None });
        }
        then.push(Op::Put { key: self.keys.tail(), value: end.write(), lease: None });
        let when = vec![self.fence(), Compare::Unmoved(self.keys.tail(), self.tail_modified)];
        let gets = [self.keys.leader(), self.keys.tail(), self.keys.entry(end.index)];
        let otherwise = gets.map(|key| Op::Get(Keys::one(key))).into();
        Batch { txn: Txn { when, then, otherwise }, first: self.tail.index.next(), end }
    }

    /// Holds while this leadership lasts, and never again.
    pub(crate) fn fence(&self) -> Compare {
        Compare::Holds(self.keys.leader(), self.leader.clone())
    }

    /// Reads the answer, the same after the first and after a repeated request, and moves on if it was committed.
    pub(crate) fn judge(&mut self, batch: &Batch, reply: &TxnReply) -> Result<Outcome, Damaged> {
        if reply.succeeded {
            (self.tail, self.tail_modified) = (batch.end, reply.revision);
            return Ok(Outcome::Committed);
        }
        let mut gets = reply.gets.iter().map(|found| found.first());
        let (leader, tail, last) = (gets.next().flatten(), gets.next().flatten(), gets.next().flatten());
        let tail_modified = tail.map_or(0, |kv| kv.modified);
        let tail = tail.map(Tail::read).transpose()?.unwrap_or_default();
        let last = last.map(|kv| read_entry(&self.keys, kv)).transpose()?;
        let leading = leader.is_some_and(|kv| kv.value == self.leader);
        Ok(match last {
            Some(last) if last.chain == batch.end.chain => {
                (self.tail, self.tail_modified) = (batch.end, tail_modified);
                Outcome::Committed
            }
            _ if leading => Outcome::TailMoved(tail),
            Some(_) => Outcome::Lost,
            None if tail.index < batch.end.index => Outcome::Lost,
            None => Outcome::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::consensus::{Chain, LogId};

    use super::*;
    use crate::storage::KeyValue;

    fn leadership() -> Leadership {
        let tail = Tail { index: LogIndex(4), epoch: Epoch(2), chain: Chain::start(LogId([1; 16])) };
        Leadership {
            epoch: Epoch(2),
            opened_at: LogIndex(3),
            leader: Bytes::from_static(b"mine"),
            tail,
            tail_modified: 40,
            keys: Keys::new("/q", 1),
        }
    }

    /// The answer of a transaction whose comparison failed.
    fn refused(leader: &'static str, tail: Tail, last: Option<(LogIndex, Chain)>) -> TxnReply {
        let keys = Keys::new("/q", 1);
        let kv = |key, value| KeyValue { key, value, modified: 50 };
        let last = last.map(|(index, chain)| kv(keys.entry(index), write_entry(Epoch(9), chain, b"?")));
        let gets = vec![
            vec![kv(keys.leader(), Bytes::from_static(leader.as_bytes()))],
            vec![kv(keys.tail(), tail.write())],
            last.into_iter().collect(),
        ];
        TxnReply { succeeded: false, revision: 60, gets }
    }

    fn tail(index: u64) -> Tail {
        Tail { index: LogIndex(index), ..Tail::default() }
    }

    #[test]
    fn a_batch_is_dense_chained_and_fenced() {
        let mut leading = leadership();
        let batch = leading.batch(&[Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!((batch.first, batch.end.index), (LogIndex(5), LogIndex(6)));
        assert_eq!(batch.end.chain, leading.tail.chain.link(Epoch(2), b"a").link(Epoch(2), b"b"));
        assert_eq!(batch.txn.when.first(), Some(&leading.fence()));
        let reply = TxnReply { succeeded: true, revision: 41, gets: vec![] };
        assert_eq!(leading.judge(&batch, &reply), Ok(Outcome::Committed));
        assert_eq!((leading.tail, leading.tail_modified), (batch.end, 41));
    }

    #[test]
    fn a_repeated_batch_is_recognised_by_its_chain_even_after_the_leadership_is_lost() {
        let mut leading = leadership();
        let batch = leading.batch(&[Bytes::from_static(b"a")]);
        let last = Some((LogIndex(5), batch.end.chain));
        assert_eq!(leading.clone().judge(&batch, &refused("other", tail(9), last)), Ok(Outcome::Committed));
        assert_eq!(leading.judge(&batch, &refused("mine", batch.end, last)), Ok(Outcome::Committed));
        assert_eq!(leading.tail_modified, 50);
    }

    #[test]
    fn what_a_later_leader_overtook_was_never_committed_and_what_it_compacted_is_unknown() {
        let mut leading = leadership();
        let batch = leading.batch(&[Bytes::from_static(b"a")]);
        let other = Some((LogIndex(5), Chain([9; 16])));
        assert_eq!(leading.judge(&batch, &refused("other", tail(5), other)), Ok(Outcome::Lost));
        assert_eq!(leading.judge(&batch, &refused("other", tail(4), None)), Ok(Outcome::Lost));
        assert_eq!(leading.judge(&batch, &refused("other", tail(9), None)), Ok(Outcome::Unknown));
        assert_eq!(leading.judge(&batch, &refused("mine", tail(3), None)), Ok(Outcome::TailMoved(tail(3))));
    }
}
