//! `meta.properties`, in every log directory: whose directory it is. Kafka's file of version 1, with keys of our own
//! that begin with `quorate.`; keys that we do not know stay as they are.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use uuid::Uuid;

use super::Broker;
use crate::{
    ids::{DirectoryId, NodeId, base64_id, parse_base64_id},
    runtime::{Disk, Runtime, make_folder, read_file, replace_file},
};

const NAME: &str = "meta.properties";

const VERSION: &str = "version";
const CLUSTER: &str = "cluster.id";
const NODE: &str = "node.id";
const DIRECTORY: &str = "directory.id";
const BACKEND: &str = "quorate.consensus";
const GENERATION: &str = "quorate.generation";

/// No such file is longer; Kafka's has four short lines.
const BYTES_MAX: u64 = 64 << 10;

/// What a log directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// Where it is.
    pub folder: PathBuf,
    /// The directory's own identity.
    pub directory: DirectoryId,
    /// The cluster that it belongs to; `None` before one is founded.
    pub cluster: Option<Uuid>,
    /// The generation of the cluster's log that this node follows, from 1.
    pub generation: u64,
    /// All keys, as they stand in the file.
    keys: BTreeMap<String, String>,
}

/// A log directory cannot be used by this node.
#[derive(Debug, Error)]
pub enum MetaError {
    /// The system refused.
    #[error("{folder}: {error}")]
    System {
        /// The directory.
        folder: String,
        /// As the system says.
        error: io::Error,
    },
    /// The file is not what it should be.
    #[error(
        "{file} is damaged: {problem}; restore it, or empty the directory if its records are lost anyway"
    )]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// It is another node's.
    #[error(
        "{folder} belongs to node {found}, this is node {node}: give each node its own folders, or mend node.id"
    )]
    Node {
        /// The directory.
        folder: String,
        /// Whose it is.
        found: String,
        /// Who asked.
        node: NodeId,
    },
    /// The node ran on another backend.
    #[error(
        "{folder} belongs to a cluster whose metadata is kept by {found}, and consensus={backend} is asked for: set \
         consensus={found}, or give the node an empty folder to begin another cluster"
    )]
    Backend {
        /// The directory.
        folder: String,
        /// What it ran on.
        found: String,
        /// What is asked for.
        backend: String,
    },
    /// Directories of two clusters.
    #[error("{first} and {second} belong to different clusters: give each node its own folders back")]
    Clusters {
        /// One directory.
        first: String,
        /// The other.
        second: String,
    },
    /// Directories of two generations.
    #[error(
        "{first} and {second} are of different generations of the cluster's metadata: finish what was begun with \
         'quorate consensus accept-restore FILE'"
    )]
    Generations {
        /// One directory.
        first: String,
        /// The other.
        second: String,
    },
    /// A copied directory.
    #[error(
        "{first} and {second} have the same directory.id: one is a copy of the other; remove the copy from log.dirs"
    )]
    Twice {
        /// One directory.
        first: String,
        /// The other.
        second: String,
    },
}

/// Reads the file of every log directory, and makes a directory and its file where they are missing. The result is in
/// the order of `folders`. Blocks: it is done before anything runs.
///
/// # Errors
/// [`MetaError`], with the remedy.
pub fn open(
    runtime: &Runtime,
    folders: &[PathBuf],
    node: NodeId,
    backend: &str,
) -> Result<Vec<MetaProperties>, MetaError> {
    let disk = runtime.disk.as_ref();
    let mut all: Vec<MetaProperties> = Vec::new();
    let mut fresh = Vec::new();
    for folder in folders {
        let system = |error| MetaError::System { folder: folder.display().to_string(), error };
        make_folder(disk, folder).map_err(system)?;
        let text = read_text(disk, &folder.join(NAME)).map_err(system)?;
        let meta = match text {
            Some(text) => parse(folder, &text)?,
            None => {
                fresh.push(all.len());
                new(folder, DirectoryId(runtime.rng.uuid()), node, backend)
            }
        };
        meta.check(node, backend)?;
        for other in &all {
            meta.compare(other)?;
        }
        all.push(meta);
    }
    let known = all.iter().find_map(|meta| Some((meta.cluster?, meta.generation)));
    for (at, meta) in all.iter_mut().enumerate() {
        if fresh.contains(&at) || (meta.cluster.is_none() && known.is_some()) {
            meta.set_log(known);
            meta.write(disk).map_err(|error| meta.system(error))?;
        }
    }
    Ok(all)
}

/// Refuses directories of two generations: one of them was left behind when an operator took the next generation.
///
/// # Errors
/// [`MetaError::Generations`].
pub fn check_generations(all: &[MetaProperties]) -> Result<(), MetaError> {
    let Some(one) = all.first() else { return Ok(()) };
    match all.iter().find(|meta| meta.generation != one.generation) {
        None => Ok(()),
        Some(other) => Err(MetaError::Generations {
            first: one.folder.display().to_string(),
            second: other.folder.display().to_string(),
        }),
    }
}

