//! Every byte between kakuremichi nodes, and the state machines that exchange them.
//!
//! Nothing in here does IO, reads a clock or draws a random number. Bytes and time go in, bytes and
//! events come out; keys stay with whoever owns them, behind [`identity::Signer`].
//!
//! Where to look:
//! - [`session`]: the control link, both sides of it. [`session::Client`] is a node, [`session::Server`]
//!   is Control.
//! - [`frame`] and [`message`]: what crosses the link, as a registry of tags and frozen structs.
//! - [`plan`]: a plan as it crosses the link and as it lies on a node's disk.
//! - [`identity`]: tokens, API keys, and what is signed when two sides meet.
//! - [`preface`], [`flow`] and [`lane`]: what crosses the data path before, and beside, the bytes of
//!   visitors.
//! - [`sign_in`]: what crosses the visitor's browser when it signs in to a service.
//! - [`convert`]: from wire types to domain types, where every field is checked.
//! - `testing` (a cargo feature): two sessions under virtual time, and a sample of every message.
#![forbid(unsafe_code)]

pub mod capability;
pub mod codec;
pub mod convert;
pub mod declare;
pub mod flow;
pub mod frame;
pub mod identity;
pub mod lane;
pub mod message;
pub mod plan;
pub mod preface;
pub mod report;
pub mod session;
pub mod sign_in;
pub mod version;

#[cfg(feature = "testing")]
pub mod testing;
