//! HTTP services: from a visitor's connection to a target's and back.
//!
//! A connection is served by hyper behind a strict reader of its framing ([`guard`]). Each request is
//! read once ([`request`]), found in the table, decided on, and forwarded in the form in which it was
//! decided on ([`proxy`]), with header fields of ours ([`headers`]). What cannot be forwarded is
//! answered by a [`pages`] page. Bodies stream through ([`body`]); a WebSocket ([`upgrade`]) becomes a
//! [`relay`].

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod exchange;
mod guard;
mod headers;
mod io;
mod kept;
mod load;
pub(crate) mod pages;
mod proxy;
mod relay;
pub(crate) mod request;
mod sign_in;
mod target;
mod upgrade;
mod websocket;

#[cfg(test)]
mod tests;

pub(crate) use io::{Unguard, VisitorIo};
pub(crate) use kept::{Kept, TaskGuard};
pub(crate) use target::TargetTls;
