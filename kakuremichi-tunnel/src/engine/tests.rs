//! Two shards over loopback.

mod bulk;
mod calls;
mod flows;
mod mtu;
mod peers;
mod sessions;
mod shards;
#[cfg(target_os = "linux")]
mod simulation;
mod support;
