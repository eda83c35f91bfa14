//! Service tokens: by which programs reach services.

use kakuremichi_core::{
    id::ServiceTokenId,
    model::ServiceToken,
    name::Label,
    policy::{Access, Method},
    secret::Secret,
    store::{Mutation, Stored, UniqueKey, Version},
    time::Timestamp,
};
use kakuremichi_proto::identity::ServiceTokenText;

use super::{Actor, Reference, UseCaseError, UseCases, at_version, now, random, update, written};

/// The most bytes of a service token in a plan.
const ENCODED_TOKEN: usize = 128;

/// A service token to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTokenDraft {
    /// What it is for, unique in the organization.
    pub name: Label,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// What of a service token somebody wants to be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceTokenChange {
    /// Its name.
    pub name: Option<Label>,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// A service token that was made.
#[derive(Debug, Clone)]
pub struct NewServiceToken {
    /// What is stored.
    pub token: Stored<ServiceToken>,
    /// The text for the program. It is shown this once: only a hash is stored.
    pub text: Secret<String>,
}

impl UseCases {
    /// Makes a service token. It opens what a policy says that takes it, and nothing at Control.
    ///
    /// # Errors
    /// When the draft is not valid, its name is taken, what gateways are told has no room for it, or the storage fails.
    pub async fn create_service_token(
        &self,
        actor: &Actor,
        draft: ServiceTokenDraft,
    ) -> Result<NewServiceToken, UseCaseError> {
        let created = now();
        ends_later(draft.expires)?;
        self.room_for(actor, ENCODED_TOKEN)?;
        let text = ServiceTokenText::new(Secret::new(random()?));
        let token = ServiceToken {
            id: ServiceTokenId::from_bytes(random()?),
            organization: actor.organization,
            name: draft.name,
            secret_hash: text.secret_hash(),
            expires: draft.expires,
            created,
        };
        let create = vec![Mutation::Create(token.clone().into())];
        self.commit(actor, "service_token.create", token.id, create)
            .await?;
        Ok(NewServiceToken {
            token: written(token, None),
            text: text.to_text(),
        })
    }

    /// Reads a service token.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn service_token(
        &self,
        actor: &Actor,
        id: ServiceTokenId,
    ) -> Result<Stored<ServiceToken>, UseCaseError> {
        self.load(actor, id).await
    }

    /// Changes the name of a service token, or when it ends. Its secret stays what it is.
    ///
    /// # Errors
    /// When it is not there, is not at the version that is expected, the change is not valid, the name is taken, or
    /// the storage fails.
    pub async fn update_service_token(
        &self,
        actor: &Actor,
        id: ServiceTokenId,
        change: ServiceTokenChange,
        expected: Option<Version>,
    ) -> Result<Stored<ServiceToken>, UseCaseError> {
        ends_later(change.expires)?;
        let stored = self.service_token(actor, id).await?;
        at_version(&stored, expected)?;
        let token = ServiceToken {
            name: change.name.unwrap_or_else(|| stored.value.name.clone()),
            expires: change.expires.or(stored.value.expires),
            ..stored.value.clone()
        };
        if token == stored.value {
            return Ok(stored);
        }
        let write = vec![update(token.clone(), stored.version)];
        self.commit(actor, "service_token.update", id, write).await?;
        Ok(written(token, Some(stored.version)))
    }

    /// Deletes a service token: whatever is open by it is closed, and it opens nothing any more. Policies that name it
    /// go on to name it, and take nobody for it.
    ///
    /// # Errors
    /// When it is not there, is not at the version that is expected, or the storage fails.
    pub async fn delete_service_token(
        &self,
        actor: &Actor,
        id: ServiceTokenId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let stored = self.service_token(actor, id).await?;
        at_version(&stored, expected)?;
        let delete = vec![Mutation::Delete(id.into(), Some(stored.version))];
        self.commit(actor, "service_token.delete", id, delete).await?;
        Ok(())
    }

    /// Which service token is meant, in the actor's organization.
    pub(super) async fn find_service_token(
        &self,
        actor: &Actor,
        wanted: &Reference<ServiceTokenId>,
    ) -> Result<Option<ServiceToken>, UseCaseError> {
        let found = match wanted {
            Reference::Id(id) => self.store().get((*id).into()).await?,
            Reference::Name(name) => {
                let key = UniqueKey::ServiceTokenName(actor.organization, name.clone());
                self.store().find(&key).await?
            }
        };
        let found = found.and_then(Stored::narrow::<ServiceToken>);
        let found = found.map(|stored| stored.value);
        Ok(found.filter(|token| token.organization == actor.organization))
    }

    /// Finds the service tokens that a method at the field `at` names. One that was named before, and deleted since, is
    /// not asked after: a policy can be described anew as it was read.
    pub(super) async fn resolve_service_tokens(
        &self,
        actor: &Actor,
        at: &str,
        wanted: &[Reference<ServiceTokenId>],
        old: Option<&Access>,
    ) -> Result<Vec<ServiceTokenId>, UseCaseError> {
        let methods = old.map(Access::methods).unwrap_or_default();
        let named = |id: &ServiceTokenId| {
            methods
                .iter()
                .any(|method| matches!(method, Method::ServiceToken { tokens } if tokens.contains(id)))
        };
        let mut ids = Vec::with_capacity(wanted.len());
        for (index, wanted) in wanted.iter().enumerate() {
            let id = match wanted {
                Reference::Id(id) if named(id) => *id,
                wanted => {
                    let found = self.find_service_token(actor, wanted).await?;
                    let missing = || {
                        let field = format!("{at}.service_token.tokens[{index}]");
                        UseCaseError::field(field, "there is no such service token in this organization")
                    };
                    found.ok_or_else(missing)?.id
                }
            };
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

fn ends_later(expires: Option<Timestamp>) -> Result<(), UseCaseError> {
    if expires.is_some_and(|expires| expires <= now()) {
        return Err(UseCaseError::field("expires", "the time has passed already"));
    }
    Ok(())
}
