//! Rows into records and back: what all tables share.

use std::{error::Error, str::FromStr};

use kakuremichi_core::{
    id::{NodeId, OrganizationId},
    store::{RecordId, StoreError, Version},
    time::Timestamp,
};
use serde::{Serialize, de::DeserializeOwned};

/// A column does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[error("the column {column} is not valid")]
pub(super) struct RowError {
    column: &'static str,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

impl RowError {
    pub(super) fn new(column: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            column,
            source: source.into(),
        }
    }

    pub(super) fn of(self, record: RecordId) -> StoreError {
        StoreError::Corrupt {
            record,
            source: Box::new(self),
        }
    }
}

/// The primary key of a record: its 16 bytes. A node's have its role before them, so that keys sort as
/// identifiers do.
pub(super) fn key(id: RecordId) -> Vec<u8> {
    match id {
        RecordId::Organization(id) => id.as_bytes().to_vec(),
        RecordId::Node(node) => {
            let role = match node {
                NodeId::Agent(_) => 0,
                NodeId::Gateway(_) => 1,
            };
            [&[role], node.as_bytes().as_slice()].concat()
        }
        RecordId::Site(id) => id.as_bytes().to_vec(),
        RecordId::Service(id) => id.as_bytes().to_vec(),
        RecordId::Token(id) => id.as_bytes().to_vec(),
        RecordId::ApiKey(id) => id.as_bytes().to_vec(),
        RecordId::User(id) => id.as_bytes().to_vec(),
        RecordId::Role(id) => id.as_bytes().to_vec(),
        RecordId::Group(id) => id.as_bytes().to_vec(),
        RecordId::Member(id) => id.as_bytes().to_vec(),
        RecordId::Invitation(id) => id.as_bytes().to_vec(),
        RecordId::Session(id) => id.as_bytes().to_vec(),
        RecordId::Policy(id) => id.as_bytes().to_vec(),
        RecordId::IdentityProvider(id) => id.as_bytes().to_vec(),
        RecordId::Channel(id) => id.as_bytes().to_vec(),
        RecordId::ServiceToken(id) => id.as_bytes().to_vec(),
    }
}

pub(super) fn bytes<const N: usize>(column: &'static str, value: &[u8]) -> Result<[u8; N], RowError> {
    value
        .try_into()
        .map_err(|error: std::array::TryFromSliceError| RowError::new(column, error))
}

pub(super) fn node_id(value: &[u8]) -> Result<NodeId, RowError> {
    match value {
        [0, id @ ..] => Ok(kakuremichi_core::id::AgentId::from_bytes(bytes("id", id)?).into()),
        [1, id @ ..] => Ok(kakuremichi_core::id::GatewayId::from_bytes(bytes("id", id)?).into()),
        _ => Err(RowError::new("id", "a node's key starts with 0 or 1")),
    }
}

pub(super) fn organization(value: &[u8]) -> Result<OrganizationId, RowError> {
    bytes("organization", value).map(OrganizationId::from_bytes)
}

/// The organization of a change; empty for what is of the whole Control.
pub(super) fn owner_of_change(organization: Option<OrganizationId>) -> Vec<u8> {
    organization.map(|id| key(id.into())).unwrap_or_default()
}

pub(super) fn text<T>(column: &'static str, value: &str) -> Result<T, RowError>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    value
        .parse()
        .map_err(|error: T::Err| RowError::new(column, error))
}

pub(super) fn json<T: DeserializeOwned>(column: &'static str, value: &str) -> Result<T, RowError> {
    serde_json::from_str(value).map_err(|error| RowError::new(column, error))
}

pub(super) fn to_json<T: Serialize>(column: &'static str, value: &T) -> Result<String, RowError> {
    serde_json::to_string(value).map_err(|error| RowError::new(column, error))
}

pub(super) const fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A number that is never negative, in a column that could be. It stops at the end of the column's range.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The other way round.
pub(super) fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

pub(super) fn version(count: i64) -> Version {
    Version(number(count))
}
