//! `quorate topic`, `produce` and `consume`: small clients, so that a machine without any other sees a record go round.

mod consume;
mod partitioner;
mod produce;
mod session;
mod topic;
mod words;

use std::future::Future;

use quorate_core::runtime::Runtime;

use crate::{
    cli::{ConsumeArgs, ProduceArgs, TopicCommand},
    exit::Failure,
};

/// Creates, lists or describes topics.
///
/// # Errors
/// A plain sentence that says what is wrong.
pub(crate) fn topic(command: &TopicCommand) -> Result<(), Failure> {
    run(|runtime| topic::run(command, runtime))
}

/// Writes records.
///
/// # Errors
/// As [`topic()`].
pub(crate) fn produce(args: &ProduceArgs) -> Result<(), Failure> {
    run(|runtime| produce::run(args, runtime))
}

/// Reads records.
///
/// # Errors
/// As [`topic()`].
pub(crate) fn consume(args: &ConsumeArgs) -> Result<(), Failure> {
    run(|runtime| consume::run(args, runtime))
}

fn run<F: Future<Output = Result<(), String>>>(command: impl FnOnce(Runtime) -> F) -> Result<(), Failure> {
    let executor =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let outcome = executor.block_on(async { command(Runtime::real()).await });
    // A thread may still wait for the standard input: it is not waited for.
    executor.shutdown_background();
    outcome.map_err(Failure::Failed)
}
