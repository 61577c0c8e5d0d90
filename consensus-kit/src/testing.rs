//! One simulated machine for the tests of this crate.

use std::{path::Path, sync::Arc};

use quorate_core::runtime::{
    Clock, RealNetwork, Rng, Runtime, TaskScope,
    simulated::{Keep, SimulatedDisk},
};

/// A machine with a disk that outlives its processes.
pub(crate) struct Machine {
    pub(crate) disk: SimulatedDisk,
    clock: Clock,
    rng: Rng,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        let (clock, _wall) = Clock::simulated(0);
        let disk = SimulatedDisk::new(clock.clone(), Rng::seeded(seed));
        disk.mount(Path::new("/data")).unwrap();
        Self { disk, clock, rng: Rng::seeded(seed + 1) }
    }

    /// A process of the machine. Kill its tasks before the next one starts.
    pub(crate) fn process(&self) -> Runtime {
        Runtime {
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            disk: Arc::new(self.disk.clone()),
            network: Arc::new(RealNetwork),
            tasks: TaskScope::single_threaded(),
        }
    }

    /// Kills a process and, but for [`Keep::All`], the machine.
    pub(crate) fn crash(&self, process: &Runtime, keep: Keep) {
        process.tasks.kill();
        self.disk.crash(keep);
    }
}
