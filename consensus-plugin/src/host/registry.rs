//! Which context of a callback is which node's. A context is a number and no address, so that a library that calls
//! back after its node has gone reaches nothing.

use std::{
    collections::BTreeMap,
    ffi::c_void,
    panic::catch_unwind,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;

use super::calls::Calls;
use crate::raw;

static NEXT: AtomicUsize = AtomicUsize::new(1);
static NODES: RwLock<BTreeMap<usize, Arc<Calls>>> = RwLock::new(BTreeMap::new());

/// What a log line may have, in bytes; the rest is cut.
const LOG_BYTES: usize = 16 << 10;

/// The host's functions, valid for ever.
pub(super) static HOST: raw::Host = raw::Host {
    // The struct is 24 bytes.
    struct_size: size_of::<raw::Host>() as u32,
    abi_major: raw::ABI_MAJOR,
    abi_minor: raw::ABI_MINOR,
    complete,
    log,
};

/// The place of one node's calls in the registry, until it is dropped.
#[derive(Debug)]
pub(super) struct Registered(usize);

impl Registered {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        NODES.write().insert(number, calls);
        Self(number)
    }

    /// What the library is given as `ctx`.
    pub(super) fn context(&self) -> *mut c_void {
        ptr::without_provenance_mut(self.0)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        NODES.write().remove(&self.0);
    }
}

fn find(context: *mut c_void) -> Option<Arc<Calls>> {
    NODES.read().get(&context.addr()).cloned()
}

unsafe extern "C" fn complete(context: *mut c_void, token: u64, reply: *const raw::Reply) {
    // Nothing unwinds into the library; a panic of ours leaves the caller's answer missing, which it then says.
    let _ = catch_unwind(|| {
        if let Some(calls) = find(context) {
            // SAFETY: the library passes a reply that it leaves alone until this call returns, says the header.
            unsafe { calls.complete(token, reply) };
        }
    });
}

unsafe extern "C" fn log(context: *mut c_void, level: u32, target: raw::Bytes, message: raw::Bytes) {
    let _ = catch_unwind(|| {
        let Some(calls) = find(context) else { return };
        // SAFETY: the library passes bytes that it leaves alone until this call returns, says the header.
        let (target, message) = unsafe { (text(target), text(message)) };
        let library = calls.library();
        match level {
            1 => tracing::error!(target: "plugin", library, origin = %target, "{message}"),
            2 => tracing::warn!(target: "plugin", library, origin = %target, "{message}"),
            3 => tracing::info!(target: "plugin", library, origin = %target, "{message}"),
            _ => tracing::debug!(target: "plugin", library, origin = %target, "{message}"),
        }
    });
}

/// # Safety
/// As [`raw::Bytes::as_slice`].
unsafe fn text(bytes: raw::Bytes) -> String {
    let cut = raw::Bytes { len: bytes.len.min(LOG_BYTES), ..bytes };
    // SAFETY: by this function's own contract; a part of what is readable is readable.
    let slice = unsafe { cut.as_slice(LOG_BYTES) };
    String::from_utf8_lossy(slice.unwrap_or_default()).into_owned()
}
