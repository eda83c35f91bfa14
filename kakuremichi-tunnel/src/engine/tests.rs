//! Two shards over loopback.

mod bulk;
mod flows;
mod peers;
mod support;
