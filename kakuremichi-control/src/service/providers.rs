//! Identity providers: who else may vouch for people.

use std::collections::{BTreeMap, BTreeSet};

use kakuremichi_core::{
    id::{OrganizationId, ProviderId, RoleId},
    model::{
        ClaimNames, IdentityProvider, LinkedIdentity, MAX_GROUP_ROLES, MAX_PROVIDER_SCOPES, Member,
        Organization, ProviderProtocol, Session, User,
    },
    name::Label,
    secret::Secret,
    store::{Mutation, Query, RecordKind, Stored, UniqueKey, Version},
};
use openidconnect::url::{Host, Url};

use super::{
    Actor, Place, UseCaseError, UseCases, at_version, now, random, update, users::administrator, written,
};

/// The most identity providers of one organization, and of the whole Control.
pub const MAX_PROVIDERS: usize = 32;
/// The longest URL of a provider, in bytes.
const MAX_URL: usize = 2048;
/// The longest other text of one, in bytes.
const MAX_TEXT: usize = 512;

/// An identity provider to be.
#[derive(Debug, Clone)]
pub struct ProviderDraft {
    /// Whether it is of the whole Control, which is an administrator's to say, once.
    pub server_wide: bool,
    /// Its name.
    pub name: Label,
    /// How it is spoken to.
    pub protocol: ProviderProtocol,
    /// What it calls this Control.
    pub client_id: String,
    /// The secret that goes with it; the one that is stored stays if none is given.
    pub client_secret: Option<Secret<String>>,
    /// What is asked for.
    pub scopes: BTreeSet<String>,
    /// What it calls what it tells.
    pub claims: ClaimNames,
    /// Whether somebody whom nobody knows yet gets an account.
    pub provision: bool,
    /// Whether that takes a verified address.
    pub require_verified: bool,
    /// Whether a verified address leads to the account that has it.
    pub link_verified: bool,
    /// Whether it asks for a second factor.
    pub multi_factor: bool,
    /// Roles of whoever becomes a member.
    pub default_roles: BTreeSet<RoleId>,
    /// Roles by groups.
    pub group_roles: BTreeMap<String, RoleId>,
}

impl UseCases {
    /// Adds an identity provider.
    ///
    /// # Errors
    /// When the draft is not valid, gives what the actor has not, its name is taken, there are [`MAX_PROVIDERS`]
    /// already, the actor is no administrator where one is asked for, or the storage fails.
    pub async fn create_provider(
        &self,
        actor: &Actor,
        draft: ProviderDraft,
    ) -> Result<Stored<IdentityProvider>, UseCaseError> {
        let organization = match draft.server_wide {
            true => administrator(actor).map(|()| None)?,
            false => Some(actor.organization),
        };
        if self.providers_of(organization).await?.len() >= MAX_PROVIDERS {
            return Err(UseCaseError::Limit(
                "there are at most 32 identity providers: delete one first",
            ));
        }
        self.check_provider(actor, &draft).await?;
        let id = ProviderId::from_bytes(random()?);
        let secret = draft.client_secret.as_ref();
        let secret =
            secret.ok_or_else(|| UseCaseError::field("client_secret", "give the client's secret"))?;
        let sealed_secret = self.0.seal.seal(id.as_bytes(), secret.expose().as_bytes())?;
        let provider = described(draft, id, organization, sealed_secret, now());
        let create = vec![Mutation::Create(provider.clone().into())];
        self.commit(actor, "identity_provider.create", id, create).await?;
        Ok(written(provider, None))
    }

