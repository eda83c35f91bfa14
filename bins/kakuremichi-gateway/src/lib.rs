//! The gateway as a role that a process plays: by itself in `kakuremichi-gateway`, beside the others in
//! `kakuremichi quickstart`.

mod config;
mod role;
mod source;

pub use config::{SETTINGS, SHARDS, Settings, shards};
pub use role::{play, refusal};
pub use source::Source;