/// Waits for the cluster to be founded, then has every directory remember it. Blocks its thread while it writes.
pub async fn remember(broker: Arc<Broker>, mut directories: Vec<MetaProperties>) {
    let mut applied = broker.applied();
    let founded = applied.wait_for(|_| broker.image().founding.is_some());
    tokio::select! { biased;
        () = broker.runtime.tasks.stopping() => return,
        founded = founded => if founded.is_err() { return },
    }
    let Some(founding) = broker.image().founding else { return };
    for directory in &mut directories {
        let joined = directory.join(broker.runtime.disk.as_ref(), founding.cluster, founding.generation);
        if let Err(error) = joined {
            return broker.fail(&directory.system(error).to_string());
        }
    }
}

impl MetaProperties {
    /// Durably writes the cluster, and the generation of its log, into the file, if they are not there yet.
    ///
    /// # Errors
    /// As the system says. After a failed sync nothing is known of the disk.
    pub fn join(&mut self, disk: &dyn Disk, cluster: Uuid, generation: u64) -> io::Result<()> {
        if (self.cluster, self.generation) == (Some(cluster), generation) {
            return Ok(());
        }
        self.set_log(Some((cluster, generation)));
        self.write(disk)
    }

    fn set_log(&mut self, log: Option<(Uuid, u64)>) {
        let Some((cluster, generation)) = log else { return };
        (self.cluster, self.generation) = (Some(cluster), generation);
        self.keys.insert(CLUSTER.to_owned(), base64_id(cluster));
        self.keys.insert(GENERATION.to_owned(), generation.to_string());
    }

    fn check(&self, node: NodeId, backend: &str) -> Result<(), MetaError> {
        let folder = self.folder.display().to_string();
        let found = |key: &str| self.keys.get(key).cloned().unwrap_or_default();
        if found(NODE) != node.to_string() {
            return Err(MetaError::Node { folder, found: found(NODE), node });
        }
        if found(BACKEND) != backend {
            return Err(MetaError::Backend { folder, found: found(BACKEND), backend: backend.to_owned() });
        }
        Ok(())
    }

    fn compare(&self, other: &Self) -> Result<(), MetaError> {
        let (first, second) = (other.folder.display().to_string(), self.folder.display().to_string());
        if self.directory == other.directory {
            return Err(MetaError::Twice { first, second });
        }
        match (self.cluster, other.cluster) {
            (Some(one), Some(another)) if one != another => Err(MetaError::Clusters { first, second }),
            _ => Ok(()),
        }
    }

    fn system(&self, error: io::Error) -> MetaError {
        MetaError::System { folder: self.folder.display().to_string(), error }
    }

    fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut text = String::new();
        for (key, value) in &self.keys {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{key}={value}");
        }
        replace_file(disk, &self.folder.join(NAME), text.as_bytes())
    }
}

fn new(folder: &Path, directory: DirectoryId, node: NodeId, backend: &str) -> MetaProperties {
    let keys = [
        (VERSION, "1".to_owned()),
        (NODE, node.to_string()),
        (DIRECTORY, directory.to_string()),
        (BACKEND, backend.to_owned()),
        (GENERATION, "1".to_owned()),
    ];
    let keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    MetaProperties { folder: folder.to_owned(), directory, cluster: None, generation: 1, keys }
}

fn parse(folder: &Path, text: &str) -> Result<MetaProperties, MetaError> {
    let file = folder.join(NAME).display().to_string();
    let damaged = |problem: String| MetaError::Damaged { file: file.clone(), problem };
    let mut keys = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) =
            line.split_once('=').ok_or_else(|| damaged(format!("'{line}' is not key=value")))?;
        keys.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    match keys.get(VERSION).map(String::as_str) {
        Some("1") => {}
        Some(version) => return Err(damaged(format!("version {version} is not known to this build"))),
        None => return Err(damaged("it has no version".to_owned())),
    }
    if !keys.contains_key(BACKEND) {
        return Err(damaged(format!("it has no {BACKEND}, so Quorate did not write it")));
    }
    let generation = keys.get(GENERATION).and_then(|text| text.parse().ok()).filter(|number| *number > 0);
    let generation = generation.ok_or_else(|| damaged(format!("{GENERATION} is no number from 1")))?;
    let id = |key: &str| {
        keys.get(key).map(|text| parse_base64_id(text).ok_or_else(|| damaged(format!("{key} is no id"))))
    };
    let directory = id(DIRECTORY).transpose()?.ok_or_else(|| damaged(format!("it has no {DIRECTORY}")))?;
    let cluster = id(CLUSTER).transpose()?;
    let (folder, directory) = (folder.to_owned(), DirectoryId(directory));
    Ok(MetaProperties { folder, directory, cluster, generation, keys })
}