    /// The identity providers of the actor's organization, and for an administrator those of the whole Control.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn providers(&self, actor: &Actor) -> Result<Vec<Stored<IdentityProvider>>, UseCaseError> {
        let mut providers = self.providers_of(Some(actor.organization)).await?;
        if actor.administers() {
            providers.extend(self.providers_of(None).await?);
        }
        Ok(providers)
    }

    /// The identity providers by which somebody can sign in: those of the whole Control, and of the named
    /// organization. One that is not there has none.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn providers_for(
        &self,
        organization: Option<&Label>,
    ) -> Result<Vec<Stored<IdentityProvider>>, UseCaseError> {
        let mut providers = self.providers_of(None).await?;
        if let Some(name) = organization {
            let key = UniqueKey::OrganizationName(name.clone());
            let found = self
                .store()
                .find(&key)
                .await?
                .and_then(Stored::narrow::<Organization>);
            if let Some(organization) = found {
                providers.extend(self.providers_of(Some(organization.value.id)).await?);
            }
        }
        Ok(providers)
    }

    /// The identity providers to which an account can be linked in a session: those of the whole Control and of the
    /// organizations that the user is in, but for those to which it is.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn providers_of_user(
        &self,
        session: &Session,
        user: &User,
    ) -> Result<Vec<Stored<IdentityProvider>>, UseCaseError> {
        if session.organization.is_some() {
            return Ok(Vec::new());
        }
        let query = Query::all(RecordKind::Member).owned_by(user.id);
        let members: Vec<Stored<Member>> = self.store().all_of(query).await?;
        let mut providers = self.providers_of(None).await?;
        for member in members {
            providers.extend(self.providers_of(Some(member.value.organization)).await?);
        }
        providers.retain(|provider| {
            let linked = |at: &LinkedIdentity| at.provider == provider.value.id;
            !user.identities.iter().any(linked)
        });
        Ok(providers)
    }

    async fn providers_of(
        &self,
        organization: Option<OrganizationId>,
    ) -> Result<Vec<Stored<IdentityProvider>>, UseCaseError> {
        let mut providers: Vec<Stored<IdentityProvider>> = self.store().all(organization).await?;
        providers.retain(|provider| provider.value.organization == organization);
        providers.sort_by(|a, b| a.value.name.cmp(&b.value.name));
        Ok(providers)
    }

    /// Reads an identity provider of the actor's organization, or, for an administrator, of the whole Control.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn provider(
        &self,
        actor: &Actor,
        id: ProviderId,
    ) -> Result<Stored<IdentityProvider>, UseCaseError> {
        let provider = self.any_provider(id).await?;
        let theirs = match provider.value.organization {
            Some(organization) => organization == actor.organization,
            None => actor.administers(),
        };
        match theirs {
            true => Ok(provider),
            false => Err(UseCaseError::NotFound(RecordKind::IdentityProvider)),
        }
    }

    /// Reads any identity provider, for whoever is about to sign in by it.
    ///
    /// # Errors
    /// When it is not there or the storage fails.
    pub async fn any_provider(&self, id: ProviderId) -> Result<Stored<IdentityProvider>, UseCaseError> {
        let found = self.store().entity::<IdentityProvider>(id).await?;
        found.ok_or(UseCaseError::NotFound(RecordKind::IdentityProvider))
    }

    /// Describes an identity provider anew. Whose it is stays.
    ///
    /// # Errors
    /// When it is not there, changed since `expected`, the draft is not valid or gives what the actor has not, its
    /// name is taken, or the storage fails.
    pub async fn update_provider(
        &self,
        actor: &Actor,
        id: ProviderId,
        draft: ProviderDraft,
        expected: Option<Version>,
    ) -> Result<Stored<IdentityProvider>, UseCaseError> {
        let stored = self.provider(actor, id).await?;
        at_version(&stored, expected)?;
        let organization = stored.value.organization;
        if draft.server_wide != organization.is_none() {
            return Err(UseCaseError::field(
                "server_wide",
                "whose it is stays: add another one",
            ));
        }
        self.check_provider(actor, &draft).await?;
        // Whoever may send the secret elsewhere would learn it.
        if draft.client_secret.is_none() && draft.protocol != stored.value.protocol {
            return Err(UseCaseError::field(
                "client_secret",
                "give it again where the provider is another",
            ));
        }
        let sealed_secret = match &draft.client_secret {
            Some(secret) => self.0.seal.seal(id.as_bytes(), secret.expose().as_bytes())?,
            None => stored.value.sealed_secret,
        };
        let provider = described(draft, id, organization, sealed_secret, stored.value.created);
        let mutations = vec![update(provider.clone(), stored.version)];
        self.commit(actor, "identity_provider.update", id, mutations)
            .await?;
        Ok(written(provider, Some(stored.version)))
    }

    /// Deletes an identity provider. Accounts that are linked to it stay, and sign in otherwise.
    ///
    /// # Errors
    /// When it is not there, changed since `expected`, or the storage fails.
    pub async fn delete_provider(
        &self,
        actor: &Actor,
        id: ProviderId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let stored = self.provider(actor, id).await?;
        at_version(&stored, expected)?;
        let delete = vec![Mutation::Delete(id.into(), Some(stored.version))];
        self.commit(actor, "identity_provider.delete", id, delete).await?;
        Ok(())
    }

    /// The secret that goes with the client's name.
    ///
    /// # Errors
    /// When it was sealed by another identity of Control.
    pub(crate) fn provider_secret(
        &self,
        provider: &IdentityProvider,
    ) -> Result<Secret<String>, UseCaseError> {
        let opened = self.0.seal.open(provider.id.as_bytes(), &provider.sealed_secret);
        let text = opened.and_then(|bytes| String::from_utf8(bytes).ok());
        text.map(Secret::new).ok_or(UseCaseError::Provider(
            "the secret of this identity provider cannot be read: whoever runs it gives it again",
        ))
    }

    async fn check_provider(&self, actor: &Actor, draft: &ProviderDraft) -> Result<(), UseCaseError> {
        let wide = draft.server_wide;
        match &draft.protocol {
            ProviderProtocol::Oidc { issuer } => check_url("oidc.issuer", issuer, wide)?,
            ProviderProtocol::OAuth2 {
                authorize,
                token,
                userinfo,
            } => {
                check_url("oauth2.authorize_url", authorize, wide)?;
                check_url("oauth2.token_url", token, wide)?;
                check_url("oauth2.userinfo_url", userinfo, wide)?;
            }
        }
        check_text("client_id", &draft.client_id)?;
        if let Some(secret) = &draft.client_secret {
            check_text("client_secret", secret.expose())?;
        }
        // RFC 6749, section 3.3.
        let scope = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let good = |text: &String| !text.is_empty() && text.len() <= MAX_TEXT && text.bytes().all(scope);
        if draft.scopes.len() > MAX_PROVIDER_SCOPES || !draft.scopes.iter().all(good) {
            let message = format!("at most {MAX_PROVIDER_SCOPES} scopes, without white space");
            return Err(UseCaseError::field("scopes", message));
        }
        let ClaimNames {
            subject,
            email,
            email_verified,
            name,
            groups,
        } = &draft.claims;
        for claim in [subject, email, email_verified, name, groups] {
            check_text("claims", claim)?;
        }
        if wide && !(draft.default_roles.is_empty() && draft.group_roles.is_empty()) {
            let message = "roles are of an organization: a provider of the whole Control gives none";
            return Err(UseCaseError::field("default_roles", message));
        }
        if draft.link_verified && !wide {
            let message = "only a provider of the whole Control leads to accounts by their address: one of an \
                           organization would lead to those of others";
            return Err(UseCaseError::field("link_verified", message));
        }
        if draft.group_roles.len() > MAX_GROUP_ROLES {
            let message = format!("at most {MAX_GROUP_ROLES} groups");
            return Err(UseCaseError::field("group_roles", message));
        }
        for group in draft.group_roles.keys() {
            check_text("group_roles", group)?;
        }
        let roles = draft.default_roles.iter().chain(draft.group_roles.values());
        let place = Place {
            roles: roles.copied().collect(),
            groups: BTreeSet::new(),
        };
        self.check_place(actor, &place).await
    }
}

