//! What a Rust author's library consists of beside their `impl Consensus`: the table and what it points to. Only
//! [`export_consensus!`](crate::export_consensus) names any of it.

mod calls;
mod entry;
mod incoming;
mod link;
mod log;
mod node;
mod outgoing;
mod readers;

use quorate_core::consensus::{Consensus, StartError};

use crate::{Capability, PluginConfig, raw};

pub use quorate_core::consensus;

/// The largest entry, unless the author says otherwise: 1 MiB.
const ENTRY_BYTES: u64 = 1 << 20;

/// What an author says in [`export_consensus!`](crate::export_consensus).
pub trait Author: 'static {
    /// The backend's name.
    const NAME: &'static str;
    /// The library's version.
    const VERSION: &'static str;
    /// What it can do.
    const CAPABILITIES: &'static [Capability];
    /// The largest entry, in bytes.
    const ENTRY_BYTES: u64;

    /// Makes a node.
    ///
    /// # Errors
    /// If the configuration is wrong.
    fn construct(config: PluginConfig) -> Result<Box<dyn Consensus>, StartError>;
}

/// The largest entry that an author names, or the usual one.
#[must_use]
pub const fn entry_bytes(named: &[u64]) -> u64 {
    match named {
        [bytes, ..] => *bytes,
        [] => ENTRY_BYTES,
    }
}

/// The table of an author's library.
#[must_use]
pub const fn table<A: Author>() -> raw::Plugin {
    let mut capabilities = 0;
    let mut at = 0;
    while at < A::CAPABILITIES.len() {
        #[expect(clippy::indexing_slicing, reason = "in bounds, and a constant function has no other way")]
        let capability = A::CAPABILITIES[at];
        capabilities |= capability.bit();
        at += 1;
    }
    raw::Plugin {
        // The struct is 184 bytes.
        struct_size: size_of::<raw::Plugin>() as u32,
        abi_major: raw::ABI_MAJOR,
        abi_minor: raw::ABI_MINOR,
        capabilities,
        max_entry_bytes: A::ENTRY_BYTES,
        name: raw::Bytes::of(A::NAME.as_bytes()),
        version: raw::Bytes::of(A::VERSION.as_bytes()),
        create: Some(entry::create::<A>),
        destroy: Some(entry::destroy),
        start: Some(entry::start),
        next_leader: Some(entry::next_leader),
        next_committed: Some(entry::next_committed),
        read_snapshot: Some(entry::read_snapshot),
        drop_snapshot: Some(entry::drop_snapshot),
        propose: Some(entry::propose),
        read_barrier: Some(entry::read_barrier),
        compact_begin: Some(entry::compact_begin),
        compact_chunk: Some(entry::compact_chunk),
        compact_finish: Some(entry::compact_finish),
        change_membership: Some(entry::change_membership),
        resign: Some(entry::resign),
        status: Some(entry::status),
        shutdown: Some(entry::shutdown),
    }
}

/// Makes a shared library of a crate whose type is `cdylib`: its one symbol, with everything behind it.
///
/// `new` takes a [`PluginConfig`] and returns a `Result` of something that implements
/// [`Consensus`](quorate_core::consensus::Consensus), or of a
/// [`StartError`](quorate_core::consensus::StartError). It is called within a tokio runtime, so that `Runtime::real()`
/// may be called, and twice: when the node is made, for what it refuses, and when it is started, for what runs. It must
/// touch neither disk nor network. What the backend logs by `tracing` while it
/// runs on that runtime appears in the broker's log.
///
/// ```
/// use quorate_consensus_plugin::{PluginConfig, export_consensus};
/// use quorate_core::{
///     consensus::{StartError, memory::{Memory, MemoryCluster, MemoryConfig}},
///     runtime::{Clock, Rng},
/// };
///
/// fn new(config: PluginConfig) -> Result<Memory, StartError> {
///     let alone = MemoryConfig::timed(1, std::time::Duration::from_millis(100));
///     Ok(Memory::new(&MemoryCluster::new(alone, Clock::system(), Rng::system()), config.node))
/// }
///
/// export_consensus! { name: "alone", version: "0.1.0", capabilities: [Founders, Votes], new: new }
/// ```
#[macro_export]
macro_rules! export_consensus {
    (
        name: $name:expr, version: $version:expr, capabilities: [$($capability:ident),* $(,)?], new: $new:expr
        $(, max_entry_bytes: $bytes:expr)? $(,)?
    ) => {
        const _: () = {
            struct Exported;

            impl $crate::author::Author for Exported {
                const NAME: &'static str = $name;
                const VERSION: &'static str = $version;
                const CAPABILITIES: &'static [$crate::Capability] = &[$($crate::Capability::$capability),*];
                const ENTRY_BYTES: u64 = $crate::author::entry_bytes(&[$($bytes)?]);

                fn construct(
                    config: $crate::PluginConfig,
                ) -> Result<Box<dyn $crate::author::consensus::Consensus>, $crate::author::consensus::StartError>
                {
                    Ok(Box::new($new(config)?))
                }
            }

            static TABLE: $crate::raw::Plugin = $crate::author::table::<Exported>();

            #[unsafe(no_mangle)]
            extern "C" fn quorate_consensus_v0() -> *const $crate::raw::Plugin {
                &TABLE
            }
        };
    };
}
