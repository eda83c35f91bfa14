//! Enrolment tokens.

use kakuremichi_core::{
    id::TokenId,
    model::{DeclareScope, EnrolmentToken, Labels, Permission, Permissions, Role},
    name::Label,
    secret::Secret,
    store::{Mutation, Stored, Version},
    time::Timestamp,
};
use kakuremichi_proto::identity::TokenText;

use super::{ATTEMPTS, Actor, UseCaseError, UseCases, at_version, now, random, update, written};

/// The most hosts, and the most ranges of ports, of one scope.
pub const MAX_SCOPE: usize = 256;

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenDraft {
    /// What it is for.
    pub name: Label,
    /// What the nodes are to be.
    pub role: Role,
    /// How many nodes may enrol; `None` is without end.
    pub uses: Option<u32>,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// What agents may declare.
    pub declare: DeclareScope,
    /// Whether somebody has to approve each node.
    pub approval: bool,
    /// The labels that the nodes begin with.
    pub labels: Labels,
}

/// A token that was made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What is stored.
    pub token: Stored<EnrolmentToken>,
    /// The text for the nodes. It is shown this once: only a hash is stored.
    pub text: Secret<String>,
}

impl UseCases {
    /// Makes a token.
    ///
    /// # Errors
    /// When the draft is not valid, agents could publish with it what the actor may not, or the storage fails.
    pub async fn create_token(&self, actor: &Actor, draft: TokenDraft) -> Result<NewToken, UseCaseError> {
        if !draft.declare.is_empty() {
            // Whoever enrols with it publishes services.
            actor.may_give(Permissions::NONE.with(Permission::ServicesWrite))?;
        }
        let created = now();
        if draft.uses == Some(0) {
            return Err(UseCaseError::field(
                "uses",
                "a token of no use: give at least 1, or leave it out",
            ));
        }
        if draft.expires.is_some_and(|expires| expires <= created) {
            return Err(UseCaseError::field("expires", "the time has passed already"));
        }
        if draft.role == Role::Gateway && !draft.declare.is_empty() {
            return Err(UseCaseError::field(
                "declare",
                "gateways declare nothing: leave it out",
            ));
        }
        if draft.declare.hosts.len() > MAX_SCOPE || draft.declare.ports.len() > MAX_SCOPE {
            return Err(UseCaseError::field(
                "declare",
                format!("a scope has at most {MAX_SCOPE} hosts and port ranges"),
            ));
        }
        let text = TokenText::new(Secret::new(random()?), self.0.control, self.0.ca);
        let token = EnrolmentToken {
            id: TokenId::from_bytes(random()?),
            organization: actor.organization,
            name: draft.name,
            role: draft.role,
            secret_hash: text.secret_hash(),
            uses_left: draft.uses,
            expires: draft.expires,
            revoked: None,
            declare: draft.declare,
            approval: draft.approval,
            labels: draft.labels,
            created,
        };
        let create = vec![Mutation::Create(token.clone().into())];
        self.commit(actor, "token.create", token.id, create).await?;
        Ok(NewToken {
            token: written(token, None),
            text: text.to_text(),
        })
    }

    /// Reads a token.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn token(&self, actor: &Actor, id: TokenId) -> Result<Stored<EnrolmentToken>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Deletes a token: it enrols nobody any more, and is listed no longer. Nodes that enrolled with it stay.
    ///
    /// # Errors
    /// When it is not there, is not at the version that is expected, or the storage fails.
    pub async fn delete_token(
        &self,
        actor: &Actor,
        id: TokenId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        for _ in 0..ATTEMPTS {
            let stored = self.token(actor, id).await?;
            at_version(&stored, expected)?;
            let delete = vec![Mutation::Delete(id.into(), Some(stored.version))];
            match self
                .commit(actor, "token.delete", id, delete)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(()),
                // Somebody enrolled with it just now.
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Revokes a token: it enrols nobody any more. Nodes that enrolled with it stay. Doing it again changes
    /// nothing.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn revoke_token(
        &self,
        actor: &Actor,
        id: TokenId,
    ) -> Result<Stored<EnrolmentToken>, UseCaseError> {
        for _ in 0..ATTEMPTS {
            let stored = self.token(actor, id).await?;
            if stored.value.revoked.is_some() {
                return Ok(stored);
            }
            let token = EnrolmentToken {
                revoked: Some(now()),
                ..stored.value
            };
            let write = vec![update(token.clone(), stored.version)];
            match self
                .commit(actor, "token.revoke", id, write)
                .await
                .map_err(Into::into)
            {
                Ok(_) => return Ok(written(token, Some(stored.version))),
                Err(UseCaseError::Contended) => {}
                Err(error) => return Err(error),
            }
        }
        Err(UseCaseError::Contended)
    }
}
