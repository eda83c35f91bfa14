//! Whether the paths between an agent and a gateway work, and which of them carries flows.
//!
//! "Online" means that the data path works (DESIGN invariant 6): a probe went through the lane and came
//! back, an ICMPv6 echo through WireGuard, a record through a connection of TLS streams. [`PathState`]
//! times the probes of one path and judges the answers; [`PathMtu`] those that are padded, which find out
//! how long packets may be; [`LaneChoice`] picks the lane for new flows by what they tell; [`Pool`] says how
//! many connections a lane of TLS streams keeps.
//!
//! Everything in here is pure: time and random numbers are arguments.

mod choice;
mod mtu;
#[cfg(test)]
mod outages;
mod path;
mod pool;

pub use choice::{ChoiceTiming, LaneChoice, LanePreference, TlsWanted};
pub use mtu::{PaddedProbe, PathMtu};
pub use path::{Change, PathHealth, PathState, Probe, Timing, is_another_round_trip};
pub use pool::{Pool, PoolLimits};
