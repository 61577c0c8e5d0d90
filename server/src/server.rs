//! `quorate server`: reads the configuration, then checks it or runs a node from it.

use std::{fs, path::Path};

use crate::{
    cli::ServerArgs,
    config::{
        self, ServerConfig, check,
        settings::{Settings, Sources},
    },
    exit::Failure,
    logging, node, parent,
};

/// Runs a node until it is told to stop, or checks its configuration.
///
/// # Errors
/// If the configuration is wrong, the node cannot start, or it fails for good.
pub(crate) fn run(args: &ServerArgs) -> Result<(), Failure> {
    if let Some(parent) = args.parent {
        parent::die_with(parent).map_err(Failure::new)?;
    }
    let environment = config::environment();
    let filter = environment.iter().find(|(name, _)| name == "RUST_LOG").map(|(_, value)| value.clone());
    let (settings, config) = load(&args.file, &args.all_overrides(), environment)?;
    if args.check {
        node::check(&config)?;
        print!("{}", check::report(&settings));
        for note in &settings.notes {
            eprintln!("quorate: {note}");
        }
        return Ok(());
    }
    logging::start(config.json_logs, filter.as_deref())?;
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    node::run(&config)
}

/// Reads a node's configuration.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load(
    path: &Path,
    overrides: &[String],
    environment: Vec<(String, String)>,
) -> Result<(Settings, ServerConfig), Failure> {
    let text =
        fs::read_to_string(path).map_err(|error| Failure::config(format!("{}: {error}", path.display())))?;
    let sources = Sources { file: Some((path, &text)), environment, overrides };
    let settings = Settings::gather(&sources).map_err(Failure::config)?;
    let config = ServerConfig::from_settings(&settings).map_err(Failure::config)?;
    Ok((settings, config))
}
