//! Replays the corpora of the fuzz targets on the stable compiler.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf};

use kakuremichi_tunnel::testing::fuzzing;

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
fn ip_packet() {
    replay("ip_packet", fuzzing::ip_packet);
}

#[test]
fn wg_datagram() {
    replay("wg_datagram", fuzzing::wg_datagram);
}

#[test]
fn netstack() {
    replay("netstack", fuzzing::netstack);
}
