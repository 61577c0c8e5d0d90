//! `quorate conformance`: runs the conformance suite on a backend, each node a process of this program.

mod node;

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use quorate_conformance::{
    Backend, CASES, Stop,
    process::{ProcessBackend, ProcessConfig, Program},
    report::Report,
    runner::{Outcome, Run, Selection, run_all},
};
use quorate_core::runtime::{Clock, Rng};

use crate::{cli::ConformanceArgs, exit::Failure};

pub(crate) use node::run as run_node;

/// Cases at once for each core: they wait more than they work.
const CASES_PER_CORE: usize = 3;
const CASES_AT_ONCE_MAX: usize = 12;

/// Runs the cases and prints the report.
///
/// # Errors
/// [`Failure::Usage`] if there is nothing to run; [`Failure::Failed`] if a case failed.
pub(crate) fn run(args: &ConformanceArgs) -> Result<(), Failure> {
    if args.list {
        list();
        return Ok(());
    }
    let target = Target::of(args)?;
    let runs = selection(args)?.runs();
    if runs.is_empty() {
        return Err(Failure::Usage("no case of this name is for so many nodes".to_owned()));
    }
    let folder = Folder::make(args.keep.as_deref())?;
    let seed = args.seed.unwrap_or_else(|| Rng::system().below(1 << 32));
    let clock = Clock::system();
    let begun = clock.now();
    let backend = |run: Run| -> Box<dyn Backend> {
        Box::new(ProcessBackend {
            name: target.name,
            program: target.program.clone(),
            config: target.config.clone(),
            folder: folder.of(run.case.name, run.nodes),
            thorough: args.full,
            seed,
        })
    };
    let progress = Progress::new(runs.len());
    let told = |outcome: &Outcome| {
        if !matches!(outcome.verdict, Err(Stop::Failed(_))) {
            // What is left behind is in a temporary folder.
            let _ = fs::remove_dir_all(folder.of(outcome.name, outcome.nodes));
        }
        progress.tell(outcome);
    };
    let outcomes = run_all(runs, parallel(args), &backend, &told);
    progress.clear();
    let took = clock.now().since(begun);
    let again = target.again(args);
    let report = Report { backend: target.title, full: args.full, seed, took, outcomes, again };
    finish(args, &report, folder)
}

fn parallel(args: &ConformanceArgs) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    args.parallel.unwrap_or((cores * CASES_PER_CORE).min(CASES_AT_ONCE_MAX))
}

fn finish(args: &ConformanceArgs, report: &Report, folder: Folder) -> Result<(), Failure> {
    print!("{}", report.text(std::io::stdout().is_terminal()));
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", report.json());
        fs::write(path, text).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    }
    match report.counts().failed {
        0 => {
            folder.remove();
            Ok(())
        }
        failed => Err(Failure::Failed(format!(
            "{failed} cases failed; what their nodes kept and said is in {}",
            folder.0.display()
        ))),
    }
}

fn list() {
    for case in CASES {
        let sizes: Vec<String> = case.nodes.iter().map(ToString::to_string).collect();
        let full = if case.short.is_empty() { " (--full)" } else { "" };
        println!("{:<12} {:<62} {}{full}", case.group, case.name, sizes.join(","));
    }
}

fn selection(args: &ConformanceArgs) -> Result<Selection, Failure> {
    let known = |name: &&String| CASES.iter().any(|case| case.name == **name || case.group == **name);
    if let Some(name) = args.cases.iter().find(|name| !known(name)) {
        return Err(Failure::Usage(format!(
            "--case {name}: there is no such case and no such group; see --list"
        )));
    }
    Ok(Selection { nodes: args.nodes.clone(), full: args.full, named: args.cases.clone() })
}

/// What is put to the test.
struct Target {
    /// In words.
    title: String,
    name: &'static str,
    program: Program,
    config: Arc<ProcessConfig>,
    /// The options that name it.
    named: String,
}

