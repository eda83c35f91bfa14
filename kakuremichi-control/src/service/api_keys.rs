//! API keys.

use kakuremichi_core::{
    id::ApiKeyId,
    model::{ApiKey, Permissions},
    name::Label,
    secret::Secret,
    store::{Mutation, Stored, UniqueKey, Version},
    time::Timestamp,
};
use kakuremichi_proto::identity::ApiKeyText;

use super::{Actor, UseCaseError, UseCases, at_version, now, random, written};

/// An API key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyDraft {
    /// What it is for.
    pub name: Label,
    /// What it may do.
    pub permissions: Permissions,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// An API key that was made.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// What is stored.
    pub key: Stored<ApiKey>,
    /// The text to send as a bearer token. It is shown this once: only a hash is stored.
    pub text: Secret<String>,
}

impl UseCases {
    /// Makes an API key.
    ///
    /// # Errors
    /// When the draft is not valid, the key could do what the actor may not, or the storage fails.
    pub async fn create_api_key(&self, actor: &Actor, draft: ApiKeyDraft) -> Result<NewApiKey, UseCaseError> {
        actor.may_give(draft.permissions)?;
        let created = now();
        if draft.expires.is_some_and(|expires| expires <= created) {
            return Err(UseCaseError::field("expires", "the time has passed already"));
        }
        let text = ApiKeyText::new(Secret::new(random()?));
        let key = ApiKey {
            id: ApiKeyId::from_bytes(random()?),
            organization: actor.organization,
            name: draft.name,
            secret_hash: text.secret_hash(),
            permissions: draft.permissions,
            maker: actor.behind,
            expires: draft.expires,
            created,
        };
        let create = vec![Mutation::Create(key.clone().into())];
        self.commit(actor, "api_key.create", key.id, create).await?;
        Ok(NewApiKey {
            key: written(key, None),
            text: text.to_text(),
        })
    }

    /// Reads an API key.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn api_key(&self, actor: &Actor, id: ApiKeyId) -> Result<Stored<ApiKey>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Deletes an API key: it opens nothing any more. Whoever may delete keys may delete every one, also one that can do
    /// what they cannot: that gives them nothing, and a key that leaked is to be ended by whoever notices first.
    ///
    /// # Errors
    /// When it is not there, is not at the version that is expected, or the storage fails.
    pub async fn delete_api_key(
        &self,
        actor: &Actor,
        id: ApiKeyId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let stored = self.api_key(actor, id).await?;
        at_version(&stored, expected)?;
        let delete = vec![Mutation::Delete(id.into(), Some(stored.version))];
        self.commit(actor, "api_key.delete", id, delete).await?;
        Ok(())
    }

    /// Who shows this text, if it is an API key that is good now. It can do no more than the person who made it: not what
    /// they lost since, and nothing once they are in the organization no more.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn actor_of(&self, text: &str) -> Result<Option<Actor>, UseCaseError> {
        let Ok(shown) = text.parse::<ApiKeyText>() else {
            return Ok(None);
        };
        let hash = shown.secret_hash();
        let found = self
            .store()
            .find(&UniqueKey::ApiKeySecret(*hash.as_bytes()))
            .await?;
        let Some(Stored { value: key, .. }) = found.and_then(Stored::narrow::<ApiKey>) else {
            return Ok(None);
        };
        let good = key.secret_hash == hash && key.expires.is_none_or(|expires| now() < expires);
        if !good {
            return Ok(None);
        }
        let Some(maker) = key.maker else {
            return Ok(Some(Actor::api_key(&key, key.permissions)));
        };
        let may = self.rights_of(maker, key.organization).await?;
        Ok(may.map(|may| Actor::api_key(&key, key.permissions.intersection(may))))
    }
}
