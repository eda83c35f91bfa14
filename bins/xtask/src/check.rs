//! Everything that is checked without running the product.

use std::env;
use std::path::PathBuf;

use crate::component::Need;
use crate::setup;
use crate::step::{Error, Steps};
use crate::workspace::{Package, cargo, metadata, root, tree};

/// Distinct crates that an embedded agent may bring, itself and the standard features included.
const AGENT_CRATES_MAX: usize = 120;

/// fmt, clippy, docs, cargo deny, and the rules about dependencies.
pub(crate) fn run(steps: &mut Steps, without: &[String]) -> Result<(), Error> {
    setup::run(steps, Need::Checks, without)?;
    steps.program("check: fmt", &mut cargo(&["fmt", "--all", "--check"]))?;
    if root().join("fuzz/Cargo.toml").is_file() {
        let fuzz = ["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"];
        steps.program("check: fmt of fuzz", &mut cargo(&fuzz))?;
    }
    steps.step("check: the agent's tree", agent_tree)?;
    steps.step("check: the pure layer's tree", pure_tree)?;
    deny(steps, without)?;
    clippy(steps)?;
    let mut doc = cargo(&["doc", "--locked", "--no-deps", "--workspace", "--all-features"]);
    steps.program("check: docs", doc.env("RUSTDOCFLAGS", "--deny warnings"))
}

fn agent_tree() -> Result<(), Error> {
    let crates = tree("kakuremichi-tunnel", &[])?;
    println!("   {} distinct crates, {AGENT_CRATES_MAX} allowed", crates.len());
    if crates.len() <= AGENT_CRATES_MAX {
        return Ok(());
    }
    let (count, list) = (crates.len(), crates.join(", "));
    Err(Error::Refused(format!(
        "the agent brings {count} crates, {AGENT_CRATES_MAX} are allowed: {list}"
    )))
}

fn pure_tree() -> Result<(), Error> {
    let crates = tree("kakuremichi-tunnel", &["--no-default-features"])?;
    println!("   {} distinct crates", crates.len());
    match crates.iter().find(|name| name.starts_with("tokio")) {
        Some(found) => Err(Error::Refused(format!(
            "{found} is in the tree of the pure layer"
        ))),
        None => Ok(()),
    }
}

fn deny(steps: &mut Steps, without: &[String]) -> Result<(), Error> {
    if without.iter().any(|name| name == "cargo-deny") {
        steps.not_run("cargo deny", "left out by --without");
        return Ok(());
    }
    let rules = ["deny", "check", "licenses", "bans", "sources"];
    steps.program("check: licences, bans and sources", &mut cargo(&rules))?;
    if has_advisories() {
        let advisories = ["deny", "--offline", "check", "advisories"];
        steps.program("check: advisories", &mut cargo(&advisories))
    } else {
        steps.not_run("check of advisories", "no advisory database here");
        Ok(())
    }
}

/// Whether cargo-deny has a copy of the database: an attempt to get one leaves an empty directory.
fn has_advisories() -> bool {
    let copies = advisory_databases().read_dir().into_iter().flatten().flatten();
    copies.into_iter().any(|entry| entry.path().is_dir())
}

/// Where cargo-deny keeps its copies.
fn advisory_databases() -> PathBuf {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    home.unwrap_or_default().join("advisory-dbs")
}

/// All features of everything at once; then each package by itself, because in a workspace one member's choice of
/// features hides what another forgot. Warnings are denied through clippy's own arguments: RUSTFLAGS would build
/// every dependency anew.
fn clippy(steps: &mut Steps) -> Result<(), Error> {
    let deny = ["--", "--deny", "warnings"];
    let all = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-features",
        "--all-targets",
    ];
    steps.program("check: clippy, all features", cargo(&all).args(deny))?;
    let (packages, _) = metadata()?;
    for Package { name, defaults } in &packages {
        let alone = ["clippy", "--locked", "--package", name];
        let mut default = cargo(&alone);
        let default = default.arg("--all-targets").args(deny);
        steps.program(&format!("check: clippy {name}, default features"), default)?;
        if *defaults {
            let mut bare = cargo(&alone);
            let bare = bare.arg("--no-default-features").args(deny);
            steps.program(&format!("check: clippy {name}, no features"), bare)?;
        }
    }
    Ok(())
}
