//! The data folder of `quorate dev`: what it holds, and who uses it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use crate::config::properties;

const RECORD: &str = "dev.properties";
const LOCK: &str = "dev.lock";

/// What a folder was made with, or what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How many nodes.
    pub(crate) nodes: u16,
    /// The backend.
    pub(crate) consensus: String,
    /// The first port.
    pub(crate) port: u16,
}

/// What the command line asks for; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) nodes: Option<u16>,
    pub(crate) consensus: Option<String>,
    pub(crate) port: Option<u16>,
}

/// The folder cannot be used so.
#[derive(Debug, Error)]
pub(crate) enum FolderError {
    /// It holds another cluster than the one asked for.
    #[error(
        "{folder} holds {has}, not {wanted}: leave the flag out to start what it holds, choose another folder with \
         --data-dir, or delete this one to begin anew"
    )]
    Other { folder: String, has: String, wanted: String },
    /// It is not ours.
    #[error("{0} is not empty, and 'quorate dev' did not make it: choose another folder with --data-dir")]
    Foreign(String),
    /// Its record cannot be understood.
    #[error("{0} is damaged ({1}): delete the folder to begin anew")]
    Damaged(String, String),
    /// Another `quorate dev` runs on it.
    #[error("another 'quorate dev' is running on {0}: stop it, or choose another folder with --data-dir")]
    InUse(String),
    /// The system refused.
    #[error("{path}: {error}")]
    System { path: String, error: io::Error },
}

/// A folder that is ours while the value lives.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where it is, absolute.
    pub(crate) path: PathBuf,
    /// What it holds.
    pub(crate) shape: Shape,
    _lock: fs::File,
}

impl Folder {
    /// Takes the folder, made if it is missing, and settles what is to run in it. Writes nothing into a folder that
    /// it refuses, but for the lock.
    ///
    /// # Errors
    /// [`FolderError`], with the remedy.
    pub(crate) fn take(path: &Path, wanted: &Wanted) -> Result<Self, FolderError> {
        let system = |error| FolderError::System { path: path.display().to_string(), error };
        fs::create_dir_all(path).map_err(system)?;
        let path = fs::canonicalize(path).map_err(system)?;
        let shown = path.display().to_string();
        let record = path.join(RECORD);
        let shape = match fs::read_to_string(&record) {
            Ok(text) => {
                let has = parse(&text).ok_or_else(|| {
                    FolderError::Damaged(record.display().to_string(), "unreadable".to_owned())
                })?;
                settle(&shown, has, wanted)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse_foreign(&path).map_err(system)?.map_or(Ok(()), Err)?;
                Shape {
                    nodes: wanted.nodes.unwrap_or(1),
                    consensus: wanted.consensus.clone().unwrap_or_else(|| "raftrs".to_owned()),
                    port: wanted.port.unwrap_or(9092),
                }
            }
            Err(error) => return Err(system(error)),
        };
        let lock = fs::File::create(path.join(LOCK)).map_err(system)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(FolderError::InUse(shown));
        }
        Ok(Self { path, shape, _lock: lock })
    }

    /// Remembers what the folder holds, so that nothing else is started on it later.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) fn remember(&self) -> io::Result<()> {
        let Shape { nodes, consensus, port } = &self.shape;
        let text = format!(
            "# What 'quorate dev' keeps here. Another number of nodes, or another backend, needs another folder.\n\
             nodes={nodes}\nconsensus={consensus}\nport={port}\n"
        );
        let fresh = self.path.join("dev.properties.new");
        fs::write(&fresh, text)?;
        fs::rename(fresh, self.path.join(RECORD))
    }
}

