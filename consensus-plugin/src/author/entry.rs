//! The entry points: where C becomes Rust, and a panic becomes an answer.
//!
//! Each is given a node that [`create`] made and [`destroy`] has not ended, and bytes that are readable until it
//! returns, as the header demands of the host; that is the safety contract of every function here.

use std::{
    ffi::c_void,
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use quorate_core::consensus::{
    Chain, Epoch, LogId, LogIndex, MembershipChange, NodeId, Resume, SNAPSHOT_CHUNK_BYTES, SnapshotMeta,
    StartError,
};

use super::{
    Author,
    link::Link,
    node::{Node, refused},
};
use crate::{
    answer::Answer,
    raw::{self, status, voter},
};

/// A configuration is not longer.
const CONFIG_BYTES: usize = 1 << 20;
/// `host:port` is not longer.
const ENDPOINT_BYTES: usize = 4 << 10;
/// No host proposes more: the most that a table may declare.
const PROPOSAL_BYTES: usize = 16 << 20;

pub(super) unsafe extern "C" fn create<A: Author>(
    config: raw::Bytes,
    host: *const raw::Host,
    context: *mut c_void,
    token: u64,
    out: *mut *mut raw::Node,
) {
    if host.is_null() || out.is_null() {
        return;
    }
    // SAFETY: the host gives its own functions, which stay valid for ever.
    let refusal = unsafe { Link::new(host, context) };
    let body = || {
        // SAFETY: the configuration is readable until this call returns.
        let text = unsafe { config.as_slice(CONFIG_BYTES) }.and_then(|text| std::str::from_utf8(text).ok());
        let Some(text) = text else {
            return Err(StartError::Config("the configuration is not UTF-8, or too long".to_owned()));
        };
        // SAFETY: as for the refusal.
        let link = unsafe { Link::new(host, context) };
        Node::new::<A>(link, text)
    };
    let answer = match catch_unwind(body) {
        Ok(Ok(node)) => {
            // SAFETY: `out` is not null, and the host's own variable.
            unsafe { out.write(Arc::into_raw(node).cast_mut().cast()) };
            Answer::of(status::OK)
        }
        Ok(Err(error)) => refused(&error),
        Err(_) => Answer::of(status::PANIC),
    };
    refusal.complete(token, &answer);
}

pub(super) unsafe extern "C" fn destroy(node: *mut raw::Node) {
    // SAFETY: made by `create`, and this is its end.
    let node = unsafe { Arc::from_raw(node.cast_const().cast::<Node>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| node.destroy()));
    let _ = catch_unwind(AssertUnwindSafe(|| drop(node)));
}

/// Runs the body of an entry point; if it panics, that is the answer.
///
/// # Safety
/// As the whole file.
unsafe fn guard(node: *mut raw::Node, token: u64, body: impl FnOnce(&Arc<Node>)) {
    // SAFETY: made by `create` and not destroyed, so that the count of owners is at least one while this call runs.
    let node = ManuallyDrop::new(unsafe { Arc::from_raw(node.cast_const().cast::<Node>()) });
    if catch_unwind(AssertUnwindSafe(|| body(&node))).is_err() {
        node.complete(token, &Answer::of(status::PANIC));
    }
}

/// The bytes that a host lends, copied.
///
/// # Safety
/// As the whole file.
unsafe fn copy(bytes: raw::Bytes, most: usize) -> Option<Bytes> {
    // SAFETY: readable until the entry point returns.
    unsafe { bytes.as_slice(most) }.map(Bytes::copy_from_slice)
}

pub(super) unsafe extern "C" fn start(node: *mut raw::Node, token: u64, resume: *const raw::Resume) {
    let body = |node: &Arc<Node>| {
        // SAFETY: the host's own struct, readable until this call returns, unless it is null.
        let Some(resume) = (unsafe { resume.as_ref() }) else {
            return node
                .complete(token, &Answer::because(status::CONFIG, "no place in the log to start from"));
        };
        let log_id = (resume.has_log_id != 0).then_some(LogId(resume.log_id));
        let (applied, chain) = (LogIndex(resume.applied), Chain(resume.chain));
        node.start(token, Resume { log_id, applied, chain });
    };
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, body) }
}

pub(super) unsafe extern "C" fn next_leader(node: *mut raw::Node, token: u64, seen: u64) {
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, |node| node.next_leader(token, seen)) }
}

