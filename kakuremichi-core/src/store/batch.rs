//! What is written together.

use super::{IdempotentRequest, RecordId, RecordKind, Sequence, StoreError, StoreRecord, UniqueKey, Version};
use crate::{
    audit::AuditEntry,
    id::TokenId,
    model::{Role, TokenUnusable},
    time::Timestamp,
};

/// Mutations that happen together or not at all, and the deed that they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The mutations, applied in order.
    pub mutations: Vec<Mutation>,
    /// Who did it.
    pub audit: AuditEntry,
    /// The request that it carries out, if that may be sent again: then the same is not done twice. The time that it
    /// is remembered at is that of the audit entry.
    pub request: Option<IdempotentRequest>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Adds a record, whose identifier and unique values must be free.
    Create(StoreRecord),
    /// Replaces a record that still has this version, and whose new unique values must be free.
    Update(StoreRecord, Version),
    /// Removes a record, if given only one that still has this version.
    Delete(RecordId, Option<Version>),
    /// Takes one use from an enrolment token, which must be usable: one conditional statement, so that two
    /// who come at once never both get the last use.
    ConsumeToken {
        /// The token.
        token: TokenId,
        /// The role of the node that enrols.
        role: Role,
        /// The time at which the token must be valid.
        now: Timestamp,
    },
}

impl Mutation {
    /// The record that is changed.
    #[must_use]
    pub const fn record(&self) -> RecordId {
        match self {
            Self::Create(record) | Self::Update(record, _) => record.id(),
            Self::Delete(id, _) => *id,
            Self::ConsumeToken { token, .. } => RecordId::Token(*token),
        }
    }
}

/// A batch was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The last change-feed row of the batch.
    pub sequence: Sequence,
}

/// Why nothing of a batch was applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A record to be created is there already.
    #[error("{0:?} exists already")]
    Exists(RecordId),
    /// Another record has this value.
    #[error("{key} is taken by {holder:?}")]
    Taken {
        /// The value.
        key: UniqueKey,
        /// Who has it.
        holder: RecordId,
    },
    /// A record to be changed is not there.
    #[error("{0:?} does not exist")]
    Missing(RecordId),
    /// A record changed since it was read.
    #[error("{0:?} changed since it was read")]
    Stale(RecordId),
    /// The token enrols nobody, or not this node.
    #[error(transparent)]
    Token(#[from] TokenUnusable),
    /// The organization has as many records of the kind as it may.
    #[error("an organization has at most {most} of {kind:?}")]
    Bound {
        /// The kind.
        kind: RecordKind,
        /// How many it may have.
        most: usize,
    },
    /// The request was carried out already, perhaps a moment ago.
    #[error("the request was carried out already")]
    Repeated,
    /// The storage failed. Whether the batch was applied is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
}
