//! The control link under virtual time: what it does when everything works, and when nothing does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "session/common.rs"]
mod common;
#[path = "session/faults.rs"]
mod faults;
#[path = "session/handshake.rs"]
mod handshake;
#[path = "session/plans.rs"]
mod plans;
#[path = "session/random.rs"]
mod random;
#[path = "session/requests.rs"]
mod requests;
#[path = "session/rotation.rs"]
mod rotation;
