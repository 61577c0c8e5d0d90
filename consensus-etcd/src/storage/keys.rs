//! Where things lie in etcd, under `<prefix>/<generation>`:
//!
//! | key | value |
//! |---|---|
//! | `candidates/<node>` | a node that may lead; leased |
//! | `epoch` | the newest epoch |
//! | `id` | the log's id and the format of everything here |
//! | `leader` | the leadership's random token, node and endpoint; leased |
//! | `log/<index>` | an entry; the index in 20 digits |
//! | `snap` | the newest snapshot |
//! | `snap/<index>/<n>` | its chunks |
//! | `tail` | the last entry's index, epoch and chain |

use quorate_core::consensus::{LogIndex, NodeId};

use super::Range;

/// The keys of one log.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str, generation: u64) -> Self {
        Self { root: format!("{prefix}/{generation}") }
    }

    /// The folder, for messages.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn candidate(&self, node: NodeId) -> String {
        format!("{}/candidates/{node}", self.root)
    }

    pub(crate) fn epoch(&self) -> String {
        format!("{}/epoch", self.root)
    }

    pub(crate) fn id(&self) -> String {
        format!("{}/id", self.root)
    }

    pub(crate) fn leader(&self) -> String {
        format!("{}/leader", self.root)
    }

    pub(crate) fn tail(&self) -> String {
        format!("{}/tail", self.root)
    }

    pub(crate) fn entry(&self, index: LogIndex) -> String {
        format!("{}/log/{:020}", self.root, index.0)
    }

    pub(crate) fn snapshot(&self) -> String {
        format!("{}/snap", self.root)
    }

    pub(crate) fn chunk(&self, index: LogIndex, number: u64) -> String {
        format!("{}/snap/{:020}/{number:010}", self.root, index.0)
    }

    /// `candidates/…`, `epoch`, `id` and `leader`: everything small that changes seldom.
    pub(crate) fn heads(&self) -> Range {
        let to = Some(format!("{}/log/", self.root));
        Range { from: format!("{}/candidates/", self.root), to, ..Range::default() }
    }

    pub(crate) fn one(key: String) -> Range {
        Range { from: key, ..Range::default() }
    }

    /// The key of the first entry that is still kept, without its value.
    pub(crate) fn first_entry(&self) -> Range {
        let (from, to) = (self.entry(LogIndex(0)), Some(format!("{}/log0", self.root)));
        Range { from, to, limit: 1, keys_only: true, revision: 0 }
    }

    /// At most `limit` entries of `from..=to`.
    pub(crate) fn entries(&self, from: LogIndex, to: LogIndex, limit: i64) -> Range {
        Range { from: self.entry(from), to: Some(self.entry(to.next())), limit, ..Range::default() }
    }

    /// The keys of all chunks of snapshots before `index`.
    pub(crate) fn chunks_before(&self, index: LogIndex) -> (String, String) {
        (format!("{}/snap/", self.root), format!("{}/snap/{:020}/", self.root, index.0))
    }

    /// The index in an entry's key.
    pub(crate) fn index_of(&self, key: &str) -> Option<LogIndex> {
        let digits = key.strip_prefix(&self.root)?.strip_prefix("/log/")?;
        digits.parse().ok().map(LogIndex)
    }

    /// The node in a candidate's key.
    pub(crate) fn candidate_of(&self, key: &str) -> Option<NodeId> {
        let node = key.strip_prefix(&self.root)?.strip_prefix("/candidates/")?;
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
        assert!([keys.candidate(NodeId(0)), keys.epoch(), keys.id(), keys.leader()].iter().all(inside));
        assert!(![nine, keys.tail(), keys.snapshot()].iter().any(inside));
        let (from, to) = keys.chunks_before(LogIndex(7));
        let chunk = |index| keys.chunk(LogIndex(index), 0);
        assert!(from < chunk(6) && chunk(6) < to && to < chunk(7) && keys.snapshot() < from);
    }
}
