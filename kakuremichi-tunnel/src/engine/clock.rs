//! The one place where the engine reads the clock.

#![expect(
    clippy::disallowed_methods,
    reason = "everything else takes the time from here, as an argument"
)]

use std::time::{Instant, SystemTime};

pub(super) fn now() -> Instant {
    Instant::now()
}

/// The time of day, which somebody may set.
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}
