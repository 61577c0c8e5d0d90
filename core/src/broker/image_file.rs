//! The durable image: a file in the metadata folder, written beside the old one and renamed, so that a crash at any
//! point leaves a whole one.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use thiserror::Error;

use super::syncs::Syncs;
use crate::{
    consensus::{SNAPSHOT_CHUNK_BYTES, Snapshot, SnapshotMeta},
    metadata::{
        Image,
        snapshot::{Chunks, DecodeError, Reader},
    },
    runtime::{Disk, Open, Runtime},
};

const PREFIX: &str = "image-";
/// Images that stay: the newest, and one before it in case the disk damages the newest.
const KEPT: usize = 2;

/// An image could not be read.
#[derive(Debug, Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The newest whole image in `folder`; an image of nothing if there is none. What is damaged is told, and left.
///
/// # Errors
/// As the system says, if the folder cannot be read.
pub(super) fn load(disk: &dyn Disk, folder: &Path) -> io::Result<Image> {
    for name in names(disk, folder)?.iter().rev() {
        let path = folder.join(name);
        match read(disk, &path) {
            Ok(image) => return Ok(image),
            Err(error) => {
                let path = path.display();
                tracing::error!(%path, %error, "the durable image is not used; an older one or the log takes its place");
            }
        }
    }
    Ok(Image::default())
}

/// Writes `image` durably and removes what is too old. Returns what a backend is told of it.
///
/// # Errors
/// As the system says. After a failed sync nothing is known of the disk.
pub(super) async fn store(
    runtime: &Runtime,
    folder: &Path,
    image: &Arc<Image>,
    syncs: &Syncs,
) -> io::Result<SnapshotMeta> {
    let disk = runtime.disk.as_ref();
    let (path, temporary) = (path(folder, image), folder.join("image.tmp"));
    if disk.exists(&temporary) {
        disk.remove_file(&temporary)?;
    }
    let file = disk.open(&temporary, Open::CreateNew)?;
    let mut bytes = 0;
    for chunk in Chunks::of(image.clone()) {
        file.write_at(&mut [IoSlice::new(&chunk)], bytes)?;
        bytes += chunk.len() as u64;
    }
    {
        let _sync = syncs.begin(runtime.clock.now());
        // A sync that fails for lack of space has failed all the same: what it was for is lost.
        file.sync().await.map_err(io::Error::other)?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(folder)?;
    }
    let names = names(disk, folder)?;
    let old = names.len().saturating_sub(KEPT);
    for name in names.iter().take(old) {
        disk.remove_file(&folder.join(name))?;
    }
    Ok(SnapshotMeta { index: image.index, epoch: image.epoch, chain: image.chain, bytes })
}

/// Writes `image` durably, unless it says nothing or is there already.
///
/// # Errors
/// As the system says.
pub(super) async fn keep(
    runtime: &Runtime,
    folder: &Path,
    image: &Arc<Image>,
    syncs: &Syncs,
) -> io::Result<()> {
    if image.founding.is_none() || runtime.disk.exists(&path(folder, image)) {
        return Ok(());
    }
    store(runtime, folder, image, syncs).await.map(drop)
}

/// The image as a backend takes it.
pub(super) fn snapshot(image: Arc<Image>, meta: SnapshotMeta) -> Snapshot {
    Snapshot { meta, chunks: stream::iter(Chunks::of(image).map(Ok)).boxed() }
}

fn path(folder: &Path, image: &Image) -> PathBuf {
    folder.join(format!("{PREFIX}{:020}", image.index.0))
}

/// The images' names, the oldest first.
fn names(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<String>> {
    let mut names = match disk.list(folder) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    names.retain(|name| name.strip_prefix(PREFIX).is_some_and(|n| n.len() == 20 && n.parse::<u64>().is_ok()));
    names.sort_unstable();
    Ok(names)
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Image, ReadError> {
    let file = disk.open(path, Open::Read)?;
    let mut reader = Reader::new();
    let mut buffer = vec![0; SNAPSHOT_CHUNK_BYTES];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut buffer, at)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        reader.push(bytes)?;
        at += count as u64;
    }
    Ok(reader.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{consensus::LogId, ids::LogIndex};

    fn image(index: u64) -> Arc<Image> {
        Arc::new(Image { index: LogIndex(index), ..Image::new(LogId([1; 16])) })
    }

    #[tokio::test]
    async fn the_newest_whole_image_is_loaded_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let (runtime, syncs) = (Runtime::real(), Syncs::default());
        let disk = runtime.disk.clone();
        assert_eq!(load(disk.as_ref(), &folder.path().join("none")).unwrap(), Image::default());
        for index in [5, 20, 100] {
            let meta = store(&runtime, folder.path(), &image(index), &syncs).await.unwrap();
            assert_eq!(meta.index, LogIndex(index));
        }
        assert_eq!(disk.list(folder.path()).unwrap().len(), 2);
        assert_eq!(load(disk.as_ref(), folder.path()).unwrap(), *image(100));
        std::fs::write(path(folder.path(), &image(100)), b"torn").unwrap();
        assert_eq!(load(disk.as_ref(), folder.path()).unwrap(), *image(20));
    }
}
