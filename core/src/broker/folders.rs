//! The folders of partitions in the log directories: found by topic id, made, and taken away. A folder's name is the
//! topic's, as in Kafka; whose it is says its `partition.metadata`, so that a topic that was deleted and created again
//! never gets the old one's records.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::syncer::Dirty;
use crate::{
    ids::{PartitionId, TopicId, base64_id, parse_base64_id},
    log::{Handles, LogParts, PageCache, parse_partition_folder, partition_folder},
    runtime::{Disk, Rng, Runtime, make_folder, read_file, replace_file},
};

const METADATA: &str = "partition.metadata";
/// Kafka's file has two short lines.
const METADATA_BYTES_MAX: u64 = 1024;
/// How the name of a folder ends that is being taken away.
const DELETED: &str = "-delete";

/// Files that logs keep open at rest. Small, because a process may be allowed a thousand, and connections need them.
const OPEN_FILES: usize = 512;

/// All log directories of a node.
pub(super) struct Folders {
    pub(super) parts: LogParts,
    pub(super) page_cache: PageCache,
    directories: Vec<Directory>,
    rng: Rng,
}

struct Directory {
    path: PathBuf,
    dirty: Dirty,
    /// Partitions in it.
    count: usize,
}

/// A partition's folder, and where its syncs are asked for.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) dirty: Dirty,
}

impl Folders {
    pub(super) fn new(runtime: &Runtime, paths: &[PathBuf], page_cache: PageCache) -> Self {
        let directory = |path: &PathBuf| Directory { path: path.clone(), dirty: Dirty::default(), count: 0 };
        Self {
            parts: LogParts {
                disk: runtime.disk.clone(),
                handles: Handles::new(OPEN_FILES),
                clock: runtime.clock.clone(),
            },
            page_cache,
            directories: paths.iter().map(directory).collect(),
            rng: runtime.rng.clone(),
        }
    }

    /// What is to be synced in each directory.
    pub(super) fn dirty(&self) -> Vec<Dirty> {
        self.directories.iter().map(|directory| directory.dirty.clone()).collect()
    }

    fn disk(&self) -> &dyn Disk {
        &*self.parts.disk
    }

    /// Looks what is there: ends deletions that a crash has interrupted, and returns the partitions.
    pub(super) fn scan(&mut self) -> io::Result<Vec<(PartitionId, PathBuf)>> {
        let disk = self.parts.disk.clone();
        let mut found = Vec::new();
        for directory in &mut self.directories {
            make_folder(&*disk, &directory.path)?;
            for name in disk.list(&directory.path)? {
                let path = directory.path.join(&name);
                if name.ends_with(DELETED) {
                    disk.remove_dir_all(&path)?;
                    continue;
                }
                let Some((_, index)) = parse_partition_folder(&name) else { continue };
                match read_topic(&*disk, &path) {
                    Some(topic) => found.push((PartitionId { topic, index }, path)),
                    None => {
                        tracing::warn!("{}: no {METADATA} that can be read; it is left alone", path.display())
                    }
                }
                directory.count += 1;
            }
        }
        Ok(found)
    }

    /// The folder of a partition. Made if it is not there, in the directory with the fewest; another partition's of the
    /// same name is taken away.
    pub(super) fn place(&mut self, topic: &str, partition: PartitionId) -> io::Result<Place> {
        let name = partition_folder(topic, partition.index);
        let disk = self.parts.disk.clone();
        for at in 0..self.directories.len() {
            let Some(directory) = self.directories.get(at) else { continue };
            let path = directory.path.join(&name);
            if !disk.exists(&path) {
                continue;
            }
            if read_topic(&*disk, &path) == Some(partition.topic) {
                return Ok(Place { path, dirty: directory.dirty.clone() });
            }
            self.remove(&path)?;
        }
        let fewest = self.directories.iter_mut().min_by_key(|directory| directory.count);
        let directory = fewest.ok_or_else(|| io::Error::other("there is no log directory"))?;
        let path = directory.path.join(&name);
        disk.create_dir_all(&path)?;
        let content = format!("version: 0\ntopic_id: {}\n", base64_id(partition.topic.0));
        replace_file(&*disk, &path.join(METADATA), content.as_bytes())?;
        disk.sync_dir(&directory.path)?;
        directory.count += 1;
        Ok(Place { path, dirty: directory.dirty.clone() })
    }

