//! The node behind NAT: it dials out, and serves what its plan says, in this process or at a target.
//!
//! ```no_run
//! # async fn example(token: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use kakuremichi_tunnel::agent::{Agent, Service};
//!
//! let agent = Agent::builder("https://control.example.net", token)
//!     .state_dir("/var/lib/billing/kakuremichi")
//!     .spawn()
//!     .await?;
//! let mut listener = agent.expose(Service::http("billing.example.net").public()).await?;
//! println!("serving at {}", listener.url());
//! while let Ok(stream) = listener.accept().await {
//!     println!("{} came", stream.visitor().source());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An agent is one thread of its own, the shard: link to Control, lanes, flows, dials and health checks
//! run on it. The streams that come out of it wake tasks of whatever runtime they are used on.

mod builder;
mod check;
mod checks;
mod conductor;
mod exposure;
mod feed;
mod flows;
mod handle;
mod health;
mod incoming;
mod lanes;
mod listener;
mod service;
mod sessions;
mod streams;
mod table;
mod transport;
mod view;
mod visitor;

pub use crate::lane::LanePreference;
pub use builder::AgentBuilder;
pub use check::CheckError;
pub use handle::{Agent, ShutdownReport};
pub use listener::{BACKLOG, Forward, TunnelListener, TunnelUdp};
pub use service::{Service, ServiceError};
pub use table::FlowDenial;
pub use transport::{LaneDial, LaneStream, LaneTransport};
pub use visitor::{ConnectionId, TlsFacts, Visitor, VisitorSession, VisitorStream};

#[cfg(test)]
mod tests;
