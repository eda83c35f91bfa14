//! Whether the path between an agent and a gateway works.
//!
//! "Online" means that the data path works (DESIGN invariant 6): a probe, an ICMPv6 echo, went through
//! the tunnel and came back. [`PathState`] times the probes of one peer and judges the answers.
//!
//! Everything in here is pure: time and random numbers are arguments.

mod path;

pub use path::{Change, PathHealth, PathState, Probe, Timing, is_another_round_trip};
