//! The binary `quorate`: the process around the broker. See `ARCHITECTURE.md` for the map.
#![forbid(unsafe_code)]

mod backend;
mod cli;
mod client;
mod config;
#[cfg(feature = "conformance")]
mod conformance;
mod consensus;
mod dev;
mod exit;
mod fetch_page;
mod http;
mod leadership;
#[cfg(feature = "plugin")]
mod library;
mod listener;
mod logging;
mod metrics;
mod node;
mod parent;
mod peers;
mod readiness;
mod server;
mod signals;
mod tied;
mod version;
mod waiting;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Dev(args) => dev::run(&args),
        Command::Server(args) => server::run(&args),
        Command::Topic(command) => client::topic(&command),
        Command::Produce(args) => client::produce(&args),
        Command::Consume(args) => client::consume(&args),
        Command::Consensus(command) => consensus::run(&command),
        Command::Version(args) => {
            println!("{}", version::text(args.json));
            Ok(())
        }
        #[cfg(feature = "conformance")]
        Command::Conformance(args) => conformance::run(&args),
        #[cfg(feature = "conformance")]
        Command::ConformanceNode(args) => conformance::run_node(&args),
        Command::Tied(args) => Err(tied::run(&args)),
    };
    exit::report(outcome)
}
