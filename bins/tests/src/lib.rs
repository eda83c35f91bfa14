//! The harness of the end to end tests: real binaries, in network namespaces of their own, visited by real clients.
//!
//! - [`net`]: hosts with addresses, on one network or behind a NAT that nothing gets through from outside.
//! - [`process`]: a binary with its output captured, killed when dropped.
//! - [`origin`]: what is published: pages, uploads, WebSockets, raw TCP, all checkable byte by byte.
//! - [`client`]: visitors with a CA of their choice and names that resolve where they say.
//! - [`chromium`]: a visitor's browser, with an authenticator for passkeys.
//! - [`traffic`]: a visitor that asks again and again, and counts.
//! - [`deployment`]: Control, gateways and an agent behind NAT, enrolled and running.
//! - [`stock`]: a WireGuard device that is not ours.
//! - [`mails`]: a mail server.
//! - [`postgres`]: a PostgreSQL server.
//!
//! Tests wait for conditions ([`wait`]), never for time. Without root, or without a component, they fail and name
//! it, unless `KAKUREMICHI_TEST_WITHOUT` says to do without ([`component`]).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a harness fails by panicking, and explains on stderr"
)]

pub mod binaries;
pub mod ca;
pub mod chromium;
pub mod client;
pub mod component;
pub mod deployment;
pub mod geo;
pub mod mails;
pub mod net;
pub mod oidc;
pub mod origin;
pub mod pattern;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod stock;
pub mod traffic;
pub mod wait;

pub use ca::TestCa;
pub use client::{Connection, Reply, Version, Visitor, VisitorError};
pub use deployment::Deployment;
pub use mails::{Mail, Mails};
pub use net::{Families, Host, Namespace, Network};
pub use origin::{Delivery, Echo, Hooks, Manner, Origin};
pub use pattern::Pattern;
pub use postgres::Postgres;
pub use process::{Process, Program};
pub use proxy::Proxy;
pub use stock::StockPeer;
pub use traffic::Traffic;
