//! The answer to one call: copied from what the other side lends, or lent to it.

use std::ptr;

use bytes::Bytes;
use quorate_core::consensus::{Chain, Epoch, LogIndex, NodeId, SNAPSHOT_CHUNK_BYTES, SnapshotMeta};

use crate::{raw, report::REPORT_BYTES};

/// Entries that one answer may hold.
pub(crate) const ENTRIES_MAX: usize = 1 << 16;
/// Bytes of data that one answer to `next_committed` is asked for.
pub(crate) const BATCH_BYTES: u32 = 1 << 20;

/// One answer, with nothing borrowed.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) index: LogIndex,
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
    pub(crate) node: Option<NodeId>,
    pub(crate) kind: u32,
    pub(crate) snapshot: u64,
    pub(crate) entries: Vec<(LogIndex, Epoch, Bytes)>,
    pub(crate) meta: Option<SnapshotMeta>,
    pub(crate) data: Bytes,
}

impl Answer {
    /// Checks and copies a reply. No entry may be larger than `entry_bytes`.
    ///
    /// # Errors
    /// What is wrong with it.
    ///
    /// # Safety
    /// A `reply` that is not null must be as the header describes it, with everything that it points to, and must not
    /// change during this call.
    pub(crate) unsafe fn copy(reply: *const raw::Reply, entry_bytes: usize) -> Result<Self, String> {
        if reply.is_null() || !reply.is_aligned() {
            return Err("a reply that is nowhere".to_owned());
        }
        // SAFETY: not null, aligned, and the first field is readable in any reply.
        let size = unsafe { (&raw const (*reply).struct_size).read() } as usize;
        if size < size_of::<raw::Reply>() {
            return Err(format!("a reply of {size} bytes"));
        }
        // SAFETY: not null, aligned, and as large as it says.
        let reply = unsafe { reply.read() };
        let most = REPORT_BYTES.max(SNAPSHOT_CHUNK_BYTES);
        // SAFETY: the reply's data are readable until the call returns, by this function's contract.
        let data = unsafe { reply.data.as_slice(most) }.ok_or("data that is nowhere or too large")?;
        Ok(Self {
            status: reply.status,
            index: LogIndex(reply.index),
            epoch: Epoch(reply.epoch),
            seq: reply.seq,
            node: (reply.node >= 0).then_some(NodeId(reply.node)),
            kind: reply.kind,
            snapshot: reply.snapshot,
            // SAFETY: by this function's contract.
            entries: unsafe { entries(&reply, entry_bytes) }?,
            // SAFETY: by this function's contract.
            meta: unsafe { meta(reply.meta) }?,
            data: Bytes::copy_from_slice(data),
        })
    }

    /// An answer of nothing but a status.
    pub(crate) fn of(status: i32) -> Self {
        Self { status, ..Self::default() }
    }

    /// A refusal with its sentence.
    pub(crate) fn because(status: i32, sentence: impl Into<String>) -> Self {
        let sentence: String = sentence.into();
        Self { data: sentence.into(), ..Self::of(status) }
    }

    /// Lends the answer to the other side for the time of a call.
    pub(crate) fn lend(&self, to: impl FnOnce(&raw::Reply)) {
        let entries: Vec<raw::Entry> = self
            .entries
            .iter()
            .map(|(index, epoch, data)| raw::Entry {
                index: index.0,
                epoch: epoch.0,
                data: raw::Bytes::of(data),
            })
            .collect();
        let meta = self.meta.map(|meta| raw::SnapshotMeta {
            index: meta.index.0,
            epoch: meta.epoch.0,
            bytes: meta.bytes,
            chain: meta.chain.0,
        });
        to(&raw::Reply {
            // The struct is 88 bytes.
            struct_size: size_of::<raw::Reply>() as u32,
            status: self.status,
            index: self.index.0,
            epoch: self.epoch.0,
            seq: self.seq,
            node: self.node.unwrap_or(NodeId::NONE).0,
            kind: self.kind,
            snapshot: self.snapshot,
            entries: entries.as_ptr(),
            entries_len: entries.len(),
            meta: meta.as_ref().map_or(ptr::null(), ptr::from_ref),
            data: raw::Bytes::of(&self.data),
        });
    }

    /// The sentence in it, or what stands for it.
    pub(crate) fn sentence(&self) -> String {
        let text = String::from_utf8_lossy(&self.data).trim().to_owned();
        if text.is_empty() { format!("the library gave no reason (status {})", self.status) } else { text }
    }
}