fn read_text(disk: &dyn Disk, path: &Path) -> io::Result<Option<String>> {
    match read_file(disk, path, BYTES_MAX) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::RealDisk;

    struct Machine {
        runtime: Runtime,
        root: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            Self { runtime: Runtime::real(), root: tempfile::tempdir().unwrap() }
        }

        fn open(&self, names: &[&str], node: i32, backend: &str) -> Result<Vec<MetaProperties>, MetaError> {
            let folders: Vec<PathBuf> = names.iter().map(|name| self.root.path().join(name)).collect();
            open(&self.runtime, &folders, NodeId(node), backend)
        }

        fn edit(&self, name: &str, change: impl FnOnce(String) -> String) {
            let path = self.root.path().join(name).join(NAME);
            std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
        }
    }

    #[tokio::test]
    async fn a_directory_keeps_its_identity_and_learns_its_cluster() {
        let machine = Machine::new();
        let mut first = machine.open(&["a", "b"], 0, "raftrs").unwrap();
        assert_ne!(first[0].directory, first[1].directory);
        assert_eq!(first[0].cluster, None);
        let cluster = Uuid::from_bytes([7; 16]);
        first[1].join(&RealDisk, cluster, 1).unwrap();
        let again = machine.open(&["a", "b", "c"], 0, "raftrs").unwrap();
        assert_eq!(again[0].directory, first[0].directory);
        assert!(
            again.iter().all(|meta| meta.cluster == Some(cluster)),
            "an added directory joins the others"
        );
    }

    #[tokio::test]
    async fn a_generation_is_taken_by_every_directory_or_the_node_does_not_start() {
        let machine = Machine::new();
        let cluster = Uuid::from_bytes([7; 16]);
        for meta in &mut machine.open(&["a", "b"], 0, "etcd").unwrap() {
            meta.join(&RealDisk, cluster, 1).unwrap();
        }
        machine.open(&["a"], 0, "etcd").unwrap()[0].join(&RealDisk, cluster, 2).unwrap();
        let half = machine.open(&["a", "b"], 0, "etcd").unwrap();
        let refused = check_generations(&half).unwrap_err().to_string();
        assert!(refused.contains("accept-restore"), "{refused}");
        machine.open(&["b"], 0, "etcd").unwrap()[0].join(&RealDisk, cluster, 2).unwrap();
        let whole = machine.open(&["a", "b", "added"], 0, "etcd").unwrap();
        assert!(whole.iter().all(|meta| meta.generation == 2), "{whole:?}");
        assert!(check_generations(&whole).is_ok());
    }

    #[tokio::test]
    async fn keys_that_are_not_ours_stay() {
        let machine = Machine::new();
        machine.open(&["a"], 1, "etcd").unwrap();
        machine.edit("a", |text| text + "#note\nother.key = kept\n");
        let mut all = machine.open(&["a"], 1, "etcd").unwrap();
        all[0].join(&RealDisk, Uuid::from_bytes([7; 16]), 1).unwrap();
        machine.edit("a", |text| {
            assert!(text.contains("other.key=kept\n") && text.contains("version=1\n"), "{text}");
            text
        });
    }

    #[tokio::test]
    async fn a_directory_of_another_node_or_backend_is_refused_with_the_remedy() {
        let machine = Machine::new();
        machine.open(&["a"], 1, "raftrs").unwrap();
        let error = machine.open(&["a"], 2, "raftrs").unwrap_err().to_string();
        assert!(error.contains("belongs to node 1, this is node 2"), "{error}");
        let error = machine.open(&["a"], 1, "etcd").unwrap_err().to_string();
        assert!(error.contains("set consensus=raftrs"), "{error}");
    }

    #[tokio::test]
    async fn a_copied_directory_and_directories_of_two_clusters_are_refused() {
        let machine = Machine::new();
        machine.open(&["a", "b"], 1, "raftrs").unwrap();
        let copy = std::fs::read_to_string(machine.root.path().join("a").join(NAME)).unwrap();
        machine.edit("b", |_| copy);
        let error = machine.open(&["a", "b"], 1, "raftrs").unwrap_err();
        assert!(matches!(error, MetaError::Twice { .. }), "{error}");
        for (name, byte) in [("c", 1), ("d", 2)] {
            let mut made = machine.open(&[name], 1, "raftrs").unwrap();
            made[0].join(&RealDisk, Uuid::from_bytes([byte; 16]), 1).unwrap();
        }
        let error = machine.open(&["c", "d"], 1, "raftrs").unwrap_err();
        assert!(matches!(error, MetaError::Clusters { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_file_is_named() {
        let machine = Machine::new();
        machine.open(&["a"], 1, "raftrs").unwrap();
        for (change, problem) in [
            ("version=1", "version=2"),
            ("directory.id=", "directory.id=x"),
            ("quorate.generation=1", "quorate.generation=0"),
            ("quorate.consensus=raftrs", ""),
            ("version=1", "version"),
        ] {
            let before = std::fs::read_to_string(machine.root.path().join("a").join(NAME)).unwrap();
            machine.edit("a", |text| text.replace(change, problem));
            let error = machine.open(&["a"], 1, "raftrs").unwrap_err();
            assert!(matches!(error, MetaError::Damaged { .. }), "{problem}: {error}");
            machine.edit("a", |_| before);
        }
    }
}