pub(super) unsafe extern "C" fn next_committed(node: *mut raw::Node, token: u64, after: u64, bytes_max: u32) {
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, |node| node.next_committed(token, LogIndex(after), bytes_max)) }
}

pub(super) unsafe extern "C" fn read_snapshot(node: *mut raw::Node, token: u64, snapshot: u64, offset: u64) {
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, |node| node.read_snapshot(token, snapshot, offset)) }
}

pub(super) unsafe extern "C" fn drop_snapshot(node: *mut raw::Node, snapshot: u64) {
    // SAFETY: by the contract of this file. Token 0 is nobody's.
    unsafe { guard(node, 0, |node| node.outgoing.close(snapshot)) }
}

pub(super) unsafe extern "C" fn propose(node: *mut raw::Node, token: u64, epoch: u64, entry: raw::Bytes) {
    let body = |node: &Arc<Node>| {
        // SAFETY: by the contract of this file.
        match unsafe { copy(entry, PROPOSAL_BYTES) } {
            Some(entry) => node.propose(token, Epoch(epoch), entry),
            None => node.complete(token, &Answer::of(status::TOO_LARGE)),
        }
    };
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, body) }
}

pub(super) unsafe extern "C" fn read_barrier(node: *mut raw::Node, token: u64) {
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, |node| node.read_barrier(token)) }
}

pub(super) unsafe extern "C" fn compact_begin(
    node: *mut raw::Node,
    token: u64,
    meta: *const raw::SnapshotMeta,
) {
    let body = |node: &Arc<Node>| {
        // SAFETY: the host's own struct, readable until this call returns, unless it is null.
        let Some(meta) = (unsafe { meta.as_ref() }) else {
            return node.complete(token, &Answer::because(status::SNAPSHOT, "a snapshot without a head"));
        };
        let meta = SnapshotMeta {
            index: LogIndex(meta.index),
            epoch: Epoch(meta.epoch),
            chain: Chain(meta.chain),
            bytes: meta.bytes,
        };
        node.compact_begin(token, meta);
    };
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, body) }
}

pub(super) unsafe extern "C" fn compact_chunk(
    node: *mut raw::Node,
    token: u64,
    snapshot: u64,
    chunk: raw::Bytes,
) {
    let body = |node: &Arc<Node>| {
        // SAFETY: by the contract of this file.
        match unsafe { copy(chunk, SNAPSHOT_CHUNK_BYTES) } {
            Some(chunk) => node.compact_chunk(token, snapshot, chunk),
            None => node.complete(token, &Answer::because(status::SNAPSHOT, "a chunk above 1 MiB")),
        }
    };
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, body) }
}

pub(super) unsafe extern "C" fn compact_finish(node: *mut raw::Node, token: u64, snapshot: u64, keep: u32) {
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, |node| node.compact_finish(token, snapshot, keep != 0)) }
}

pub(super) unsafe extern "C" fn change_membership(
    node: *mut raw::Node,
    token: u64,
    change: u32,
    voter: i32,
    endpoint: raw::Bytes,
) {
    let body = |node: &Arc<Node>| {
        // SAFETY: by the contract of this file.
        let endpoint = unsafe { copy(endpoint, ENDPOINT_BYTES) };
        let endpoint = endpoint.and_then(|endpoint| String::from_utf8(endpoint.into()).ok());
        let (voter, unsupported) = (NodeId(voter), Answer::of(status::UNSUPPORTED));
        match (change, endpoint) {
            (voter::ADD, Some(endpoint)) => {
                node.change_membership(token, MembershipChange::Add { node: voter, endpoint });
            }
            (voter::REMOVE, _) => node.change_membership(token, MembershipChange::Remove(voter)),
            _ => node.complete(token, &unsupported),
        }
    };
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, body) }
}

pub(super) unsafe extern "C" fn resign(node: *mut raw::Node, token: u64, epoch: u64) {
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, |node| node.resign(token, Epoch(epoch))) }
}

pub(super) unsafe extern "C" fn status(node: *mut raw::Node, token: u64) {
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, |node| node.status(token)) }
}

pub(super) unsafe extern "C" fn shutdown(node: *mut raw::Node, token: u64) {
    // SAFETY: by the contract of this file.
    unsafe { guard(node, token, |node| node.shutdown(token)) }
}
