//! Where a node's plan comes from: most of all, the link to Control.
//!
//! [`ControlLink`] dials Control's WebSocket, lets Control prove itself, proves the node or enrols it, and
//! drives the session of `kakuremichi-proto` on it: plans come in and are kept on disk before they are
//! acknowledged; status, usage, declarations go out. It reconnects for ever, with a jittered pause of at
//! most 30 seconds, and resolves the name anew each time; it ends only when asking again is of no use,
//! and says why.
//!
//! The plan on disk is served before there is a connection, and while there is none: the link is no part
//! of the data path.
//!
//! [`PlanSource`] is the trait behind it; [`FixedPlan`] is the other source that comes with this crate.

pub(crate) mod candidates;
mod control;
pub(crate) mod dial;
mod driver;
mod egress;
mod fixed;
mod rotation;
mod session;
mod socket;
mod status;
mod supply;
mod tls;
mod url;

pub use control::ControlLink;
pub use dial::DialError;
#[cfg(feature = "gateway")]
pub(crate) use driver::on_disk;
pub use egress::{EgressProxy, EgressProxyError, ProxyFailure};
pub use fixed::FixedPlan;
pub use socket::ConnectError;
pub use status::{LinkEnd, LinkError, LinkStatus, SetupError};
pub use supply::{Answers, NodeRecord, Order, PlanSource, RotateKeysError, SourceFuture, Supply, Wishes};
#[cfg(any(feature = "agent", feature = "gateway"))]
pub(crate) use supply::{NodeSide, OwnKeys, RotationAnswer, rotate, supply};
#[cfg(feature = "gateway")]
pub(crate) use tls::system_roots;
pub use url::{ControlUrl, UrlError};

#[cfg(test)]
pub(crate) mod tests;
