//! Two shards over loopback.

mod bulk;
mod flows;
mod peers;
mod shards;
mod support;