impl Target {
    fn of(args: &ConformanceArgs) -> Result<Self, Failure> {
        let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
        let given =
            args.config.as_deref().map(ProcessConfig::read).transpose().map_err(|error| usage(&error))?;
        let given = given.unwrap_or_default();
        let program = std::env::current_exe().map_err(Failure::new)?;
        let mut arguments = vec!["conformance-node".into()];
        let (title, name, named, config) = match (&args.consensus, &args.plugin) {
            (Some(name), _) => {
                let (known, usual) = node::built_in(name).map_err(|error| usage(&error))?;
                arguments.extend(["--consensus".into(), name.into()]);
                (name.clone(), known, format!("--consensus {name}"), over(usual, given))
            }
            (None, Some(path)) => {
                let (title, config) = node::library(path, given).map_err(|error| usage(&error))?;
                arguments.extend(["--plugin".into(), path.into()]);
                (title, "plugin", format!("--plugin {}", path.display()), config)
            }
            (None, None) => {
                return Err(Failure::Usage("--plugin or --consensus says what to test".to_owned()));
            }
        };
        config.check().map_err(|error| usage(&error))?;
        let program = Program { path: program, arguments };
        Ok(Self { title, name, program, config: Arc::new(config), named })
    }

    /// The command line that runs the same again.
    fn again(&self, args: &ConformanceArgs) -> String {
        let config =
            args.config.as_ref().map_or_else(String::new, |path| format!(" --config {}", path.display()));
        let full = if args.full { " --full" } else { "" };
        format!("quorate conformance {}{config}{full}", self.named)
    }
}

/// The usual configuration of a backend, and over it what is given.
fn over(usual: ProcessConfig, given: ProcessConfig) -> ProcessConfig {
    let all = |usual: BTreeMap<String, String>, given: BTreeMap<String, String>| {
        usual.into_iter().chain(given).collect()
    };
    let plain = ProcessConfig::default();
    ProcessConfig {
        options: all(usual.options, given.options),
        bad_options: all(usual.bad_options, given.bad_options),
        external: given.external.or(usual.external),
        lacks: all(usual.lacks, given.lacks),
        short_tail: given.short_tail || usual.short_tail,
        quiet_ms: if given.quiet_ms == plain.quiet_ms { usual.quiet_ms } else { given.quiet_ms },
        patience_ms: if given.patience_ms == plain.patience_ms {
            usual.patience_ms
        } else {
            given.patience_ms
        },
        log_files: if given.log_files.is_empty() { usual.log_files } else { given.log_files },
    }
}

/// Where the nodes keep what they keep.
struct Folder(PathBuf);

impl Folder {
    fn make(wanted: Option<&Path>) -> Result<Self, Failure> {
        let number = Rng::system().next_u64();
        let path = wanted.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = path.join(format!("quorate-conformance-{number:016x}"));
        let made = fs::create_dir_all(&path).and_then(|()| path.canonicalize());
        made.map(Self).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
    }

    fn of(&self, case: &str, nodes: usize) -> PathBuf {
        self.0.join(format!("{case}-{nodes}"))
    }

    fn remove(self) {
        // It is a temporary folder.
        let _ = fs::remove_dir_all(self.0);
    }
}

/// A line on the terminal that says how far it has come; failures at once, terminal or not.
struct Progress {
    terminal: bool,
    all: usize,
    done: AtomicUsize,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), all, done: AtomicUsize::new(0) }
    }

    fn tell(&self, outcome: &Outcome) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let mut stderr = std::io::stderr().lock();
        // Progress that cannot be shown is not needed.
        if let Err(Stop::Failed(reason)) = &outcome.verdict {
            let clear = if self.terminal { "\r\x1b[K" } else { "" };
            let _ = writeln!(stderr, "{clear}failed: {} on {} nodes: {reason}", outcome.name, outcome.nodes);
        }
        if self.terminal {
            let _ = write!(stderr, "\r\x1b[K{done} of {}: {}", self.all, outcome.name);
            let _ = stderr.flush();
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
