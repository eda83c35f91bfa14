//! What fuzz targets, benches and tests outside of this crate run.

pub mod fuzzing;
pub mod hostile;

pub use crate::netstack::testing::{Timers, Turns};
