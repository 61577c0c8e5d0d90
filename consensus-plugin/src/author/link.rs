//! The way back to the host.

use std::{
    ffi::c_void,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{answer::Answer, raw};

/// Answers calls and passes log lines, until it is closed.
#[derive(Debug)]
pub(super) struct Link {
    host: *const raw::Host,
    context: *mut c_void,
    closed: AtomicBool,
}

// SAFETY: the host's struct stays valid for ever, its functions may be called from any thread, and the context is only
// handed back to them.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

impl Link {
    /// # Safety
    /// `host` must be what `create` was given, and not null.
    pub(super) unsafe fn new(host: *const raw::Host, context: *mut c_void) -> Self {
        Self { host, context, closed: AtomicBool::new(false) }
    }

    /// From now on nothing of the host is called.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(super) fn complete(&self, token: u64, answer: &Answer) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        answer.lend(|reply| {
            // SAFETY: the host is valid for ever, and the reply outlives the call.
            unsafe { ((*self.host).complete)(self.context, token, reply) }
        });
    }

    pub(super) fn log(&self, level: u32, target: &str, message: &str) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        let (target, message) = (raw::Bytes::of(target.as_bytes()), raw::Bytes::of(message.as_bytes()));
        // SAFETY: the host is valid for ever, and the texts outlive the call.
        unsafe { ((*self.host).log)(self.context, level, target, message) }
    }
}
