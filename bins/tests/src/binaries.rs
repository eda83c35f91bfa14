//! Where the product's binaries are.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The directory of binaries that are already built; set by `cargo xtask test`.
pub const BINARIES: &str = "KAKUREMICHI_TEST_BINARIES";

/// The product's binaries; each one's package is its name and `-bin`.
const NAMES: [&str; 4] = [
    "kakuremichi",
    "kakuremichi-control",
    "kakuremichi-gateway",
    "kakuremichi-agent",
];

/// A binary of the product, built when needed: a plain `cargo test -p kakuremichi-tests` works too.
///
/// # Panics
///
/// The build fails, or there is no such binary.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| match env::var_os(BINARIES) {
        Some(directory) => directory.into(),
        None => build(),
    });
    let path = directory.join(name);
    assert!(path.is_file(), "there is no {}", path.display());
    path
}

/// Builds into the profile and target directory that this test comes from. cargo's own lock lets test binaries that
/// run side by side build once.
fn build() -> PathBuf {
    let test = env::current_exe().unwrap();
    // target/PROFILE/deps/test
    let directory = test.parent().and_then(|deps| deps.parent()).unwrap().to_owned();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--profile", profile]);
    command
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"));
    command.arg("--target-dir").arg(directory.parent().unwrap());
    for name in NAMES {
        command.arg("--package").arg(format!("{name}-bin"));
    }
    let status = command.status().expect("cargo starts");
    assert!(status.success(), "building the binaries: {status}");
    directory
}
