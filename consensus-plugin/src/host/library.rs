//! A library that was opened and found to speak this version of the interface.

use std::{path::Path, sync::Arc};

use libloading::os::unix::{Library as SharedObject, RTLD_LOCAL, RTLD_NOW};
use quorate_core::consensus::{Consensus, StartError};
use thiserror::Error;

use super::{
    backend::Idle,
    calls::Calls,
    limits::Limits,
    node::Node,
    path::{self, UnsafePath},
};
use crate::{Capability, raw};

/// Why a library was not loaded. Each sentence names the file and says what to do.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file is not one that may be loaded.
    #[error("{path} is not loaded: {error}")]
    Unsafe {
        /// As it was given.
        path: String,
        /// Why not.
        error: UnsafePath,
    },
    /// The system cannot load it.
    #[error("{path} is not a shared library that this machine can load: {reason}")]
    NotALibrary {
        /// As it was given.
        path: String,
        /// As the system says.
        reason: String,
    },
    /// A library of something else.
    #[error("{0} is not a consensus backend: it has no symbol quorate_consensus_v0")]
    NoSymbol(String),
    /// A library for another version.
    #[error(
        "{path} speaks version {found} of the plugin interface, this broker speaks version {}: build it against this \
         broker's quorate_consensus.h",
        raw::ABI_MAJOR
    )]
    OtherVersion {
        /// As it was given.
        path: String,
        /// Its major version.
        found: u16,
    },
    /// The table is not what the header says.
    #[error("{path} breaks the plugin interface: {problem}")]
    Malformed {
        /// As it was given.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// The limits of `max_entry_bytes`: a broker's commands need the first, and its buffers bear the second.
const ENTRY_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(16 << 20);
const TEXT_BYTES: usize = 64;

/// A loaded library. It stays in the process for ever: threads and thread-local destructors of its own may run at any
/// time (rust-lang/rust#59629, rust-lang/rust#91979).
#[derive(Debug)]
pub struct Library {
    table: Table,
    recorded: &'static str,
    version: String,
    capabilities: u64,
    entry_bytes: usize,
    limits: Limits,
}

impl Library {
    /// Loads the library at `path` and checks that it is one. Runs whatever the library runs when it is loaded.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn open(path: &Path) -> Result<Arc<Self>, LoadError> {
        Self::open_with(path, Limits::default())
    }

    /// As [`Library::open`], with other limits of time.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn open_with(path: &Path, limits: Limits) -> Result<Arc<Self>, LoadError> {
        let given = path.display().to_string();
        let real = match path::check(path) {
            Ok(real) => real,
            Err(error) => return Err(LoadError::Unsafe { path: given, error }),
        };
        // SAFETY: running the initialisers of a library is what the operator asked for by naming a file that only
        // they, or root, can have written.
        let object = unsafe { SharedObject::open(Some(&real), RTLD_NOW | RTLD_LOCAL) };
        let object = object
            .map_err(|error| LoadError::NotALibrary { path: given.clone(), reason: error.to_string() })?;
        // SAFETY: the header declares the symbol of this name with this type.
        let entry = unsafe { object.get::<raw::EntryPoint>(raw::SYMBOL) }.map(|symbol| *symbol);
        // Never closed, also when it is refused: its initialisers may have started threads.
        std::mem::forget(object);
        let entry = entry.map_err(|_| LoadError::NoSymbol(given.clone()))?;
        // SAFETY: as above.
        let table = unsafe { entry() };
        // SAFETY: what the symbol returns is a table that is valid for ever, says the header.
        let library = unsafe { Self::read(table, limits) };
        library.map(Arc::new).map_err(|problem| match problem {
            Refused::OtherVersion(found) => LoadError::OtherVersion { path: given, found },
            Refused::Malformed(problem) => LoadError::Malformed { path: given, problem },
        })
    }

    /// # Safety
    /// A `table` that is not null must be readable for as many bytes as its first field says, and its texts too.
    pub(crate) unsafe fn read(table: *const raw::Plugin, limits: Limits) -> Result<Self, Refused> {
        if table.is_null() || !table.is_aligned() {
            return Err(malformed("its table is nowhere"));
        }
        // SAFETY: not null, aligned, and every version of the table begins with these fields.
        let head = unsafe { table.cast::<raw::Head>().read() };
        if head.abi_major != raw::ABI_MAJOR {
            return Err(Refused::OtherVersion(head.abi_major));
        }
        let (has, needs) = (head.struct_size as usize, size_of::<raw::Plugin>());
        if has < needs {
            return Err(malformed(&format!("its table has {has} bytes, and version 0 has {needs}")));
        }
        // SAFETY: not null, aligned, and as large as it says.
        let plugin = unsafe { table.read() };
        // SAFETY: the table's texts are readable, says the header.
        let (name, version) = unsafe { (text(plugin.name), text(plugin.version)) };
        let name = name.filter(|name| name.bytes().all(is_of_a_name));
        let name = name.ok_or_else(|| malformed("its name is not 1 to 64 of a-z, 0-9 and '-'"))?;
        let version = version.ok_or_else(|| malformed("its version is not 1 to 64 printable characters"))?;
        if !ENTRY_BYTES.contains(&plugin.max_entry_bytes) {
            let least = ENTRY_BYTES.start();
            let most = ENTRY_BYTES.end();
            let problem = format!("its max_entry_bytes is {}, not {least} to {most}", plugin.max_entry_bytes);
            return Err(malformed(&problem));
        }
        let missing = |entry: &str| malformed(&format!("its table has no {entry}"));
        Ok(Self {
            table: Table::of(&plugin).map_err(missing)?,
            // Lives as long as the library does, which is for ever.
            recorded: Box::leak(format!("plugin:{name}").into_boxed_str()),
            version,
            capabilities: plugin.capabilities,
            entry_bytes: usize::try_from(plugin.max_entry_bytes).unwrap_or(usize::MAX),
            limits,
        })
    }

    /// The backend's name, without `plugin:`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.recorded.trim_start_matches("plugin:")
    }

    /// The backend's name as folders record it, `plugin:NAME`.
    #[must_use]
    pub fn recorded_name(&self) -> &'static str {
        self.recorded
    }

    /// The library's own version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it declares the capability.
    #[must_use]
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities & capability.bit() != 0
    }

    /// A node of this library, configured by the JSON text of [`crate::PluginConfig`], not started.
    ///
    /// # Errors
    /// [`StartError::Config`] if the library refuses the configuration, with its sentence.
    pub fn construct(self: &Arc<Self>, config: &str) -> Result<Box<dyn Consensus>, StartError> {
        let calls = Calls::new(self.recorded, self.entry_bytes);
        let node = Node::create(self.table, calls, config)?;
        Ok(Box::new(Idle { node, library: self.clone() }))
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn entry_bytes(&self) -> usize {
        self.entry_bytes
    }
}

