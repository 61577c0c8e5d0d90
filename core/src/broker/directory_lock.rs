//! The lock that keeps two processes out of one folder: Kafka's `.lock` file.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::runtime::{Runtime, make_folder};

const NAME: &str = ".lock";

/// Folders that no other process can use while this lives.
#[must_use = "the folders are free again once this is dropped"]
pub struct DirectoryLocks {
    _held: Vec<Box<dyn Send + Sync>>,
}

/// A folder cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{} is in use by another process: stop that one first, or give this node a folder of its own",
        .0.display()
    )]
    InUse(PathBuf),
    /// The same folder twice.
    #[error("{} is named twice in log.dirs: name it once", .0.display())]
    Twice(PathBuf),
    /// The system refused.
    #[error("{}: {error}", folder.display())]
    System {
        /// The folder.
        folder: PathBuf,
        /// As the system says.
        error: io::Error,
    },
}

/// Locks every folder, which is made if it is not there. Before anything in it is read.
///
/// # Errors
/// [`LockError`], with the remedy.
pub fn lock(runtime: &Runtime, folders: &[PathBuf]) -> Result<DirectoryLocks, LockError> {
    let disk = &runtime.disk;
    let mut held = Vec::new();
    for (at, folder) in folders.iter().enumerate() {
        if folders.iter().take(at).any(|other| other == folder) {
            return Err(LockError::Twice(folder.clone()));
        }
        let locked = make_folder(&**disk, folder).and_then(|()| disk.lock(&folder.join(NAME)));
        held.push(locked.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LockError::InUse(folder.clone()),
            _ => LockError::System { folder: folder.clone(), error },
        })?);
    }
    Ok(DirectoryLocks { _held: held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_used_by_one_process_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let folders = [root.path().join("a"), root.path().join("b")];
        let runtime = Runtime::real();
        let first = lock(&runtime, &folders).unwrap();
        // Another open of the file is as good as another process.
        let error = lock(&runtime, &folders[1..]).err().unwrap().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        drop(first);
        let _again = lock(&runtime, &folders).unwrap();
        let twice = [folders[0].clone(), folders[0].clone()];
        assert!(lock(&runtime, &twice).is_err());
    }
}
