//! What the API has, and what can be done with it.

use std::fmt::Display;

use serde::{Serialize, de::DeserializeOwned};

/// A kind of thing that the API has.
pub trait Resource: DeserializeOwned + Send {
    /// Where the collection is, below `/api/v1/`.
    const COLLECTION: &'static str;
    /// The name of its schema in the API's document.
    const SCHEMA: &'static str;
    /// What it is known by.
    type Id: Display + Send + Sync;
}

/// A resource that is made from a draft.
pub trait Create: Resource {
    /// What is to be made.
    type Draft: Serialize + Sync;
    /// What is made: the resource, or more, such as a secret that is shown this once.
    type Made: DeserializeOwned + Send;
}

/// A resource that is described anew as a whole.
pub trait Replace: Create {}

/// A resource of which parts are changed.
pub trait Update: Resource {
    /// What changes.
    type Change: Serialize + Sync;
}

/// A resource that can be deleted.
pub trait Delete: Resource {}

/// A resource that can be revoked: it stays, and is of no use any more.
pub trait Revoke: Resource {}

/// A resource as it was read, with the tag of what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged<T> {
    /// The resource.
    pub value: T,
    /// Its `ETag`: a change that brings it is refused when somebody else changed the resource since.
    pub tag: String,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[non_exhaustive]
pub struct Listing<T> {
    /// The items. They have no tags here.
    pub items: Vec<T>,
    /// What the next part is asked with; `None` at the end. A part of a filtered list can be empty and not the last.
    pub next_cursor: Option<String>,
}
