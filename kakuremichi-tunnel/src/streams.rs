//! TLS stream lanes: the connections of which they are made, and what runs over those.
//!
//! The agent dials the gateway's HTTPS port and keeps a few connections open ([`crate::lane::Pool`]). Each
//! proves both ends' identities ([`hello`]) and then carries the records of
//! [`kakuremichi_proto::lane::record`]: one flow at a time, as a stream ([`flow`]), between a socket and
//! the lane ([`pump`]) or as a session of datagrams ([`datagrams`]). After a clean end it is used again, after an error never ([`finish`]).
//!
//! ```text
//!   visitor's socket ── pump ── Connection ── TLS ── Socket ═══ Socket ── TLS ── Connection ── pump ── target
//! ```
//!
//! Back-pressure is TCP's own: what one socket does not take is not read from the other. No buffer in here
//! is longer than a record.

pub(crate) mod connection;
#[cfg(any(feature = "agent", feature = "gateway"))]
pub(crate) mod datagrams;
pub(crate) mod finish;
pub(crate) mod flow;
pub(crate) mod hello;
#[cfg(any(test, feature = "agent"))]
pub(crate) mod idle;
pub(crate) mod pump;
pub(crate) mod socket;
pub(crate) mod splice;
pub(crate) mod tls;
pub(crate) mod websocket;

#[cfg(test)]
mod tests;