/// # Safety
/// As [`Answer::copy`].
unsafe fn entries(reply: &raw::Reply, entry_bytes: usize) -> Result<Vec<(LogIndex, Epoch, Bytes)>, String> {
    let count = reply.entries_len;
    if count == 0 {
        return Ok(Vec::new());
    }
    if reply.entries.is_null() || !reply.entries.is_aligned() || count > ENTRIES_MAX {
        return Err(format!("{count} entries that are nowhere or too many"));
    }
    // SAFETY: not null, aligned, and as many as it says by the contract.
    let found = unsafe { std::slice::from_raw_parts(reply.entries, count) };
    let mut room = (BATCH_BYTES as usize).saturating_add(entry_bytes);
    let mut copies = Vec::with_capacity(count);
    for entry in found {
        // SAFETY: each entry's data are readable by the contract.
        let data = unsafe { entry.data.as_slice(entry_bytes) };
        let data = data.ok_or("an entry that is nowhere or larger than the library's limit")?;
        room = room.checked_sub(data.len()).ok_or("more entries than were asked for")?;
        copies.push((LogIndex(entry.index), Epoch(entry.epoch), Bytes::copy_from_slice(data)));
    }
    Ok(copies)
}

/// # Safety
/// As [`Answer::copy`].
unsafe fn meta(meta: *const raw::SnapshotMeta) -> Result<Option<SnapshotMeta>, String> {
    if meta.is_null() {
        return Ok(None);
    }
    if !meta.is_aligned() {
        return Err("a snapshot's head that is nowhere".to_owned());
    }
    // SAFETY: not null, aligned, readable by the contract.
    let meta = unsafe { meta.read() };
    Ok(Some(SnapshotMeta {
        index: LogIndex(meta.index),
        epoch: Epoch(meta.epoch),
        chain: Chain(meta.chain),
        bytes: meta.bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_arrives_as_it_was() {
        let answer = Answer {
            entries: vec![(LogIndex(3), Epoch(1), Bytes::from_static(b"ab"))],
            meta: Some(SnapshotMeta { bytes: 3, ..SnapshotMeta::default() }),
            node: Some(NodeId(4)),
            ..Answer::because(2, "too large")
        };
        let mut copied = None;
        // SAFETY: what is lent lives until the closure returns.
        answer.lend(|reply| copied = Some(unsafe { Answer::copy(reply, 4) }));
        let copied = copied.unwrap().unwrap();
        assert_eq!(format!("{copied:?}"), format!("{answer:?}"));
    }

    fn reply() -> raw::Reply {
        raw::Reply {
            struct_size: size_of::<raw::Reply>() as u32,
            status: 0,
            index: 7,
            epoch: 2,
            seq: 0,
            node: -1,
            kind: 0,
            snapshot: 0,
            entries: ptr::null(),
            entries_len: 0,
            meta: ptr::null(),
            data: raw::Bytes::of(b"why"),
        }
    }

    fn copy(reply: &raw::Reply) -> Result<Answer, String> {
        // SAFETY: everything that the tests' replies point to lives on their stacks.
        unsafe { Answer::copy(reply, 4) }
    }

    #[test]
    fn what_a_reply_holds_is_copied() {
        let entries = [raw::Entry { index: 8, epoch: 2, data: raw::Bytes::of(b"four") }];
        let meta = raw::SnapshotMeta { index: 7, epoch: 1, bytes: 9, chain: [3; 16] };
        let answer = copy(&raw::Reply { entries: entries.as_ptr(), entries_len: 1, meta: &meta, ..reply() });
        let answer = answer.unwrap();
        assert_eq!(answer.entries, [(LogIndex(8), Epoch(2), Bytes::from_static(b"four"))]);
        assert_eq!((answer.index, answer.node, answer.sentence().as_str()), (LogIndex(7), None, "why"));
        assert_eq!(answer.meta.unwrap().chain, Chain([3; 16]));
    }

    #[test]
    fn what_is_nowhere_or_too_large_is_refused() {
        let large = [raw::Entry { index: 8, epoch: 2, data: raw::Bytes::of(b"large") }];
        let nowhere = raw::Bytes { ptr: ptr::null(), len: 3 };
        for wrong in [
            raw::Reply { struct_size: 80, ..reply() },
            raw::Reply { data: nowhere, ..reply() },
            raw::Reply { data: raw::Bytes { len: usize::MAX, ..reply().data }, ..reply() },
            raw::Reply { entries_len: 2, ..reply() },
            raw::Reply { entries: large.as_ptr(), entries_len: ENTRIES_MAX + 1, ..reply() },
            raw::Reply { entries: large.as_ptr(), entries_len: 1, ..reply() },
        ] {
            assert!(copy(&wrong).is_err());
        }
        // SAFETY: a null reply is answered without being read.
        assert!(unsafe { Answer::copy(ptr::null(), 4) }.is_err());
    }
}
