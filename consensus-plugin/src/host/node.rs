//! One node of a library: its entry points, made safe to call.

use std::{ptr, sync::Arc};

use quorate_core::{
    consensus::{Epoch, LogIndex, MembershipChange, Resume, SnapshotMeta, StartError},
    ids::NodeId,
};

use super::{
    calls::{Call, Calls, NoAnswer},
    library::Table,
    registry::{HOST, Registered},
};
use crate::{
    answer::BATCH_BYTES,
    raw::{self, status},
};

/// A node between `create` and `destroy`. Dropping it destroys it.
pub(super) struct Node {
    table: Table,
    node: *mut raw::Node,
    calls: Arc<Calls>,
    registered: Option<Registered>,
}

// SAFETY: the header demands that entry points may be called from any thread, several at the same time. `destroy` is
// called by `drop`, when no other call can be running.
unsafe impl Send for Node {}
// SAFETY: as above.
unsafe impl Sync for Node {}

impl Node {
    /// Makes a node.
    ///
    /// # Errors
    /// If the library refuses the configuration.
    pub(super) fn create(table: Table, calls: Arc<Calls>, config: &str) -> Result<Self, StartError> {
        let registered = Registered::new(calls.clone());
        let call = calls.begin();
        let mut node = ptr::null_mut();
        let config = raw::Bytes::of(config.as_bytes());
        // SAFETY: a checked table's entry, given what the header says: bytes and an out pointer that live through the
        // call, and a host that lives for ever.
        unsafe { (table.create)(config, &HOST, registered.context(), call.token, &mut node) };
        let made = (!node.is_null()).then(|| Self { table, node, calls, registered: Some(registered) });
        let answer = match call.answer_now() {
            Ok(answer) => answer,
            Err(NoAnswer::Malformed(what)) => return Err(breaks(&format!("answered create with {what}"))),
            Err(NoAnswer::Late | NoAnswer::Ended) => {
                return Err(breaks("returned from create without an answer"));
            }
        };
        match (answer.status, made) {
            (status::OK, Some(node)) => Ok(node),
            (status::OK, None) => Err(breaks("answered create with OK and made no node")),
            (status::STORAGE, _) => Err(StartError::Storage(answer.sentence())),
            (status::FOREIGN, _) => Err(StartError::Foreign(answer.sentence())),
            (status::PANIC, _) => Err(breaks("panicked in create; the lines before this one say where")),
            _ => Err(StartError::Config(answer.sentence())),
        }
    }

    pub(super) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    pub(super) fn start(&self, resume: Resume) -> Call {
        let resume = raw::Resume {
            // The struct is 48 bytes.
            struct_size: size_of::<raw::Resume>() as u32,
            has_log_id: u32::from(resume.log_id.is_some()),
            log_id: resume.log_id.unwrap_or_default().0,
            applied: resume.applied.0,
            chain: resume.chain.0,
        };
        // SAFETY: the node lives, and the resume outlives the call.
        self.call(|token| unsafe { (self.table.start)(self.node, token, &resume) })
    }

    pub(super) fn next_leader(&self, seen: u64) -> Call {
        // SAFETY: the node lives.
        self.call(|token| unsafe { (self.table.next_leader)(self.node, token, seen) })
    }

    pub(super) fn next_committed(&self, after: LogIndex) -> Call {
        // SAFETY: the node lives.
        self.call(|token| unsafe { (self.table.next_committed)(self.node, token, after.0, BATCH_BYTES) })
    }

    pub(super) fn read_snapshot(&self, snapshot: u64, offset: u64) -> Call {
        // SAFETY: the node lives.
        self.call(|token| unsafe { (self.table.read_snapshot)(self.node, token, snapshot, offset) })
    }

    pub(super) fn drop_snapshot(&self, snapshot: u64) {
        // SAFETY: the node lives.
        unsafe { (self.table.drop_snapshot)(self.node, snapshot) }
    }

    pub(super) fn propose(&self, epoch: Epoch, entry: &[u8]) -> Call {
        let entry = raw::Bytes::of(entry);
        // SAFETY: the node lives, and the entry outlives the call.
        self.call(|token| unsafe { (self.table.propose)(self.node, token, epoch.0, entry) })
    }

    pub(super) fn read_barrier(&self) -> Call {
        // SAFETY: the node lives.
        self.call(|token| unsafe { (self.table.read_barrier)(self.node, token) })
    }

    pub(super) fn compact_begin(&self, meta: SnapshotMeta) -> Call {
        let meta = raw::SnapshotMeta {
            index: meta.index.0,
            epoch: meta.epoch.0,
            bytes: meta.bytes,
            chain: meta.chain.0,
        };
        // SAFETY: the node lives, and the head outlives the call.
        self.call(|token| unsafe { (self.table.compact_begin)(self.node, token, &meta) })
    }

    pub(super) fn compact_chunk(&self, snapshot: u64, chunk: &[u8]) -> Call {
        let chunk = raw::Bytes::of(chunk);
        // SAFETY: the node lives, and the chunk outlives the call.
        self.call(|token| unsafe { (self.table.compact_chunk)(self.node, token, snapshot, chunk) })
    }

    pub(super) fn compact_finish(&self, snapshot: u64, keep: bool) -> Call {
        // SAFETY: the node lives.
        self.call(|token| unsafe {
            (self.table.compact_finish)(self.node, token, snapshot, u32::from(keep));
        })
    }

    pub(super) fn change_membership(&self, change: &MembershipChange) -> Call {
        let (kind, NodeId(voter), endpoint) = match change {
            MembershipChange::Add { node, endpoint } => (raw::voter::ADD, *node, endpoint.as_str()),
            MembershipChange::Remove(node) => (raw::voter::REMOVE, *node, ""),
        };
        let endpoint = raw::Bytes::of(endpoint.as_bytes());
        // SAFETY: the node lives, and the endpoint outlives the call.
        self.call(|token| unsafe {
            (self.table.change_membership)(self.node, token, kind, voter, endpoint);
        })
    }

    pub(super) fn resign(&self, epoch: Epoch) -> Call {
        // SAFETY: the node lives.
        self.call(|token| unsafe { (self.table.resign)(self.node, token, epoch.0) })
    }

    pub(super) fn status(&self) -> Call {
        // SAFETY: the node lives.
        self.call(|token| unsafe { (self.table.status)(self.node, token) })
    }

    pub(super) fn shutdown(&self) -> Call {
        // SAFETY: the node lives.
        self.call(|token| unsafe { (self.table.shutdown)(self.node, token) })
    }

    fn call(&self, send: impl FnOnce(u64)) -> Call {
        let call = self.calls.begin();
        send(call.token);
        call
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // From here on the library's callbacks reach nobody.
        self.calls.end();
        drop(self.registered.take());
        // SAFETY: made by `create` and destroyed nowhere else; whoever calls an entry point borrows `self`.
        unsafe { (self.table.destroy)(self.node) }
    }
}

/// The library does not hold to the interface.
fn breaks(what: &str) -> StartError {
    StartError::Config(format!("the library breaks its contract: it {what}"))
}