/// Why a table is not a library's.
#[derive(Debug)]
pub(crate) enum Refused {
    OtherVersion(u16),
    Malformed(String),
}

fn malformed(problem: &str) -> Refused {
    Refused::Malformed(problem.to_owned())
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// # Safety
/// As [`raw::Bytes::as_slice`].
unsafe fn text(bytes: raw::Bytes) -> Option<String> {
    // SAFETY: by this function's own contract.
    let slice = unsafe { bytes.as_slice(TEXT_BYTES) }?;
    let printable = !slice.is_empty() && slice.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    printable.then(|| String::from_utf8_lossy(slice).into_owned())
}

/// The entry points, all there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) create: raw::Create,
    pub(super) destroy: raw::Destroy,
    pub(super) start: raw::Start,
    pub(super) next_leader: raw::WithNumber,
    pub(super) next_committed: raw::NextCommitted,
    pub(super) read_snapshot: raw::WithTwoNumbers,
    pub(super) drop_snapshot: raw::DropSnapshot,
    pub(super) propose: raw::WithBytes,
    pub(super) read_barrier: raw::Plain,
    pub(super) compact_begin: raw::CompactBegin,
    pub(super) compact_chunk: raw::WithBytes,
    pub(super) compact_finish: raw::CompactFinish,
    pub(super) change_membership: raw::ChangeMembership,
    pub(super) resign: raw::WithNumber,
    pub(super) status: raw::Plain,
    pub(super) shutdown: raw::Plain,
}

impl Table {
    fn of(plugin: &raw::Plugin) -> Result<Self, &'static str> {
        Ok(Self {
            create: plugin.create.ok_or("create")?,
            destroy: plugin.destroy.ok_or("destroy")?,
            start: plugin.start.ok_or("start")?,
            next_leader: plugin.next_leader.ok_or("next_leader")?,
            next_committed: plugin.next_committed.ok_or("next_committed")?,
            read_snapshot: plugin.read_snapshot.ok_or("read_snapshot")?,
            drop_snapshot: plugin.drop_snapshot.ok_or("drop_snapshot")?,
            propose: plugin.propose.ok_or("propose")?,
            read_barrier: plugin.read_barrier.ok_or("read_barrier")?,
            compact_begin: plugin.compact_begin.ok_or("compact_begin")?,
            compact_chunk: plugin.compact_chunk.ok_or("compact_chunk")?,
            compact_finish: plugin.compact_finish.ok_or("compact_finish")?,
            change_membership: plugin.change_membership.ok_or("change_membership")?,
            resign: plugin.resign.ok_or("resign")?,
            status: plugin.status.ok_or("status")?,
            shutdown: plugin.shutdown.ok_or("shutdown")?,
        })
    }
}