fn described(
    draft: ProviderDraft,
    id: ProviderId,
    organization: Option<OrganizationId>,
    sealed_secret: Vec<u8>,
    created: kakuremichi_core::time::Timestamp,
) -> IdentityProvider {
    IdentityProvider {
        id,
        organization,
        name: draft.name,
        protocol: draft.protocol,
        client_id: draft.client_id,
        sealed_secret,
        scopes: draft.scopes,
        claims: draft.claims,
        provision: draft.provision,
        require_verified: draft.require_verified,
        link_verified: draft.link_verified,
        multi_factor: draft.multi_factor,
        default_roles: draft.default_roles,
        group_roles: draft.group_roles,
        created,
    }
}

/// Checks a URL that Control fetches: over TLS, but for this machine's own, which are an administrator's to name.
fn check_url(field: &str, text: &str, server_wide: bool) -> Result<(), UseCaseError> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= MAX_URL);
    let url =
        url.filter(|url| url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    let loopback = |url: &Url| match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let good = url.is_some_and(|url| match url.scheme() {
        "https" => url.host().is_some(),
        "http" => server_wide && loopback(&url),
        _ => false,
    });
    match good {
        true => Ok(()),
        false => Err(UseCaseError::field(
            field,
            "give a URL that starts with `https://`",
        )),
    }
}

fn check_text(field: &str, text: &str) -> Result<(), UseCaseError> {
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        let message = format!("1 to {MAX_TEXT} bytes, none of them a control character");
        return Err(UseCaseError::field(field, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_control_fetches_comes_over_tls() {
        for good in ["https://id.example.net", "https://10.0.0.1:8443/realms/x?a=b"] {
            assert!(check_url("f", good, false).is_ok());
        }
        for own in ["http://127.0.0.1:3000", "http://[::1]:3000/", "http://localhost"] {
            assert!(check_url("f", own, true).is_ok() && check_url("f", own, false).is_err());
        }
        for bad in [
            "",
            "id.example.net",
            "http://id.example.net",
            "file:///etc/passwd",
            "https://a:b@id.example.net",
            "https://x/#y",
        ] {
            assert!(check_url("f", bad, true).is_err(), "{bad}");
        }
    }
}
