//! The mirror of `include/quorate_consensus.h`, which says what everything means.

use std::ffi::c_void;

/// The version of the interface that this host speaks. Only libraries of this major are loaded.
pub const ABI_MAJOR: u16 = 0;
/// See [`ABI_MAJOR`].
pub const ABI_MINOR: u16 = 0;
/// The symbol, with its terminating zero.
pub const SYMBOL: &[u8] = b"quorate_consensus_v0\0";

/// `qc_status`.
#[expect(missing_docs, reason = "the header documents each")]
pub mod status {
    pub const OK: i32 = 0;
    pub const NOT_LEADER: i32 = 1;
    pub const TOO_LARGE: i32 = 2;
    pub const BUSY: i32 = 3;
    pub const UNKNOWN: i32 = 4;
    pub const STOPPED: i32 = 5;
    pub const UNSUPPORTED: i32 = 6;
    pub const UNAVAILABLE: i32 = 7;
    pub const CONFIG: i32 = 8;
    pub const STORAGE: i32 = 9;
    pub const FOREIGN: i32 = 10;
    pub const IN_PROGRESS: i32 = 11;
    pub const SNAPSHOT: i32 = 12;
    pub const PANIC: i32 = 13;
}

/// `QC_LEADER_*`.
#[expect(missing_docs, reason = "the header documents each")]
pub mod leader {
    pub const UNKNOWN: u32 = 0;
    pub const OTHER: u32 = 1;
    pub const ME: u32 = 2;
}

/// `QC_COMMITTED_*`.
#[expect(missing_docs, reason = "the header documents each")]
pub mod committed {
    pub const ENTRIES: u32 = 0;
    pub const SNAPSHOT: u32 = 1;
}

/// `QC_VOTER_*`.
#[expect(missing_docs, reason = "the header documents each")]
pub mod voter {
    pub const ADD: u32 = 0;
    pub const REMOVE: u32 = 1;
}

/// `qc_bytes`.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the header documents each")]
pub struct Bytes {
    pub ptr: *const u8,
    pub len: usize,
}

impl Bytes {
    /// The bytes of a slice, which must outlive their use.
    #[must_use]
    pub const fn of(slice: &[u8]) -> Self {
        Self { ptr: slice.as_ptr(), len: slice.len() }
    }

    /// The bytes, if there is memory where they should be and they are not more than `most`.
    ///
    /// # Safety
    /// A `ptr` that is not null must be readable for `len` bytes, unchanged, for as long as the result is used.
    pub(crate) unsafe fn as_slice<'a>(self, most: usize) -> Option<&'a [u8]> {
        if self.len == 0 {
            return Some(&[]);
        }
        if self.ptr.is_null() || self.len > most {
            return None;
        }
        // SAFETY: not null, and readable for `len` bytes by this function's own contract.
        Some(unsafe { std::slice::from_raw_parts(self.ptr, self.len) })
    }
}

/// `qc_entry`.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the header documents each")]
pub struct Entry {
    pub index: u64,
    pub epoch: u64,
    pub data: Bytes,
}

/// `qc_snapshot_meta`.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the header documents each")]
pub struct SnapshotMeta {
    pub index: u64,
    pub epoch: u64,
    pub bytes: u64,
    pub chain: [u8; 16],
}

/// `qc_resume`.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the header documents each")]
pub struct Resume {
    pub struct_size: u32,
    pub has_log_id: u32,
    pub log_id: [u8; 16],
    pub applied: u64,
    pub chain: [u8; 16],
}

/// `qc_reply`.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the header documents each")]
pub struct Reply {
    pub struct_size: u32,
    pub status: i32,
    pub index: u64,
    pub epoch: u64,
    pub seq: u64,
    pub node: i32,
    pub kind: u32,
    pub snapshot: u64,
    pub entries: *const Entry,
    pub entries_len: usize,
    pub meta: *const SnapshotMeta,
    pub data: Bytes,
}

/// `qc_host`.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the header documents each")]
pub struct Host {
    pub struct_size: u32,
    pub abi_major: u16,
    pub abi_minor: u16,
    pub complete: unsafe extern "C" fn(*mut c_void, u64, *const Reply),
    pub log: unsafe extern "C" fn(*mut c_void, u32, Bytes, Bytes),
}

/// `qc_node`.
#[repr(C)]
pub struct Node {
    _opaque: [u8; 0],
}

pub(crate) type Create = unsafe extern "C" fn(Bytes, *const Host, *mut c_void, u64, *mut *mut Node);
pub(crate) type Destroy = unsafe extern "C" fn(*mut Node);
pub(crate) type Start = unsafe extern "C" fn(*mut Node, u64, *const Resume);
pub(crate) type NextCommitted = unsafe extern "C" fn(*mut Node, u64, u64, u32);
pub(crate) type DropSnapshot = unsafe extern "C" fn(*mut Node, u64);
pub(crate) type WithBytes = unsafe extern "C" fn(*mut Node, u64, u64, Bytes);
pub(crate) type CompactBegin = unsafe extern "C" fn(*mut Node, u64, *const SnapshotMeta);
pub(crate) type CompactFinish = unsafe extern "C" fn(*mut Node, u64, u64, u32);
pub(crate) type ChangeMembership = unsafe extern "C" fn(*mut Node, u64, u32, i32, Bytes);
pub(crate) type WithNumber = unsafe extern "C" fn(*mut Node, u64, u64);
pub(crate) type WithTwoNumbers = unsafe extern "C" fn(*mut Node, u64, u64, u64);
pub(crate) type Plain = unsafe extern "C" fn(*mut Node, u64);

/// The first fields of [`Plugin`], which every version has.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) struct_size: u32,
    pub(crate) abi_major: u16,
    pub(crate) abi_minor: u16,
}

/// `qc_plugin`. A function that a C author left out is `None`.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the header documents each")]
pub struct Plugin {
    pub struct_size: u32,
    pub abi_major: u16,
    pub abi_minor: u16,
    pub capabilities: u64,
    pub max_entry_bytes: u64,
    pub name: Bytes,
    pub version: Bytes,
    pub create: Option<Create>,
    pub destroy: Option<Destroy>,
    pub start: Option<Start>,
    pub next_leader: Option<WithNumber>,
    pub next_committed: Option<NextCommitted>,
    pub read_snapshot: Option<WithTwoNumbers>,
    pub drop_snapshot: Option<DropSnapshot>,
    pub propose: Option<WithBytes>,
    pub read_barrier: Option<Plain>,
    pub compact_begin: Option<CompactBegin>,
    pub compact_chunk: Option<WithBytes>,
    pub compact_finish: Option<CompactFinish>,
    pub change_membership: Option<ChangeMembership>,
    pub resign: Option<WithNumber>,
    pub status: Option<Plain>,
    pub shutdown: Option<Plain>,
}

// SAFETY: the header demands that the table stays valid for ever and never changes, and that every entry point may be
// called from any thread.
unsafe impl Send for Plugin {}
// SAFETY: as above.
unsafe impl Sync for Plugin {}
// SAFETY: the host's functions may be called from any thread, says the header; this crate's own hold to it.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

/// What [`SYMBOL`] is.
pub(crate) type EntryPoint = unsafe extern "C" fn() -> *const Plugin;

// The layout is the contract: a change that moves a field does not compile, here or in C.
const _: () = assert!(
    size_of::<Bytes>() == 16
        && size_of::<Entry>() == 32
        && size_of::<SnapshotMeta>() == 40
        && size_of::<Resume>() == 48
        && size_of::<Reply>() == 88
        && size_of::<Host>() == 24
        && size_of::<Plugin>() == 184
);
