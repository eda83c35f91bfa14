//! Waiting for a condition, with a deadline that only a broken product reaches.

use std::thread;
use std::time::{Duration, Instant};

/// Enough for anything that works, on a machine that builds something else meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` finds something.
///
/// # Panics
///
/// After [`PATIENCE`]; `what` is part of the message.
#[track_caller]
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// [`until`] with a deadline of its own.
///
/// # Panics
///
/// After `patience`.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < patience,
            "waited {patience:?} in vain for {what}"
        );
        thread::sleep(PAUSE);
    }
}

/// [`until`] for looks that tell what they see instead; the last of it is part of the message.
///
/// # Panics
///
/// After [`PATIENCE`].
#[track_caller]
pub fn until_right<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(
                start.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain for {what}; at last: {seen}"
            ),
        }
        thread::sleep(PAUSE);
    }
}

/// [`until`] for asynchronous looks.
///
/// # Panics
///
/// After [`PATIENCE`].
pub async fn until_async<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    });
    match found.await {
        Ok(found) => found,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}
