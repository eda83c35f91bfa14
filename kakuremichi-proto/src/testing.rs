//! Two sessions under virtual time, and a sample of every message.
//!
//! [`Pair`] runs a real [`Client`](crate::session::Client) against real
//! [`Server`](crate::session::Server)s over a model of the network that can be cut at any byte, delayed,
//! and made to deliver frames twice. Around them stand models of what drives them in earnest: a
//! [`Node`] with a disk, and a [`Hub`] with a database. Both can be restarted. Whatever happened,
//! [`Pair::converge`] checks that in the end both sides agree on everything.

pub mod fuzzing;
mod hub;
mod keys;
mod node;
mod pair;
mod pipe;
pub mod samples;

pub use hub::Hub;
pub use keys::{ToyKeys, ToyVerifier};
pub use node::Node;
pub use pair::Pair;
pub use pipe::Direction;
