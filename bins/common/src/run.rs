//! The life of a process that plays a role: settings, logs, a runtime, and then the role itself.

use std::io::Write as _;

use clap::ArgMatches;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::logging;
use crate::settings::{Common, Layers, environment};

/// Plays a role until it ends: loads the settings, or prints them when `--print-config` was given, starts
/// logging and a runtime, and calls `play` with the role's own settings and those that all roles have.
///
/// # Errors
///
/// Settings that make no sense, and whatever `play` returns.
pub fn role<S: DeserializeOwned>(
    layers: &Layers,
    matches: &ArgMatches,
    play: impl AsyncFnOnce(S, Common) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let layered = layers.load(matches, &environment)?;
    if layered.print_wanted() {
        return print(&layered.report());
    }
    let (own, common) = (layered.values()?, layered.values::<Common>()?);
    logging::start(&common.log)?;
    runtime()?.block_on(play(own, common))
}

/// The runtime of a process's own work. The data path has threads of its own.
///
/// # Errors
///
/// The system refuses threads or an epoll instance.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start a runtime", &error))
}

/// Prints what a command was asked for on stdout.
///
/// # Errors
///
/// Stdout cannot be written to.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::because("cannot write to stdout", &error))
}
