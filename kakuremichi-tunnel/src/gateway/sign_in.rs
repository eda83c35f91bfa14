//! Visitors who sign in: a browser is sent to Control, comes back with a ticket, and gets a session of this gateway,
//! which every gateway of the organization takes.
//!
//! [`People`] is what the plan says: where to sign in, whose signatures count, and who everybody is now. It verifies
//! sessions without asking anybody. [`SignInDesk`] sends browsers away and takes the tickets that they come back with;
//! it has the [keys](SigningKeys) that sessions are signed with. [`cookies`] is what lies in the browser.

pub(crate) mod cookies;
mod desk;
mod keys;
mod people;
mod tickets;

pub(crate) use desk::{ArrivalError, SignInDesk};
pub(crate) use keys::SigningKeys;
pub(crate) use people::People;
