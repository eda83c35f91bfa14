//! Installs what is missing, and nothing else.

use std::path::PathBuf;
use std::process::Command;

use crate::component::{self, Component, Need, Source};
use crate::step::{Error, Steps};
use crate::workspace;

/// Installs the missing components of one kind.
///
/// # Errors
///
/// Names the component that could not be had, and how to do without it.
pub(crate) fn run(steps: &mut Steps, need: Need, without: &[String]) -> Result<(), Error> {
    for component in component::ALL.iter().filter(|component| component.need == need) {
        let name = component.name;
        if without.iter().any(|left_out| left_out == name) {
            steps.not_run(&format!("setup of {name}"), "left out by --without");
        } else if !component.present() {
            steps.step(&format!("setup: {name}, {}", component.purpose), || {
                install(component)
            })?;
        }
    }
    Ok(())
}

fn install(component: &Component) -> Result<(), Error> {
    match component.source {
        Source::Apt(package) => apt(package),
        Source::Npm(package) => npm(package),
        Source::Cargo(package) => cargo(package),
        Source::Pip(package) => pip(package),
        Source::CargoPeer { package, locked } => cargo_peer(package, locked),
        Source::GoPeer(package) => go(&["install", package]),
        Source::GoTestPeer(directory) => {
            let out = peers().join("bin").join(component.name);
            let out = out.display().to_string();
            go(&["test", "-C", directory, "-c", "-o", &out, "."])
        }
    }
    .and_then(|()| {
        if component.present() {
            Ok(())
        } else {
            Err("installed, but its programs are not found".to_owned())
        }
    })
    .map_err(|why| {
        let name = component.name;
        Error::Refused(format!(
            "{name} cannot be had: {why}; `--without {name}` leaves it out"
        ))
    })
}

fn apt(package: &str) -> Result<(), String> {
    let install = ["install", "--yes", "--no-install-recommends", package];
    // The package lists may be missing or old: once more after reading them anew.
    if apt_get(&install).is_err() {
        apt_get(&["update"])?;
        apt_get(&install)?;
    }
    Ok(())
}

fn apt_get(words: &[&str]) -> Result<(), String> {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        command.args(["--non-interactive", "apt-get"]);
    }
    run_program(
        command
            .arg("--quiet")
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn npm(package: &str) -> Result<(), String> {
    let directory = workspace::root().join(component::NPM);
    run_program(
        Command::new("npm")
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--prefix",
            ])
            .arg(directory)
            .arg(package),
    )
}

/// A tool that runs for seconds is not worth minutes of optimising.
fn cargo(package: &str) -> Result<(), String> {
    run_program(
        Command::new("cargo")
            .args(["install", "--locked", package])
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    )
}

/// In an environment of its own: Debian's Python takes nothing from elsewhere.
fn pip(package: &str) -> Result<(), String> {
    let environment = workspace::root().join(component::PYTHON);
    let make = || run_program(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    if make().is_err() {
        apt("python3-venv")?;
        make()?;
    }
    run_program(Command::new(environment.join("bin/pip")).args(["install", "--quiet", package]))
}

/// What is measured is built as its authors build it.
fn cargo_peer(package: &str, locked: bool) -> Result<(), String> {
    let mut install = Command::new("cargo");
    install.args(["install", package, "--root"]).arg(peers());
    if locked {
        install.arg("--locked");
    }
    run_program(&mut install)
}

fn go(words: &[&str]) -> Result<(), String> {
    let bin = peers().join("bin");
    run_program(
        Command::new("go")
            .args(words)
            .current_dir(workspace::root())
            .env("GOBIN", bin),
    )
}

/// An absolute path, as Go wants it.
fn peers() -> PathBuf {
    let peers = workspace::root().join(component::PEERS);
    std::path::absolute(&peers).unwrap_or(peers)
}

fn run_program(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program}: {status}")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
