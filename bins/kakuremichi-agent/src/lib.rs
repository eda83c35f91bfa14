//! The agent as a role that a process plays: by itself in `kakuremichi-agent`, beside the others in
//! `kakuremichi quickstart`.

mod config;
mod role;
mod source;

pub use config::{Lane, SETTINGS, Settings};
pub use role::play;
pub use source::Source;
