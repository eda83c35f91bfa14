//! What cargo says about the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::step::{Error, output};

/// A member of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Has features unless told otherwise, and so is another package without them.
    pub(crate) defaults: bool,
}

/// The workspace's directory: xtask's own is two below it.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `cargo WORDS`, to be run from the workspace's directory.
pub(crate) fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(root());
    command
}

/// The members and the target directory.
pub(crate) fn metadata() -> Result<(Vec<Package>, PathBuf), Error> {
    let text = output(&mut cargo(&["metadata", "--format-version=1", "--no-deps"]))?;
    let odd = || Error::Refused("cargo metadata speaks another language".to_owned());
    let metadata: Value = serde_json::from_str(&text).map_err(|_| odd())?;
    let target = metadata["target_directory"].as_str().ok_or_else(odd)?;
    let mut packages = Vec::new();
    for package in metadata["packages"].as_array().ok_or_else(odd)? {
        let name = package["name"].as_str().ok_or_else(odd)?.to_owned();
        let defaults = package["features"]["default"].as_array();
        let defaults = defaults.is_some_and(|features| !features.is_empty());
        packages.push(Package { name, defaults });
    }
    Ok((packages, PathBuf::from(target)))
}

/// The distinct crates (name and version) that a package's code is built from, itself among them.
pub(crate) fn tree(package: &str, features: &[&str]) -> Result<Vec<String>, Error> {
    let mut command = cargo(&[
        "tree",
        "--locked",
        "--edges=normal",
        "--prefix=none",
        "--package",
        package,
    ]);
    let text = output(command.args(features))?;
    Ok(distinct(&text))
}

fn distinct(text: &str) -> Vec<String> {
    let crate_of = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.next()?))
    };
    let mut crates: Vec<String> = text.lines().filter_map(crate_of).collect();
    crates.sort_unstable();
    crates.dedup();
    crates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_counts_once_per_version() {
        let text = "a v1.0.0 (/somewhere)\nb v1.0.0\nb v2.0.0\nb v1.0.0 (*)\nc v0.1.0 (proc-macro)\n\n";
        assert_eq!(distinct(text), ["a v1.0.0", "b v1.0.0", "b v2.0.0", "c v0.1.0"]);
    }
}
