//! Whether a file changed.

use std::{fs, path::Path, time::SystemTime};

/// What tells one state of a file from another: its length, and when it was changed. `None`: it is not there.
pub(super) type Stamp = Option<(u64, Option<SystemTime>)>;

/// How a file is now.
pub(super) fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()))
}
