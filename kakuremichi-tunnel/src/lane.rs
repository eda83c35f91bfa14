//! Whether the path between an agent and a gateway works, and what the agent says about its targets.
//!
//! "Online" means that the data path works (DESIGN invariant 6): a probe, an ICMPv6 echo, went through
//! the tunnel and came back. [`PathState`] times the probes of one peer and judges the answers.
//! [`feed`] is the flow that an agent keeps open to each of its gateways, on which it reports the health
//! of its targets: it reaches the gateway with Control away.
//!
//! Everything in here is pure: time and random numbers are arguments.

pub mod feed;
mod path;

pub use path::{Change, PathHealth, PathState, Probe, Timing};
