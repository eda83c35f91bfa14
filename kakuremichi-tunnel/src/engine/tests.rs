//! Two shards over loopback.

mod bulk;
mod flows;
mod peers;
mod shards;
#[cfg(target_os = "linux")]
mod simulation;
mod support;
