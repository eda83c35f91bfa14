//! The `kakuremichi` binary.

mod cli;
mod quickstart;
mod remote;

use std::process::ExitCode;

use kakuremichi_bins_common::{failure::finish, process};

fn main() -> ExitCode {
    process::private_files();
    finish("kakuremichi", cli::run())
}
