//! The command line.

use clap::Command;
use kakuremichi_bins_common::{Failure, Layers, Role, run, settings};

use crate::{
    quickstart::{SETTINGS, Settings, play},
    remote,
};

/// Runs the command that the arguments name.
pub(crate) fn run() -> Result<(), Failure> {
    let layers = Layers::new(Role::Quickstart, SETTINGS);
    let quickstart = Command::new("quickstart")
        .about("Run Control, a gateway and an agent in this process, and publish a demo service");
    let command = Command::new("kakuremichi")
        .about("Publish what sits behind NAT, to exactly the people who may see it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(layers.flags(quickstart))
        .subcommands(remote::commands());
    let matches = settings::arguments(command)?;
    match matches.subcommand() {
        Some(("quickstart", matches)) => run::role::<Settings>(&layers, matches, play),
        Some((name, matches)) => {
            remote::run(name, matches).unwrap_or_else(|| Err(Failure::usage("there is no such command")))
        }
        None => Err(Failure::usage("a command is missing: see --help")),
    }
}
