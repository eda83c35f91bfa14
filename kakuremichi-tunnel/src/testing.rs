//! What fuzz targets and tests outside of this crate run.

pub mod fuzzing;
pub mod hostile;
