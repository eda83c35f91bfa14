//! In a process of its own, because the umask belongs to the whole process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use kakuremichi_bins_common::process;

/// DESIGN, invariant 10: every secret file is 0600, also one that a library creates.
#[test]
fn files_and_directories_are_for_this_user_only() {
    process::private_files();
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("database");
    fs::write(&file, "x").unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let directory = top.path().join("directory");
    fs::create_dir(&directory).unwrap();
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
}
