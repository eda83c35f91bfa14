//! What crosses a lane beside the bytes of visitors.
//!
//! - [`feed`]: what an agent tells a gateway about its targets, over lanes of any kind.
//! - [`hello`]: how the two ends of a connection of a TLS stream lane prove who they are.
//! - [`record`]: what such a connection carries from then on.

pub mod feed;
pub mod hello;
pub mod record;

pub use feed::{
    FEED_PORT, FeedError, FeedFrame, MAX_FEED_FRAME, MAX_FEED_TARGETS, TargetHealth, encode_draining,
    encode_targets, parse,
};
