//! The simulator: a whole cluster in one thread, replayed from a seed.
//!
//! Three nodes run the real code of log, partition, broker, controller and handlers on paused time, a simulated disk
//! each, a simulated network, and the `memory` backend. Faults come by the seed while clients write and read; the
//! [`invariants`] are looked at all the while, and once more after everything has been healed.

mod client;
mod damage;
mod faults;
pub mod invariants;
mod node;
mod oracle;
mod topics;
mod world;

use std::fmt;

pub use invariants::Violation;
pub use quorate_core::planted::Bug;

/// What is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Everything that is chosen, is chosen by it.
    pub seed: u64,
    /// For how long faults come, in milliseconds of the simulated time.
    pub faulty_ms: u64,
    /// A bug that the run must find.
    pub planted: Option<Bug>,
    /// The one invariant to assert; `None` for all.
    pub only: Option<u32>,
}

impl Options {
    /// A usual run.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { seed, faulty_ms: 10_000, planted: None, only: None }
    }

    /// A usual run with a bug in it.
    #[must_use]
    pub fn with(seed: u64, bug: Bug) -> Self {
        Self { planted: Some(bug), ..Self::of(seed) }
    }
}

/// What a run has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A digest of all that was written and sent, and when.
    pub trace: u64,
    /// What must not be, if anything.
    pub violation: Option<Violation>,
    /// How much has happened.
    pub counts: Counts,
    /// The faults, with the simulated time of each in milliseconds.
    pub faults: Vec<(u64, String)>,
}

/// How much has happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Faults.
    pub faults: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Controllers.
    pub controllers: u64,
    /// Entries of the metadata log.
    pub entries: u64,
    /// Records that were acknowledged.
    pub acked: u64,
    /// Records of which the producer never learned what became of them.
    pub unknown: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { faults, crashes, controllers, entries, acked, unknown } = self.counts;
        write!(f, "seed {}: {faults} faults, {crashes} crashes, {controllers} controllers, ", self.seed)?;
        write!(f, "{entries} entries, {acked} acked, {unknown} unknown, trace {:016x}", self.trace)?;
        if let Some(violation) = &self.violation {
            for (at_ms, fault) in &self.faults {
                write!(f, "\n  {at_ms} ms: {fault}")?;
            }
            write!(f, "\n{violation}\nREPRODUCE: seed {}", self.seed)?;
        }
        Ok(())
    }
}

/// Runs a simulation on a runtime of its own.
///
/// # Panics
/// If the system has no runtime to give.
#[must_use]
pub fn run(options: Options) -> Report {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    invariants::assert_only(options.only);
    quorate_core::planted::plant(options.planted);
    let report = runtime.block_on(async {
        let mut world = world::World::new(options.seed);
        let violation = faults::live(&mut world, options).await.err();
        let (trace, counts) = (world.trace(), world.counts());
        Report { seed: options.seed, trace, violation, counts, faults: std::mem::take(&mut world.faults) }
    });
    quorate_core::planted::plant(None);
    invariants::assert_only(None);
    report
}
