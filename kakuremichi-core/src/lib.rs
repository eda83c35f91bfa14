//! The domain of kakuremichi: identifiers, names, the model, plans, the policy engine and the
//! traits that others implement.
//!
//! Nothing in here does IO, reads a clock or draws a random number: time and identifiers come in
//! as arguments, so that every decision can be replayed in a test. Cryptography stays outside too:
//! content hashes are taken where bytes are made (`kakuremichi-proto`), and passwords are verified
//! where a thread may be kept busy (the gateway and Control).
//!
//! Where to look:
//! - [`model`]: what Control stores: organizations, nodes, sites, services, tokens, keys.
//! - [`plan`]: what a gateway or an agent is told to be, as a pure projection of the model.
//! - [`request`] and [`policy`]: one visitor's request, parsed once, and the decision about it.
//! - [`store`], [`auth`], [`audit`]: the extension traits.

pub mod audit;
pub mod auth;
pub mod backoff;
pub mod code;
pub mod email;
pub mod id;
pub mod key;
pub mod model;
pub mod name;
pub mod net;
pub mod plan;
pub mod policy;
pub mod request;
pub mod secret;
pub mod store;
pub mod time;