fn settle(folder: &str, has: Shape, wanted: &Wanted) -> Result<Shape, FolderError> {
    let other = |has: String, wanted: String| FolderError::Other { folder: folder.to_owned(), has, wanted };
    if let Some(nodes) = wanted.nodes.filter(|nodes| *nodes != has.nodes) {
        let count = |nodes| if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
        return Err(other(count(has.nodes), nodes.to_string()));
    }
    let consensus = wanted.consensus.clone().unwrap_or_else(|| has.consensus.clone());
    // A library may have moved. Whether it is the same backend is what the nodes' own folders know.
    let is_library = |name: &str| name.starts_with("plugin:");
    if consensus != has.consensus && !(is_library(&consensus) && is_library(&has.consensus)) {
        return Err(other(format!("a cluster on {}", has.consensus), format!("on {consensus}")));
    }
    Ok(Shape { port: wanted.port.unwrap_or(has.port), consensus, ..has })
}

fn parse(text: &str) -> Option<Shape> {
    let properties = properties::read(text).ok()?;
    let value = |key: &str| properties.iter().find(|property| property.key == key).map(|p| p.value.clone());
    Some(Shape {
        nodes: value("nodes")?.parse().ok().filter(|nodes| (1..=15).contains(nodes))?,
        consensus: value("consensus")?,
        port: value("port")?.parse().ok()?,
    })
}

/// A folder with anything in it but our lock belongs to somebody.
fn refuse_foreign(path: &Path) -> io::Result<Option<FolderError>> {
    for entry in fs::read_dir(path)? {
        if entry?.file_name() != LOCK {
            return Ok(Some(FolderError::Foreign(path.display().to_string())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(nodes: Option<u16>, consensus: Option<&str>) -> Wanted {
        Wanted { nodes, consensus: consensus.map(str::to_owned), port: None }
    }

    fn made(nodes: u16, consensus: &str) -> tempfile::TempDir {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::take(&parent.path().join("d"), &wanted(Some(nodes), Some(consensus))).unwrap();
        folder.remember().unwrap();
        parent
    }

    #[test]
    fn a_new_folder_holds_one_node_on_raftrs_unless_told() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::take(&parent.path().join("d"), &Wanted::default()).unwrap();
        assert_eq!(folder.shape, Shape { nodes: 1, consensus: "raftrs".to_owned(), port: 9092 });
        assert!(folder.path.is_absolute());
    }

    #[test]
    fn another_number_of_nodes_or_another_backend_is_refused_with_the_remedy() {
        let parent = made(3, "raftrs");
        let path = parent.path().join("d");
        for (wanted, reason) in [
            (wanted(Some(5), None), "holds 3 nodes, not 5"),
            (wanted(Some(3), Some("etcd")), "holds a cluster on raftrs, not on etcd"),
            (wanted(None, Some("plugin:/x.so")), "holds a cluster on raftrs, not on plugin:/x.so"),
        ] {
            let error = Folder::take(&path, &wanted).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("--data-dir"), "{error}");
        }
        assert_eq!(Folder::take(&path, &Wanted::default()).unwrap().shape.nodes, 3);
    }

    #[test]
    fn a_library_may_be_found_elsewhere() {
        let parent = made(1, "plugin:/old/x.so");
        let folder = Folder::take(&parent.path().join("d"), &wanted(None, Some("plugin:/new/x.so"))).unwrap();
        assert_eq!(folder.shape.consensus, "plugin:/new/x.so");
    }

    #[test]
    fn a_folder_is_used_by_one_at_a_time() {
        let parent = made(1, "raftrs");
        let path = parent.path().join("d");
        let first = Folder::take(&path, &Wanted::default()).unwrap();
        let error = Folder::take(&path, &Wanted::default()).unwrap_err();
        assert!(matches!(error, FolderError::InUse(_)), "{error}");
        drop(first);
        assert!(Folder::take(&path, &Wanted::default()).is_ok());
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.txt"), "").unwrap();
        let error = Folder::take(parent.path(), &Wanted::default()).unwrap_err();
        assert!(matches!(error, FolderError::Foreign(_)), "{error}");
        fs::remove_file(parent.path().join("thesis.txt")).unwrap();
        fs::write(parent.path().join(RECORD), "nodes=many").unwrap();
        let error = Folder::take(parent.path(), &Wanted::default()).unwrap_err();
        assert!(matches!(error, FolderError::Damaged(..)), "{error}");
    }
}
