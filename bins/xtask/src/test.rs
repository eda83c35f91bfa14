//! Every test there is, in builds that share as much as they can.

use std::path::Path;

use crate::component::Need;
use crate::setup;
use crate::step::{Error, Steps};
use crate::workspace::{cargo, metadata};

/// Setup, then all tests.
pub(crate) fn run(steps: &mut Steps, without: &[String]) -> Result<(), Error> {
    setup::run(steps, Need::Tests, without)?;
    let (_, target) = metadata()?;

    // The binaries that the end to end tests start must come from the same feature resolution as the tests, or
    // half the tree is built twice: `--tests` brings the development dependencies in.
    let build = [
        "build",
        "--locked",
        "--workspace",
        "--all-features",
        "--bins",
        "--tests",
        "--examples",
    ];
    steps.program("test: build", &mut cargo(&build))?;
    let all = [
        "test",
        "--locked",
        "--workspace",
        "--all-features",
        "--no-fail-fast",
    ];
    let binaries = target.join("debug");
    steps.program(
        "test: everything",
        with_environment(&mut cargo(&all), &binaries, without),
    )?;

    // Each bench once, without measuring anything: what is not run rots.
    let benches = [
        "test",
        "--locked",
        "--workspace",
        "--all-features",
        "--bench",
        "*",
    ];
    steps.program("test: the benches run", &mut cargo(&benches))?;

    // The pure layer alone: without the engine's features, and so without tokio.
    let pure = [
        "test",
        "--locked",
        "--package",
        "kakuremichi-tunnel",
        "--no-default-features",
        "--no-fail-fast",
    ];
    steps.program("test: the pure layer of kakuremichi-tunnel", &mut cargo(&pure))?;

    // Their corpora are replayed by the crates that they fuzz; here the targets only have to build.
    let fuzz = [
        "check",
        "--locked",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--no-default-features",
    ];
    let mut fuzz = cargo(&fuzz);
    fuzz.env("CARGO_TARGET_DIR", &target);
    steps.program("test: the fuzz targets build", &mut fuzz)?;
    Ok(())
}

/// Tells the end to end tests where the binaries are and what to do without.
fn with_environment<'a>(
    command: &'a mut std::process::Command,
    binaries: &Path,
    without: &[String],
) -> &'a mut std::process::Command {
    command
        .env("KAKUREMICHI_TEST_BINARIES", binaries)
        .env("KAKUREMICHI_TEST_WITHOUT", without.join(","))
}
