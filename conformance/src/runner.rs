//! Runs many cases at once, each on a thread and a runtime of its own.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use quorate_core::runtime::Clock;

use crate::{Backend, CASES, Case, Stop, Verdict, run_case};

/// Which cases.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// On clusters of how many nodes; all, if empty.
    pub nodes: Vec<usize>,
    /// Those of the full list too, and every size of each.
    pub full: bool,
    /// Only these cases, on each of their sizes, and these groups of cases; all, if empty.
    pub named: Vec<String>,
}

/// A case on a cluster of some size.
#[derive(Clone, Copy)]
pub struct Run {
    /// The case.
    pub case: &'static Case,
    /// How many nodes.
    pub nodes: usize,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The file that the case stands in.
    pub group: &'static str,
    /// The case.
    pub name: &'static str,
    /// On so many nodes.
    pub nodes: usize,
    /// How it ended.
    pub verdict: Verdict,
    /// In so much time.
    pub took: Duration,
}

impl Selection {
    /// The runs, in the order of the list.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let named = |case: &&Case| {
            self.named.is_empty() || self.named.iter().any(|name| case.name == name || case.group == name)
        };
        let sized = |nodes: &usize| self.nodes.is_empty() || self.nodes.contains(nodes);
        let listed = |case: &'static Case| {
            let all = self.full || self.named.iter().any(|name| case.name == name);
            let sizes = if all { case.nodes } else { case.short };
            sizes.iter().copied().filter(sized).map(move |nodes| Run { case, nodes })
        };
        CASES.iter().filter(named).flat_map(listed).collect()
    }
}

/// Runs all, `parallel` at once and the heavy ones by themselves, and tells `progress` of each end. The outcomes are
/// in the order of the runs.
pub fn run_all(
    runs: Vec<Run>,
    parallel: usize,
    backend: &(dyn Fn(Run) -> Box<dyn Backend> + Sync),
    progress: &(dyn Fn(&Outcome) + Sync),
) -> Vec<Outcome> {
    let (heavy, light): (Vec<_>, Vec<_>) = runs.into_iter().enumerate().partition(|(_, run)| run.case.heavy);
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    for (runs, parallel) in [(light, parallel.max(1)), (heavy, 1)] {
        let queue = Mutex::new(VecDeque::from(runs));
        std::thread::scope(|scope| {
            for _ in 0..parallel {
                scope.spawn(|| {
                    while let Some((place, run)) = next(&queue) {
                        let outcome = run_one(run, backend);
                        progress(&outcome);
                        outcomes.lock().push((place, outcome));
                    }
                });
            }
        });
    }
    let mut outcomes = std::mem::take(&mut *outcomes.lock());
    outcomes.sort_by_key(|(place, _)| *place);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Lets go of the queue before the run begins.
fn next(queue: &Mutex<VecDeque<(usize, Run)>>) -> Option<(usize, Run)> {
    queue.lock().pop_front()
}

fn run_one(run: Run, backend: &(dyn Fn(Run) -> Box<dyn Backend> + Sync)) -> Outcome {
    let clock = Clock::system();
    let begun = clock.now();
    let verdict = catch_unwind(AssertUnwindSafe(|| run_case(run.case, backend(run).as_ref(), run.nodes)));
    let verdict = verdict.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason is given");
        Err(Stop::Failed(format!("panicked: {text}")))
    });
    let took = clock.now().since(begun);
    Outcome { group: run.case.group, name: run.case.name, nodes: run.nodes, verdict, took }
}
