//! Side by side with others, from one command.

use std::process::Command;

use crate::component::Need;
use crate::setup;
use crate::step::{Error, Steps};
use crate::workspace::{cargo, metadata};

/// Installs what is measured and what measures, builds ours, and runs the comparison.
pub(crate) fn run(steps: &mut Steps, arguments: &[String]) -> Result<(), Error> {
    setup::run(steps, Need::Benches, &[])?;
    let mut build = cargo(&["build", "--release", "--locked"]);
    let packages = ["benches", "control-bin", "gateway-bin", "agent-bin"];
    for package in packages {
        build.args(["--package", &format!("kakuremichi-{package}")]);
    }
    steps.program("compare: a release build", &mut build)?;
    let (_, target) = metadata()?;
    let program = target.join("release/compare");
    steps.program("compare", Command::new(program).args(arguments))
}
