//! The tables, one module each.
#![expect(
    unreachable_pub,
    reason = "what the derive macros make is pub, and so must be what it names"
)]

pub(super) mod api_key;
pub(super) mod audit;
pub(super) mod change;
pub(super) mod idempotency;
pub(super) mod lease;
pub(super) mod memo;
pub(super) mod meta;
pub(super) mod node;
pub(super) mod organization;
pub(super) mod people;
pub(super) mod policy;
pub(super) mod service;
pub(super) mod site;
pub(super) mod token;
pub(super) mod unique_key;
pub(super) mod usage_report;
pub(super) mod usage_step;
pub(super) mod usage_total;
