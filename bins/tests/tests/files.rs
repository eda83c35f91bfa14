//! What the data directories hold is for their owner alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use kakuremichi_tests::{Deployment, Origin};

/// DESIGN section 2, invariant 10: every secret file is 0600.
#[test]
fn every_file_is_private_but_the_authorities_certificate() {
    let Some(mut world) = Deployment::start() else {
        return;
    };
    let origin = Origin::on(world.edge(), "origin");
    world.publish("web", origin.port());
    let directories = [
        world.control.data().to_owned(),
        world.gateways[0].data().to_owned(),
        world.agent.data().to_owned(),
    ];
    for directory in &directories {
        let files = private(directory);
        assert!(files > 3, "{} has only {files} files", directory.display());
    }
    // A file that was opened to others by mistake is closed again.
    let plan = world.agent.data().join("plan");
    fs::set_permissions(&plan, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(world.agent.stop().success());
    world.agent.start_again();
    world.agent.ready();
    // What they leave is as private as what they work with.
    assert!(world.gateways[0].stop().success());
    assert!(world.agent.stop().success());
    assert!(world.control.process().stop().success());
    for directory in &directories {
        private(directory);
    }
}

/// Checks a directory and all that is in it; returns how many files that is.
#[track_caller]
fn private(directory: &Path) -> usize {
    assert_eq!(mode(directory), 0o700, "{}", directory.display());
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files += private(&path);
            continue;
        }
        // A file may go while we look, such as one that is about to replace another.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let expected = if path.ends_with("ca.pem") { 0o644 } else { 0o600 };
        assert_eq!(metadata.mode() & 0o7777, expected, "{}", path.display());
        files += 1;
    }
    files
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}
