//! What has a name and little else.

use kakuremichi_core::id::{GroupId, OrganizationId};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, serde::rfc3339};

use super::text;
use crate::resource::{Create, Delete, Resource, Update};

/// What has a name only: the draft of an organization or a group, and how one is renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The name: 1 to 63 of `a`-`z`, `0`-`9` and `-`.
    pub name: String,
}

impl Named {
    /// A name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// A group of members.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Group {
    /// Its identifier.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: GroupId,
    /// Its name.
    pub name: String,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// An organization.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Organization {
    /// Its identifier.
    #[serde(deserialize_with = "text::deserialize")]
    pub id: OrganizationId,
    /// Its name.
    pub name: String,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Resource for Group {
    const COLLECTION: &'static str = "groups";
    const SCHEMA: &'static str = "GroupView";
    type Id = GroupId;
}

impl Create for Group {
    type Draft = Named;
    type Made = Self;
}

impl Update for Group {
    type Change = Named;
}

impl Delete for Group {}

impl Resource for Organization {
    const COLLECTION: &'static str = "organizations";
    const SCHEMA: &'static str = "OrganizationView";
    type Id = OrganizationId;
}

impl Create for Organization {
    type Draft = Named;
    type Made = Self;
}
