//! The names on a simulated disk: a tree of folders that the system shows, and the one that a power cut leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Component, Path},
    sync::Arc,
};

use parking_lot::Mutex;

use super::content::Content;
use crate::runtime::Rng;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Folder(u64),
    File(Arc<Mutex<Content>>),
}

type Folder = BTreeMap<String, Node>;

/// A change of names that no folder's sync covers yet.
#[derive(Debug)]
enum Change {
    Link { folder: u64, name: String, node: Node },
    Unlink { folder: u64, name: String },
    Rename { from: (u64, String), to: (u64, String), node: Node },
}

impl Change {
    fn touches(&self, folders: &BTreeSet<u64>) -> bool {
        match self {
            Self::Link { folder, .. } | Self::Unlink { folder, .. } => folders.contains(folder),
            Self::Rename { from, to, .. } => folders.contains(&from.0) || folders.contains(&to.0),
        }
    }

    fn perform(&self, folders: &mut BTreeMap<u64, Folder>) {
        match self {
            Self::Link { folder, name, node } => {
                folders.entry(*folder).or_default().insert(name.clone(), node.clone());
            }
            Self::Unlink { folder, name } => {
                folders.entry(*folder).or_default().remove(name);
            }
            Self::Rename { from, to, node } => {
                folders.entry(from.0).or_default().remove(&from.1);
                folders.entry(to.0).or_default().insert(to.1.clone(), node.clone());
            }
        }
    }
}

const ROOT: u64 = 0;

/// All names.
#[derive(Debug)]
pub(super) struct Names {
    shown: BTreeMap<u64, Folder>,
    durable: BTreeMap<u64, Folder>,
    pending: Vec<Change>,
    next_folder: u64,
}

impl Names {
    pub(super) fn new() -> Self {
        let root = BTreeMap::from([(ROOT, Folder::new())]);
        Self { shown: root.clone(), durable: root, pending: Vec::new(), next_folder: ROOT + 1 }
    }

    fn change(&mut self, change: Change) {
        change.perform(&mut self.shown);
        self.pending.push(change);
    }

    /// What a path names.
    pub(super) fn find(&self, path: &Path) -> io::Result<Node> {
        let mut node = Node::Folder(ROOT);
        for name in parts(path) {
            let Node::Folder(folder) = node else { return Err(io::ErrorKind::NotADirectory.into()) };
            let found = self.shown.get(&folder).and_then(|names| names.get(&name));
            node = found.ok_or(io::ErrorKind::NotFound)?.clone();
        }
        Ok(node)
    }

    /// The folder that a path names.
    pub(super) fn folder(&self, path: &Path) -> io::Result<u64> {
        match self.find(path)? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The folder that holds the path's last name, and that name.
    fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let mut names = parts(path);
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let parent: std::path::PathBuf = names.iter().collect();
        Ok((self.folder(&parent)?, name))
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let folder = self.folder(path)?;
        Ok(self.shown.get(&folder).map(|names| names.keys().cloned().collect()).unwrap_or_default())
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        let (folder, name) = self.place(path)?;
        let content = Arc::new(Mutex::new(Content::default()));
        self.change(Change::Link { folder, name, node: Node::File(content.clone()) });
        Ok(content)
    }

    pub(super) fn create_folders(&mut self, path: &Path) -> io::Result<()> {
        let mut here = ROOT;
        for name in parts(path) {
            let found = self.shown.get(&here).and_then(|names| names.get(&name)).cloned();
            here = match found {
                Some(Node::Folder(folder)) => folder,
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => {
                    let made = self.next_folder;
                    self.next_folder += 1;
                    self.shown.insert(made, Folder::new());
                    self.change(Change::Link { folder: here, name, node: Node::Folder(made) });
                    made
                }
            };
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        if let (Node::File(_), Ok(Node::Folder(_))) = (&node, self.find(to)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (from, to) = (self.place(from)?, self.place(to)?);
        if from != to {
            self.change(Change::Rename { from, to, node });
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let Node::File(_) = self.find(path)? else { return Err(io::ErrorKind::IsADirectory.into()) };
        let (folder, name) = self.place(path)?;
        self.change(Change::Unlink { folder, name });
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        self.folder(path)?;
        let (folder, name) = self.place(path)?;
        self.change(Change::Unlink { folder, name });
        Ok(())
    }

    /// Makes the names in one folder durable, and what a rename out of or into it hangs on.
    pub(super) fn sync(&mut self, folder: u64) {
        let mut folders = BTreeSet::from([folder]);
        loop {
            let before = folders.len();
            for change in &self.pending {
                if let Change::Rename { from, to, .. } = change
                    && change.touches(&folders)
                {
                    folders.extend([from.0, to.0]);
                }
            }
            if folders.len() == before {
                break;
            }
        }
        for change in std::mem::take(&mut self.pending) {
            if change.touches(&folders) {
                change.perform(&mut self.durable);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// Makes everything durable.
    pub(super) fn sync_all(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.perform(&mut self.durable);
        }
    }

    /// The power goes: changes of names that were not synced are lost, or, with `some`, all after a seeded one.
    pub(super) fn lose_power(&mut self, some: Option<&Rng>) {
        let pending = std::mem::take(&mut self.pending);
        let kept = some.map_or(0, |rng| rng.below(pending.len() as u64 + 1));
        for change in pending.iter().take(usize::try_from(kept).unwrap_or(0)) {
            change.perform(&mut self.durable);
        }
        self.shown.clone_from(&self.durable);
    }

    /// Every file that a name leads to, in the order of their names.
    pub(super) fn files(&self) -> Vec<Arc<Mutex<Content>>> {
        let mut files = Vec::new();
        let mut folders = vec![ROOT];
        while let Some(folder) = folders.pop() {
            for node in self.shown.get(&folder).into_iter().flat_map(BTreeMap::values) {
                match node {
                    Node::Folder(folder) => folders.push(*folder),
                    Node::File(content) => files.push(content.clone()),
                }
            }
        }
        files
    }
}

fn parts(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => {
                names.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}
