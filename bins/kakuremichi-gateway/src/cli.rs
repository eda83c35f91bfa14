//! The command line.

use clap::Command;
use kakuremichi_bins_common::{Failure, Layers, Role, run, settings};
use kakuremichi_gateway_bin::{SETTINGS, Settings, play};

/// Runs the command that the arguments name.
pub(crate) fn run() -> Result<(), Failure> {
    let layers = Layers::new(Role::Gateway, SETTINGS);
    let command = Command::new("kakuremichi-gateway")
        .about("The public entry node of kakuremichi: TLS, routing, access, and lanes to agents")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(layers.flags(Command::new("run").about("Run the gateway until it is told to end")));
    let matches = settings::arguments(command)?;
    match matches.subcommand() {
        Some(("run", matches)) => run::role::<Settings>(&layers, matches, play),
        _ => Err(Failure::usage("a command is missing: run")),
    }
}
