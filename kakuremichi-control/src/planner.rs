//! From the model to plans.
//!
//! [`Landscape`] is what Control knows of one organization, with an index of who depends on what: a changed
//! record tells what of whose plan can differ. A plan is a pure projection of the landscape for one node;
//! records that several nodes have are encoded once and shared. The `feed` reads the store's changes, and
//! the `board` hands each node its newest plan.

mod board;
mod feed;
mod landscape;
mod people;
mod plans;
mod project;
mod urls;

pub use landscape::{Landscape, Touched};
pub use urls::service_urls;

pub(crate) use board::{NodeKeys, PlanBoard, Planned};
pub(crate) use feed::run;
pub(crate) use project::{encoded_len, encoded_policy_len};
