//! What fuzz targets, benches and tests outside of this crate run.

pub mod fuzzing;
pub mod hostile;
#[cfg(all(feature = "agent", feature = "gateway"))]
pub mod lane;

pub use crate::netstack::testing::{Timers, Turns};
