//! The control plane of kakuremichi: it keeps the model, tells each node what to be, and never carries what
//! visitors send.
//!
//! [`Control`] is built from a [`Store`](kakuremichi_core::store::Store) and mounted as an axum router, in the
//! `kakuremichi-control` binary or in a server of your own.
//!
//! Where to look:
//! - [`service`]: what can be done to the model, without HTTP: one transaction each, with its audit entry.
//! - [`planner`]: from the model to each node's plan, whenever it changes.
//! - [`hub`]: where nodes connect.
//! - [`api`]: the REST API, and its OpenAPI document.
//! - [`store`]: the model in an SQL database.
//! - [`backup`]: all of it in one file.
//! - [`serve`] and [`tls`]: a listener for those who have none.
#![forbid(unsafe_code)]

pub mod api;
pub mod backup;
pub mod hub;
pub mod planner;
pub mod serve;
pub mod service;
pub mod store;
pub mod tls;

mod browser;
mod control;
mod federation;
mod identity;
mod lease;
mod mail;
mod memo;
mod pages;
mod text;
mod webhook;

pub use control::{BuildError, Control, ControlBuilder, LEASE, NODE_DOWN_AFTER};
pub use identity::{IdentityError, identity_key};
pub use mail::{MAX_MAILS_UNDER_WAY, MAX_WAITING_MAILS, MailError, Mailer};
