//! The resources, as the API's document describes them. What a newer Control says besides is not read, but in
//! [policies](policy), where it is kept.

pub(crate) mod condition;
pub(crate) mod credential;
pub(crate) mod named;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod service;
mod text;

#[cfg(test)]
mod tests;
