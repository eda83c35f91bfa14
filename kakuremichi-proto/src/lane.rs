//! What crosses a lane beside the bytes of visitors.
//!
//! - [`feed`]: what an agent, or another gateway, tells a gateway, over lanes of any kind.
//! - [`hello`]: how the two ends of a connection of a TLS stream lane prove who they are.
//! - [`record`]: what such a connection carries from then on.

pub mod feed;
pub mod hello;
pub mod record;

pub use feed::{
    AgentReach, FEED_PORT, FeedError, FeedFrame, MAX_FEED_AGENTS, MAX_FEED_FRAME, MAX_FEED_TARGETS,
    RELAY_PORT, TargetHealth, encode_agents, encode_draining, encode_targets, parse,
};
