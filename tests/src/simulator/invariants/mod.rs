//! What must always hold, one file a group. Numbers are those of the checklist in `ARCHITECTURE.md`'s invariants.

pub(super) mod metadata;
pub(super) mod records;
pub(super) mod rest;
mod scan;

use std::{cell::Cell, fmt};

use super::world::World;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the checklist.
    pub invariant: u32,
    /// What is wrong.
    pub what: String,
}

impl Violation {
    pub(super) fn new(invariant: u32, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {} does not hold: {}", self.invariant, self.what)
    }
}

thread_local! {
    static ONLY: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Asserts one invariant alone in this thread, or all of them.
pub(super) fn assert_only(invariant: Option<u32>) {
    ONLY.set(invariant);
}

/// Whether an invariant is asserted.
pub(super) fn asserts(invariant: u32) -> bool {
    ONLY.get().is_none_or(|only| only == invariant)
}

/// Ends a look unless a condition holds.
macro_rules! holds {
    ($invariant:expr, $condition:expr, $($what:tt)+) => {
        if $crate::simulator::invariants::asserts($invariant) && !$condition {
            return Err($crate::simulator::Violation::new($invariant, format!($($what)+)));
        }
    };
}
pub(super) use holds;

/// What the invariants remember of the past.
#[derive(Default)]
pub(super) struct Observer {
    pub(super) metadata: metadata::Seen,
    pub(super) records: records::Seen,
    looks: u64,
}

/// Every so many looks, logs are read from end to end.
const SCAN_EACH: u64 = 25;

/// Looks at everything.
pub(super) fn look(world: &mut World) -> Result<(), Violation> {
    metadata::look(world)?;
    records::glance(world)?;
    world.observer.looks += 1;
    if world.observer.looks.is_multiple_of(SCAN_EACH) {
        records::scan(world)?;
    }
    let told = world.told.lock().violation.clone();
    told.map_or(Ok(()), Err)
}
