//! `quorate tied`: turns itself into another program that dies with its parent.

use std::{os::unix::process::CommandExt as _, process::Command};

use crate::{cli::TiedArgs, exit::Failure, parent};

/// Does not return, unless it fails.
pub(crate) fn run(args: &TiedArgs) -> Failure {
    if let Err(error) = parent::die_with(args.parent) {
        return Failure::new(error);
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Failure::config("no program is given");
    };
    let error = Command::new(program).args(arguments).exec();
    Failure::Failed(format!("{}: {error}", program.display()))
}
