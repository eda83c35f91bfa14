//! Control as a role that a process plays: by itself in `kakuremichi-control`, beside the others in
//! `kakuremichi quickstart`.

mod config;
mod files;
mod role;

pub use config::{Config, Door, SETTINGS, Security, Settings};
pub use files::Files;
pub use role::{ControlRole, Source, bind};
