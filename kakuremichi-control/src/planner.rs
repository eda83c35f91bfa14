//! From the model to plans.
//!
//! [`Landscape`] is what Control knows of one organization; a plan is a pure projection of it for one
//! node. [`Affects`] tells from a changed record whose plan can differ at all, so that one change does
//! not recompute everybody's.

mod affected;
mod project;

pub use affected::Affects;
pub use project::{Landscape, service_urls};
