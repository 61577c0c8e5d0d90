//! How the disk under a log directory is, as its logs find out.

use std::{
    io,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

/// The state of one log directory's disk; its logs share it.
#[derive(Debug, Default)]
pub struct DiskHealth {
    full: AtomicBool,
    failure: OnceLock<String>,
    failed: Notify,
}

impl DiskHealth {
    /// Whether records of clients are to be refused, because what space is left is needed for other things.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Says whether there is too little space; returns whether that is news.
    pub fn set_full(&self, full: bool) -> bool {
        self.full.swap(full, Ordering::Relaxed) != full
    }

    /// The first failure that was no lack of space.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Waits for a failure.
    pub async fn failed(&self) -> &str {
        loop {
            let failed = self.failed.notified();
            if let Some(failure) = self.failure() {
                return failure;
            }
            failed.await;
        }
    }

    /// Takes in an error of the system. A lack of space passes. A file that is not there, or too short, may be that of a
    /// partition that is being removed, and a lack of descriptors is not the disk's: neither says anything of it.
    pub(super) fn note(&self, path: &Path, error: &io::Error) {
        use rustix::io::Errno;
        let code = Errno::from_io_error(error);
        match (error.kind(), code) {
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => {
                if self.set_full(true) {
                    tracing::error!("{}: {error}: records of clients are refused", path.display());
                }
            }
            (io::ErrorKind::NotFound, _) | (_, None | Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {}
            _ => {
                let first = self.failure.set(format!("{}: {error}", path.display())).is_ok();
                if first {
                    self.failed.notify_waiters();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lack_of_space_passes_and_a_failure_stays() {
        let health = DiskHealth::default();
        let note = |code: rustix::io::Errno| health.note("/data/orders-0".as_ref(), &code.into());
        note(rustix::io::Errno::NOSPC);
        assert!(health.is_full());
        assert!(health.set_full(false));
        note(rustix::io::Errno::MFILE);
        health.note("/data".as_ref(), &io::ErrorKind::NotFound.into());
        assert_eq!(health.failure(), None);
        note(rustix::io::Errno::IO);
        note(rustix::io::Errno::ROFS);
        assert!(health.failed().await.starts_with("/data/orders-0: "));
        assert!(!health.is_full());
    }
}
