//! The files in one partition's folder, opened when they are needed.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    handles::{HandleKey, Handles},
    names::{Kind, file_path},
};
use crate::{
    ids::Offset,
    runtime::{Disk, DiskFile, Open},
};

/// One partition's folder.
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    handles: Arc<Handles>,
    log: u64,
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, handles: Arc<Handles>, dir: PathBuf) -> Self {
        let log = handles.next_log();
        Self { disk, dir, handles, log }
    }

    fn key(&self, base: Offset, kind: Kind) -> HandleKey {
        HandleKey { log: self.log, base, kind }
    }

    pub(super) fn path(&self, base: Offset, kind: Kind) -> PathBuf {
        file_path(&self.dir, base, kind)
    }

    /// An existing file. It must not be made here: a file that vanished is an error, not an empty log.
    pub(super) fn open(&self, base: Offset, kind: Kind) -> io::Result<Arc<dyn DiskFile>> {
        self.handles.get(self.key(base, kind), || {
            let path = self.path(base, kind);
            if !self.disk.exists(&path) {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{} has vanished", path.display()),
                ));
            }
            self.disk.open(&path, Open::Write)
        })
    }

    /// A new file, empty whatever lay there: what is left of a removal that a crash undid is worth nothing.
    pub(super) fn create(&self, base: Offset, kind: Kind) -> io::Result<Arc<dyn DiskFile>> {
        self.handles.forget(self.key(base, kind));
        let file =
            self.handles.get(self.key(base, kind), || self.disk.open(&self.path(base, kind), Open::Write))?;
        if !file.is_empty()? {
            file.set_len(0)?;
        }
        Ok(file)
    }

    /// Removes a file, if it is there. Who still reads it goes on reading.
    pub(super) fn remove(&self, base: Offset, kind: Kind) -> io::Result<()> {
        self.handles.forget(self.key(base, kind));
        match self.disk.remove_file(&self.path(base, kind)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Closes a file that is at rest.
    pub(super) fn close(&self, base: Offset, kind: Kind) {
        self.handles.forget(self.key(base, kind));
    }
}