    /// Takes a folder away: first its name, so that a crash leaves nothing that looks like a partition.
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        if !self.disk().exists(path) {
            return Ok(());
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let gone = path.with_file_name(format!("{name}.{}{DELETED}", self.rng.uuid().simple()));
        self.disk().rename(path, &gone)?;
        if let Some(parent) = path.parent() {
            self.disk().sync_dir(parent)?;
            if let Some(directory) = self.directories.iter_mut().find(|directory| directory.path == parent) {
                directory.count = directory.count.saturating_sub(1);
            }
        }
        self.disk().remove_dir_all(&gone)
    }

    /// Takes a partition's folder away.
    pub(super) fn remove_partition(&mut self, topic: &str, partition: PartitionId) -> io::Result<()> {
        let name = partition_folder(topic, partition.index);
        let paths: Vec<PathBuf> =
            self.directories.iter().map(|directory| directory.path.join(&name)).collect();
        paths.iter().try_for_each(|path| self.remove_if(path, partition.topic))
    }

    /// Takes a folder away, if it is of that topic: another one of the same name may have taken its place.
    pub(super) fn remove_if(&mut self, path: &Path, topic: TopicId) -> io::Result<()> {
        if read_topic(self.disk(), path) == Some(topic) { self.remove(path) } else { Ok(()) }
    }
}

/// The topic whose folder it is; `None` if it does not say.
fn read_topic(disk: &dyn Disk, folder: &Path) -> Option<TopicId> {
    let content = read_file(disk, &folder.join(METADATA), METADATA_BYTES_MAX).ok()?;
    let text = String::from_utf8(content).ok()?;
    let id = text.lines().find_map(|line| line.strip_prefix("topic_id: "))?;
    parse_base64_id(id.trim()).map(TopicId)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::{
        Clock, TaskScope,
        simulated::{Keep, SimulatedDisk, SimulatedNetwork},
    };

    fn bench() -> (SimulatedDisk, Runtime) {
        let (clock, _) = Clock::simulated(0);
        let disk = SimulatedDisk::new(clock.clone(), Rng::seeded(1));
        disk.mount("/a".as_ref()).unwrap();
        disk.mount("/b".as_ref()).unwrap();
        let tasks = TaskScope::single_threaded();
        let network = SimulatedNetwork::new(clock.clone(), Rng::seeded(2), tasks.clone());
        let runtime = Runtime {
            clock,
            rng: Rng::seeded(3),
            disk: Arc::new(disk.clone()),
            network: network.machine("one"),
            tasks,
        };
        (disk, runtime)
    }

    fn partition(topic: u128, index: i32) -> PartitionId {
        PartitionId { topic: TopicId(uuid::Uuid::from_u128(topic)), index }
    }

    #[tokio::test]
    async fn partitions_are_spread_found_again_and_told_apart_by_topic_id() {
        let (disk, runtime) = bench();
        let paths = ["/a".into(), "/b".into()];
        let mut folders = Folders::new(&runtime, &paths, PageCache::Kept);
        assert!(folders.scan().unwrap().is_empty());
        let first = folders.place("orders", partition(7, 0)).unwrap().path;
        let second = folders.place("orders", partition(7, 1)).unwrap().path;
        assert_ne!(first.parent(), second.parent());
        assert_eq!(folders.place("orders", partition(7, 0)).unwrap().path, first);

        disk.crash(Keep::None);
        let mut folders = Folders::new(&runtime, &paths, PageCache::Kept);
        let mut found = folders.scan().unwrap();
        found.sort();
        assert_eq!(found, [(partition(7, 0), first.clone()), (partition(7, 1), second)]);

        disk.open(&first.join("00000000000000000000.log"), crate::runtime::Open::Write).unwrap();
        folders.remove_partition("orders", partition(8, 0)).unwrap();
        assert!(disk.exists(&first), "another topic's folder stays");
        let again = folders.place("orders", partition(8, 0)).unwrap().path;
        assert_eq!(disk.list(&again).unwrap(), [METADATA], "a topic of the same name begins empty");
        folders.remove_partition("orders", partition(8, 0)).unwrap();
        assert!(!disk.exists(&again));
    }
}
