//! Small habits of writing files so that a crash at any point leaves the old or the new, and never a mixture.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use quorate_core::runtime::{Disk, DiskFile, Open, TaskScope};
use tokio::sync::oneshot;

use crate::codec::slice;

/// The ending of a file that is not finished: whoever opens the folder removes it.
pub const UNFINISHED: &str = ".new";

/// Whether an error says that there is no space, for now.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The path under which a file is made before it gets its name.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    PathBuf::from(name)
}

/// Makes a file with `contents`, durably and under its final name only when it is whole: written aside, synced,
/// renamed, the folder synced. An existing file is replaced. Returns the open file.
///
/// # Errors
/// As the disk says. After an error of a sync the file may be there or not: do not try again.
pub async fn create_whole(
    disk: &Arc<dyn Disk>,
    path: &Path,
    contents: &[u8],
) -> io::Result<Arc<dyn DiskFile>> {
    let aside = unfinished(path);
    let file = disk.open(&aside, Open::Write)?;
    file.set_len(0)?;
    file.write_at(&mut slice(contents), 0)?;
    file.sync().await?;
    disk.rename(&aside, path)?;
    disk.sync_dir(parent(path))?;
    Ok(file)
}

/// Reads a whole file; [`io::ErrorKind::InvalidData`] if it is longer than `cap` bytes.
///
/// # Errors
/// As the disk says.
pub fn read_whole(file: &dyn DiskFile, cap: u64) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > cap {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, more than {cap}")));
    }
    let mut contents = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?];
    let read = file.read_at(&mut contents, 0)?;
    contents.truncate(read);
    Ok(contents)
}

/// Makes a folder, and those above it, and syncs each new name.
///
/// # Errors
/// As the disk says.
pub fn create_folder(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<()> {
    if disk.exists(path) {
        return Ok(());
    }
    let above = parent(path);
    create_folder(disk, above)?;
    disk.create_dir_all(path)?;
    disk.sync_dir(above)
}

/// Removes what a crash left unfinished in a folder. Needs no sync: it is removed again if it comes back.
///
/// # Errors
/// As the disk says.
pub fn remove_unfinished(disk: &Arc<dyn Disk>, folder: &Path) -> io::Result<()> {
    for name in disk.list(folder)? {
        if name.ends_with(UNFINISHED) {
            disk.remove_file(&folder.join(name))?;
        }
    }
    Ok(())
}

/// Runs work that may block its thread for long, as a sync does, on a thread made for it. `None` if the scope was
/// killed before the work ended.
pub(crate) async fn on_a_thread<T: Send + 'static>(
    tasks: &TaskScope,
    name: &str,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (done, answer) = oneshot::channel();
    tasks.spawn_thread(name, async move {
        // Whoever asked may be gone.
        let _gone = done.send(work.await);
    });
    answer.await.ok()
}

pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
