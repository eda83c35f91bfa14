//! The one place where the engine reads the clock.

#![expect(
    clippy::disallowed_methods,
    reason = "everything else takes the time from here, as an argument"
)]

use std::time::Instant;

pub(super) fn now() -> Instant {
    Instant::now()
}
