//! The `kakuremichi-control` binary.

mod cli;

use std::process::ExitCode;

use kakuremichi_bins_common::{failure::finish, process};

fn main() -> ExitCode {
    process::private_files();
    finish("kakuremichi-control", cli::run())
}
