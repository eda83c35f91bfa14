//! The command line.

use clap::Command;
use kakuremichi_agent_bin::{SETTINGS, Settings, play};
use kakuremichi_bins_common::{Failure, Layers, Role, run, settings};

/// Runs the command that the arguments name.
pub(crate) fn run() -> Result<(), Failure> {
    let layers = Layers::new(Role::Agent, SETTINGS);
    let command = Command::new("kakuremichi-agent")
        .about("The edge node of kakuremichi: dials out, and carries visitors to services near it")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(layers.flags(Command::new("run").about("Run the agent until it is told to end")));
    let matches = settings::arguments(command)?;
    match matches.subcommand() {
        Some(("run", matches)) => run::role::<Settings>(&layers, matches, play),
        _ => Err(Failure::usage("a command is missing: run")),
    }
}
