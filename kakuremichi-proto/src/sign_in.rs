//! Signing in to a service: what Control hands to a gateway through the visitor's browser, and what gateways hand to
//! each other.
//!
//! A gateway that wants to know who a visitor is sends the browser to Control, with the hash of a secret that it has
//! left in a cookie of the host. Control finds out who it is and sends the browser back with a [`Ticket`], signed by
//! Control, good once, for a minute, at that host and in that browser. The gateway gives a [`GatewaySession`] for it,
//! signed by the gateway, which every gateway of the organization verifies without asking anybody: the keys are in
//! its plan, as is who the person is now.

mod session;
mod signed;
mod ticket;

pub use session::{GATEWAY_SESSION_LIFE, GatewaySession};
pub use signed::{SignedError, key_id};
pub use ticket::{TICKET_LIFE, Ticket};

/// The path below which gateways answer themselves, at every host: nothing of it reaches a target.
pub const RESERVED_PATH: &str = "/.kakuremichi/";
/// Where Control sends the browser with a ticket, at the host that it is for.
pub const ARRIVAL_PATH: &str = "/.kakuremichi/signed-in";
/// Where a visitor signs out, at any host.
pub const SIGN_OUT_PATH: &str = "/.kakuremichi/sign-out";
/// Where gateways send browsers that are to sign in, below Control's URL. The query has `service`, `host`, `port`,
/// `binding` and `strength`, and perhaps `max_age`.
pub const CONTROL_PATH: &str = "/sign-in/service";

/// What a gateway asks Control in the query of a browser that it sends there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignInQuery {
    /// The identifier of the service.
    pub service: String,
    /// The host at which the visitor asks for it.
    pub host: String,
    /// The port of the gateway's HTTPS listener, as the visitor sees it.
    pub port: u16,
    /// The SHA-256 of the secret in the cookie, in base 64 for URLs (RFC 4648, section 5, no padding).
    pub binding: String,
    /// How strongly the visitor has to sign in: `one-factor`, `two-factors` or `phishing-resistant`.
    pub strength: String,
    /// How long ago the visitor may have signed in, or confirmed it, in seconds. A gateway that asks so takes a ticket
    /// that says when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
}
