//! Replays the corpora of the fuzz targets on the stable compiler.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf};

use kakuremichi_proto::testing::fuzzing;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        run(&fs::read(file).unwrap());
    }
}

#[test]
fn frame() {
    replay("frame", fuzzing::frame);
}

#[test]
fn session() {
    replay("session", fuzzing::session);
}

#[test]
fn lane() {
    replay("lane", fuzzing::lane);
}

#[test]
fn proxy_header() {
    replay("proxy_header", fuzzing::proxy_header);
}
