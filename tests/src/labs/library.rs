//! The lab of a shared library that needs nothing but a folder: its nodes are in this process, on real time.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use quorate_conformance::{Backend, Capability, Constructor, Lab};
use quorate_consensus_plugin::{self as plugin, Library, PluginConfig};
use quorate_core::{
    consensus::NodeId,
    ids::DirectoryId,
    runtime::{Clock, Rng},
};
use tempfile::TempDir;

use crate::backend::built_library;

/// How long a silent leader keeps its leadership.
const LEASE: Duration = Duration::from_millis(300);

/// A library whose nodes share a folder, `store`.
pub struct LibraryBackend {
    library: Arc<Library>,
    _folder: TempDir,
}

impl LibraryBackend {
    /// The example of a backend in Rust.
    ///
    /// # Panics
    /// If it was not built, or is not a library.
    #[must_use]
    pub fn in_rust() -> Self {
        Self::of(|folder| {
            let copy = folder.join("libshared_folder.so");
            fs::copy(built_library("libshared_folder.so"), &copy).expect("a copy");
            copy
        })
    }

    /// The example of a backend in C.
    ///
    /// # Panics
    /// If it cannot be built, or is not a library.
    #[must_use]
    pub fn in_c() -> Self {
        Self::of(build_c_example)
    }

    fn of(build: impl FnOnce(&Path) -> PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let library = Library::open(&build(folder.path())).unwrap_or_else(|error| panic!("{error}"));
        Self { library, _folder: folder }
    }
}

/// Builds the example of a backend in C into a folder.
///
/// # Panics
/// If there is no C compiler, or it refuses.
#[must_use]
pub fn build_c_example(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shared-folder-c");
    let built = folder.join("libshared_folder_c.so");
    let out = format!("OUT={}", built.display());
    // What checks this process is not to check the compiler. SANITIZE is passed on.
    let mut make = Command::new("make");
    let made = make.arg("-sC").arg(source).arg(out).env_remove("LD_PRELOAD").output().expect("make");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    built
}

#[async_trait]
impl Backend for LibraryBackend {
    fn name(&self) -> String {
        format!("the library {}", self.library.name())
    }

    fn is_simulated(&self) -> bool {
        false
    }

    fn can(&self, capability: Capability) -> Result<(), String> {
        let declared = match capability {
            Capability::Founders => plugin::Capability::Founders,
            Capability::Votes => plugin::Capability::Votes,
            Capability::HandOver => plugin::Capability::HandOver,
            Capability::PreVote => plugin::Capability::PreVote,
            Capability::Folder => plugin::Capability::Folder,
            Capability::External => plugin::Capability::External,
            Capability::Membership => plugin::Capability::Membership,
            Capability::ShortTail | Capability::BadConfig => return Ok(()),
            _ => return Err("its nodes are in this process and share a folder".to_owned()),
        };
        if self.library.can(declared) {
            return Ok(());
        }
        Err(format!("the library does not declare {}", declared.name()))
    }

    async fn lab(&self, nodes: usize) -> Box<dyn Lab> {
        let nodes = (1..=nodes).filter_map(|node| i32::try_from(node).ok()).map(NodeId);
        let peers = nodes.map(|node| (node, format!("127.0.0.1:{}", 7000 + node.0))).collect();
        // Processes die here, and machines do not, so that a folder in memory keeps what was synced.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder");
        Box::new(LibraryLab { library: self.library.clone(), peers, folder })
    }
}

struct LibraryLab {
    library: Arc<Library>,
    peers: BTreeMap<NodeId, String>,
    folder: TempDir,
}

impl LibraryLab {
    fn config(&self, node: NodeId) -> PluginConfig {
        let option = |name: &str, value: String| (name.to_owned(), value);
        let store = self.folder.path().join("store").display().to_string();
        let lease = LEASE.as_millis().to_string();
        PluginConfig {
            node,
            directory_id: DirectoryId(Rng::system().uuid()),
            folder: self.folder.path().join(format!("node-{node}")),
            listener: self.peers.get(&node).cloned(),
            peers: self.peers.clone(),
            options: [option("store", store), option("lease.ms", lease), option("tail", "1".to_owned())]
                .into(),
        }
    }
}

#[async_trait]
impl Lab for LibraryLab {
    fn clock(&self) -> Clock {
        Clock::system()
    }

    fn patience(&self) -> Duration {
        LEASE * 40
    }

    fn quiet(&self) -> Duration {
        LEASE * 3
    }

    fn constructor(&mut self, node: NodeId) -> Constructor {
        let (library, config) = (self.library.clone(), self.config(node).to_json());
        Box::new(move || library.construct(&config))
    }

    fn bad_constructor(&mut self) -> Option<Constructor> {
        let (library, mut config) = (self.library.clone(), self.config(NodeId(1)));
        config.options.insert("store".to_owned(), "relative".to_owned());
        Some(Box::new(move || library.construct(&config.to_json())))
    }

    fn traces(&self, _: NodeId) -> Option<String> {
        let mut found = fs::read_dir(self.folder.path()).ok()?;
        found.next().and_then(Result::ok).map(|entry| entry.path().display().to_string())
    }

    async fn crashed(&mut self, _: NodeId) {}
}
