//! Two shards over loopback.

#[cfg(feature = "testing")]
mod abuse;
mod bulk;
mod calls;
mod flows;
mod mtu;
mod peers;
mod rotation;
mod sessions;
mod shards;
#[cfg(target_os = "linux")]
mod simulation;
mod support;
