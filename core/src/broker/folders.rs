//! The folders of partitions in the log directories: found by topic id, made, and taken away. A folder's name is the
//! topic's, as in Kafka; whose it is says its `partition.metadata`, so that a topic that was deleted and created again
//! never gets the old one's records.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{checkpoints::Checkpoints, syncer::Dirty};
use crate::{
    ids::{PartitionId, TopicId, base64_id, parse_base64_id},
    log::{DiskHealth, Handles, LogParts, PageCache, parse_partition_folder, partition_folder},
    planted::{Bug, planted},
    runtime::{Clock, Disk, Open, Rng, Runtime, make_folder, read_file, replace_file},
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
    pub(super) page_cache: PageCache,
    /// See [`crate::log::Opening::rewrite`].
    pub(super) rewrite: bool,
    disk: Arc<dyn Disk>,
    handles: Arc<Handles>,
    clock: Clock,
    directories: Vec<Counted>,
    rng: Rng,
}

struct Counted {
    directory: Arc<LogDirectory>,
    /// Partitions in it.
    count: usize,
}

/// One log directory, as the tasks that keep it share it.
pub(super) struct LogDirectory {
    pub(super) path: PathBuf,
    /// What is to be synced.
    pub(super) dirty: Dirty,
    pub(super) checkpoints: Checkpoints,
    pub(super) health: Arc<DiskHealth>,
}

/// A partition's folder, and the directory that it is in.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) directory: Arc<LogDirectory>,
}

impl Folders {
    pub(super) fn new(runtime: &Runtime, paths: &[PathBuf], page_cache: PageCache) -> Self {
        let disk = &runtime.disk;
        let directory = |path: &PathBuf| Counted {
            directory: Arc::new(LogDirectory {
                path: path.clone(),
                dirty: Dirty::default(),
                checkpoints: Checkpoints::new(disk.clone(), path),
                health: Arc::default(),
            }),
            count: 0,
        };
        Self {
            page_cache,
            rewrite: false,
            disk: disk.clone(),
            handles: Handles::new(OPEN_FILES),
            clock: runtime.clock.clone(),
            directories: paths.iter().map(directory).collect(),
            rng: runtime.rng.clone(),
        }
    }

    /// The directories.
    pub(super) fn directories(&self) -> Vec<Arc<LogDirectory>> {
        self.directories.iter().map(|counted| counted.directory.clone()).collect()
    }

    /// What a log in a directory needs.
    pub(super) fn parts(&self, directory: &LogDirectory) -> LogParts {
        LogParts {
            disk: self.disk.clone(),
            handles: self.handles.clone(),
            clock: self.clock.clone(),
            health: directory.health.clone(),
        }
    }

    fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Looks what is there: ends deletions that a crash has interrupted, and returns the partitions.
    pub(super) fn scan(&mut self) -> io::Result<Vec<(PartitionId, PathBuf)>> {
        let disk = self.disk.clone();
        let mut found = Vec::new();
        for Counted { directory, count } in &mut self.directories {
            make_folder(&*disk, &directory.path)?;
            directory.checkpoints.load()?;
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
                *count += 1;
            }
        }
        Ok(found)
    }

    /// The folder of a partition. Made if it is not there, in the directory with the fewest; what the checkpoints say of
    /// the name is forgotten with a folder that is new. Another partition's of the same name is taken away; one that
    /// holds records and does not say whose is left alone.
    ///
    /// # Errors
    /// As the system says, or a sentence of a folder that must be looked at.
    pub(super) fn place(&mut self, topic: &str, partition: PartitionId) -> io::Result<Place> {
        let name = partition_folder(topic, partition.index);
        let disk = self.disk.clone();
        for at in 0..self.directories.len() {
            let Some(Counted { directory, .. }) = self.directories.get(at) else { continue };
            let path = directory.path.join(&name);
            if !disk.exists(&path) {
                continue;
            }
            if read_topic(&*disk, &path) == Some(partition.topic) || planted(Bug::FindsByName) {
                return Ok(Place { path, directory: directory.clone() });
            }
            if read_topic(&*disk, &path).is_none() && holds_records(&*disk, &path)? {
                return Err(io::Error::other(format!(
                    "{} holds records, and its {METADATA} is missing or cannot be read: bring that file back, or move \
                     the folder away",
                    path.display()
                )));
            }
            self.remove(&path)?;
        }
        let fewest = self.directories.iter_mut().min_by_key(|counted| counted.count);
        let Counted { directory, count } =
            fewest.ok_or_else(|| io::Error::other("there is no log directory"))?;
        directory.checkpoints.forget_durably(topic, partition.index)?;
        let path = directory.path.join(&name);
        disk.create_dir_all(&path)?;
        let content = format!("version: 0\ntopic_id: {}\n", base64_id(partition.topic.0));
        replace_file(&*disk, &path.join(METADATA), content.as_bytes())?;
        disk.sync_dir(&directory.path)?;
        *count += 1;
        Ok(Place { path, directory: directory.clone() })
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
            let mut all = self.directories.iter_mut();
            if let Some(Counted { directory, count }) = all.find(|counted| counted.directory.path == parent) {
                *count = count.saturating_sub(1);
                if let Some((topic, index)) = parse_partition_folder(&name) {
                    directory.checkpoints.forget(topic, index);
                }
            }
        }
        self.disk().remove_dir_all(&gone)
    }

    /// Takes a partition's folder away.
    pub(super) fn remove_partition(&mut self, topic: &str, partition: PartitionId) -> io::Result<()> {
        let name = partition_folder(topic, partition.index);
        let paths: Vec<PathBuf> =
            self.directories.iter().map(|counted| counted.directory.path.join(&name)).collect();
        paths.iter().try_for_each(|path| self.remove_if(path, partition.topic))
    }

    /// Takes a folder away, if it is of that topic: another one of the same name may have taken its place.
    pub(super) fn remove_if(&mut self, path: &Path, topic: TopicId) -> io::Result<()> {
        if planted(Bug::FindsByName) {
            return Ok(());
        }
        if read_topic(self.disk(), path) == Some(topic) { self.remove(path) } else { Ok(()) }
    }
}

/// Whether a folder has a segment that is not empty.
fn holds_records(disk: &dyn Disk, folder: &Path) -> io::Result<bool> {
    for name in disk.list(folder)?.iter().filter(|name| name.ends_with(".log")) {
        if disk.open(&folder.join(name), Open::Read)?.len()? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The topic whose folder it is; `None` if it does not say.
pub(super) fn read_topic(disk: &dyn Disk, folder: &Path) -> Option<TopicId> {
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

        disk.open(&first.join("00000000000000000000.log"), Open::Write).unwrap();
        folders.remove_partition("orders", partition(8, 0)).unwrap();
        assert!(disk.exists(&first), "another topic's folder stays");
        let again = folders.place("orders", partition(8, 0)).unwrap().path;
        assert_eq!(disk.list(&again).unwrap(), [METADATA], "a topic of the same name begins empty");
        folders.remove_partition("orders", partition(8, 0)).unwrap();
        assert!(!disk.exists(&again));
    }
    #[tokio::test]
    async fn records_that_do_not_say_whose_they_are_are_left_alone() {
        let (disk, runtime) = bench();
        let mut folders = Folders::new(&runtime, &["/a".into()], PageCache::Kept);
        let path = folders.place("orders", partition(7, 0)).unwrap().path;
        disk.remove_file(&path.join(METADATA)).unwrap();
        let segment = disk.open(&path.join("00000000000000000000.log"), Open::Write).unwrap();
        segment.write_at(&mut [io::IoSlice::new(b"records")], 0).unwrap();
        let problem = folders.place("orders", partition(7, 0)).map(|place| place.path).unwrap_err();
        assert!(problem.to_string().contains("partition.metadata is missing"), "{problem}");
        assert!(disk.exists(&path));
        segment.set_len(0).unwrap();
        assert_eq!(folders.place("orders", partition(7, 0)).unwrap().path, path, "a crash while it was made");
    }
}
