//! Where things lie in etcd, under `<prefix>/<generation>`:
//!
//! | key | value |
//! |---|---|
//! | `candidates/<node>` | a node that may lead; leased |
//! | `ended` | the generation that has taken this one's place |
//! | `epoch` | the newest epoch |
//! | `history` | of a later generation: what it begins with |
//! | `id` | the log's id and the format of everything here |
//! | `leader` | the leadership's random token, node and endpoint; leased |
//! | `log/<index>` | an entry; the index in 20 digits |
//! | `snap` | the newest snapshot |
//! | `snap/<index>/<n>` | its chunks |
//! | `tail` | the last entry's index, epoch and chain |

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quorate_core::consensus::{LogIndex, NodeId};

use super::Range;

/// The keys of one log. All clones follow it to its next generation.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Arc<str>,
    generation: Arc<AtomicU64>,
}

impl Keys {
    pub(crate) fn new(prefix: &str, generation: u64) -> Self {
        Self { prefix: Arc::from(prefix), generation: Arc::new(AtomicU64::new(generation)) }
    }

    /// The keys of another generation, which stay there.
    pub(crate) fn of(&self, generation: u64) -> Self {
        Self::new(&self.prefix, generation)
    }

    /// Goes on in a later generation. For a node that knows nothing of the one before.
    pub(crate) fn follow(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::Relaxed);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The folder, also for messages.
    pub(crate) fn root(&self) -> String {
        format!("{}/{}", self.prefix, self.generation())
    }

    pub(crate) fn candidate(&self, node: NodeId) -> String {
        format!("{}/candidates/{node}", self.root())
    }

    pub(crate) fn epoch(&self) -> String {
        format!("{}/epoch", self.root())
    }

    pub(crate) fn ended(&self) -> String {
        format!("{}/ended", self.root())
    }

    pub(crate) fn history(&self) -> String {
        format!("{}/history", self.root())
    }

    pub(crate) fn id(&self) -> String {
        format!("{}/id", self.root())
    }

    pub(crate) fn leader(&self) -> String {
        format!("{}/leader", self.root())
    }

    pub(crate) fn tail(&self) -> String {
        format!("{}/tail", self.root())
    }

    pub(crate) fn entry(&self, index: LogIndex) -> String {
        format!("{}/log/{:020}", self.root(), index.0)
    }

    pub(crate) fn snapshot(&self) -> String {
        format!("{}/snap", self.root())
    }

    pub(crate) fn chunk(&self, index: LogIndex, number: u64) -> String {
        format!("{}/snap/{:020}/{number:010}", self.root(), index.0)
    }

    /// `candidates/…`, `ended`, `epoch`, `history`, `id` and `leader`: everything small that changes seldom.
    pub(crate) fn heads(&self) -> Range {
        let to = Some(format!("{}/log/", self.root()));
        Range { from: format!("{}/candidates/", self.root()), to, ..Range::default() }
    }

    pub(crate) fn one(key: String) -> Range {
        Range { from: key, ..Range::default() }
    }

    /// The key of the first entry that is still kept, without its value.
    pub(crate) fn first_entry(&self) -> Range {
        let (from, to) = (self.entry(LogIndex(0)), Some(format!("{}/log0", self.root())));
        Range { from, to, limit: 1, keys_only: true, revision: 0 }
    }

    /// At most `limit` entries of `from..=to`.
    pub(crate) fn entries(&self, from: LogIndex, to: LogIndex, limit: i64) -> Range {
        Range { from: self.entry(from), to: Some(self.entry(to.next())), limit, ..Range::default() }
    }

    /// The keys of all chunks of snapshots before `index`.
    pub(crate) fn chunks_before(&self, index: LogIndex) -> (String, String) {
        (format!("{}/snap/", self.root()), format!("{}/snap/{:020}/", self.root(), index.0))
    }

    /// The keys of all chunks that are none of the first `count` of the snapshot at `index`.
    pub(crate) fn other_chunks(&self, index: LogIndex, count: u64) -> [(String, String); 2] {
        [self.chunks_before(index), (self.chunk(index, count), format!("{}/snap0", self.root()))]
    }

    /// The index in an entry's key.
    pub(crate) fn index_of(&self, key: &str) -> Option<LogIndex> {
        let digits = key.strip_prefix(&self.root())?.strip_prefix("/log/")?;
        digits.parse().ok().map(LogIndex)
    }

    /// The node in a candidate's key.
    pub(crate) fn candidate_of(&self, key: &str) -> Option<NodeId> {
        let node = key.strip_prefix(&self.root())?.strip_prefix("/candidates/")?;
        node.parse().ok().map(NodeId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_sort_by_index_and_stay_out_of_the_heads() {
        let keys = Keys::new("/quorate/a", 1);
        let (nine, ten) = (keys.entry(LogIndex(9)), keys.entry(LogIndex(10)));
        assert!(nine < ten && keys.entry(LogIndex(u64::MAX)) < *keys.first_entry().to.as_ref().unwrap());
        assert_eq!(keys.index_of(&ten), Some(LogIndex(10)));
        let heads = keys.heads();
        let inside = |key: &String| *key >= heads.from && *key < *heads.to.as_ref().unwrap();
        let small = [keys.candidate(NodeId(0)), keys.epoch(), keys.id(), keys.leader()];
        assert!(small.iter().chain(&[keys.ended(), keys.history()]).all(inside));
        assert!(![nine, keys.tail(), keys.snapshot()].iter().any(inside));
        let (from, to) = keys.chunks_before(LogIndex(7));
        let chunk = |index| keys.chunk(LogIndex(index), 0);
        assert!(from < chunk(6) && chunk(6) < to && to < chunk(7) && keys.snapshot() < from);
        let others = keys.other_chunks(LogIndex(7), 3);
        let is_other = |key: &String| others.iter().any(|(from, to)| *from <= *key && *key < *to);
        let of_seven = |number| keys.chunk(LogIndex(7), number);
        assert!([chunk(6), of_seven(3), of_seven(4), chunk(8)].iter().all(is_other));
        assert!(![of_seven(0), of_seven(2), keys.snapshot(), keys.tail()].iter().any(is_other));
    }

    #[test]
    fn clones_follow_to_the_next_generation_and_never_back() {
        let keys = Keys::new("/q", 1);
        let (clone, apart) = (keys.clone(), keys.of(1));
        keys.follow(3);
        keys.follow(2);
        assert_eq!((clone.tail(), apart.tail()), ("/q/3/tail".to_owned(), "/q/1/tail".to_owned()));
    }
}
