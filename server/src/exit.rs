//! How the process ends: with a sentence on the standard error and a code that a supervisor understands.

use std::{fmt, process::ExitCode};

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration, or what it names, must be changed first: another try changes nothing.
    Config(String),
    /// The command was given what it cannot do anything with.
    #[cfg_attr(
        not(feature = "conformance"),
        expect(dead_code, reason = "only one command checks what it is given itself")
    )]
    Usage(String),
    /// Anything else.
    Failed(String),
}

impl Failure {
    /// A failure that is not the configuration's.
    pub(crate) fn new(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// A failure that only another configuration mends.
    pub(crate) fn config(error: impl fmt::Display) -> Self {
        Self::Config(error.to_string())
    }
}

/// The exit codes, for the help text.
pub(crate) const CODES: &str = "Exit codes: 0 done or stopped in order; 1 failed, \
also where a node cannot go on and says what must be done first; 2 the command line was not \
understood; 78 the configuration must be changed before another try.";

/// `EX_CONFIG` of BSD's sysexits, which systemd's `RestartPreventExitStatus` is told.
const CONFIG_CODE: u8 = 78;

/// What the parser of the command line exits with, too.
const USAGE_CODE: u8 = 2;

/// Says what is to be said and gives the code.
pub(crate) fn report(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(problem)) => {
            eprintln!("quorate: {problem}");
            ExitCode::FAILURE
        }
        Err(Failure::Usage(problem)) => {
            eprintln!("quorate: {problem}");
            ExitCode::from(USAGE_CODE)
        }
        Err(Failure::Config(problem)) => {
            eprintln!("quorate: {problem}");
            ExitCode::from(CONFIG_CODE)
        }
    }
}
