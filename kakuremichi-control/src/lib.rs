//! kakuremichi-control.
#![forbid(unsafe_code)]

pub mod planner;
pub mod serve;
pub mod service;
pub mod store;
pub mod tls;

mod text;
