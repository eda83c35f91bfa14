//! Signing in by an identity provider.
//!
//! Accounts are found by provider and subject, never by an address alone: whoever runs a provider can make it say
//! any address (LESSONS, advisory 11).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    email::EmailAddress,
    id::{MemberId, OrganizationId, ProviderId, UserId},
    model::{
        IdentityProvider, LinkedIdentity, MAX_IDENTITIES, MAX_MEMBER_ROLES, MAX_SUBJECT, Member, PersonName,
        SignIn, User,
    },
    secret::Secret,
    store::{Mutation, Stored, UniqueKey},
    time::Timestamp,
};

use super::{
    ATTEMPTS, Actor, UseCaseError, UseCases, now, random,
    sign_in::{NewSession, Others, Way, Whereabouts, end},
    update,
};

/// How long somebody has to sign in at a provider.
pub const ATTEMPT_LIFE: Duration = Duration::from_secs(10 * 60);
/// Attempts that were used and are remembered, so that none is used again; one more takes the place of the oldest.
const MAX_USED: usize = 16 * 1024;
/// For what a browser's part of an attempt is sealed.
const ATTEMPT: &[u8] = b"attempt to sign in at a provider";

/// What a provider says of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// What never changes there.
    pub subject: String,
    /// The address, if it says one.
    pub email: Option<EmailAddress>,
    /// Whether it verified the address.
    pub email_verified: bool,
    /// What the person is called, if it says so.
    pub name: Option<PersonName>,
    /// The person's groups.
    pub groups: BTreeSet<String>,
}

/// Attempts that were used.
#[derive(Debug, Default)]
pub(super) struct UsedAttempts(std::collections::VecDeque<([u8; 32], Instant)>);

impl UsedAttempts {
    /// Whether this is the first use, which it is from now on no more.
    fn first(&mut self, state: [u8; 32], now: Instant) -> bool {
        while let Some((_, at)) = self.0.front() {
            if self.0.len() < MAX_USED && now.saturating_duration_since(*at) <= ATTEMPT_LIFE {
                break;
            }
            self.0.pop_front();
        }
        if self.0.iter().any(|(used, _)| *used == state) {
            return false;
        }
        self.0.push_back((state, now));
        true
    }
}

impl UseCases {
    /// Seals what a browser keeps while its person is at a provider.
    pub(crate) fn seal_attempt(&self, attempt: &[u8]) -> Result<Secret<String>, UseCaseError> {
        let sealed = self.0.seal.seal(ATTEMPT, attempt)?;
        Ok(Secret::new(data_encoding::BASE64URL_NOPAD.encode(&sealed)))
    }

    /// Opens what a browser kept.
    pub(crate) fn open_attempt(&self, text: &str) -> Option<Vec<u8>> {
        let sealed = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        self.0.seal.open(ATTEMPT, &sealed)
    }

    /// Uses an attempt. It is good once in this process; at the provider its code is good once.
    pub(crate) fn use_attempt(&self, state: [u8; 32]) -> Result<(), UseCaseError> {
        let mut used = self
            .0
            .used_attempts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match used.first(state, Instant::now()) {
            true => Ok(()),
            false => Err(UseCaseError::SignInOver),
        }
    }

    /// Signs somebody in for whom a provider vouches. Roles of the provider's groups come and go.
    ///
    /// # Errors
    /// When nobody is linked to them and they may get no account, the account is disabled, or the storage fails.
    pub async fn sign_in_vouched(
        &self,
        provider: ProviderId,
        vouched: Vouched,
        at: Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        check_subject(&vouched)?;
        for _ in 0..ATTEMPTS {
            let provider = self.any_provider(provider).await?.value;
            let mut mutations = Vec::new();
            let user = self.vouched_user(&provider, &vouched, &mut mutations).await?;
            if let Some(organization) = provider.organization {
                let member = self
                    .vouched_member(&provider, organization, user, &vouched)
                    .await?;
                mutations.extend(member);
            }
            let way = Way {
                sign_in: match provider.multi_factor {
                    true => SignIn::ProviderAndSecondFactor,
                    false => SignIn::Provider,
                },
                organization: provider.organization,
            };
            let begun = self
                .begin_session(user, way, at.clone(), mutations, Others::Stay, "session.create")
                .await;
            match begun {
                // Another process made the account, or the member, at the same time.
                Err(UseCaseError::Contended | UseCaseError::Taken(_)) => {}
                begun => return begun,
            }
        }
        Err(UseCaseError::Contended)
    }

    /// The user of whom a provider speaks: linked, to be linked, or to be made.
    async fn vouched_user(
        &self,
        provider: &IdentityProvider,
        vouched: &Vouched,
        mutations: &mut Vec<Mutation>,
    ) -> Result<UserId, UseCaseError> {
        if let Some(user) = self.linked_user(provider.id, &vouched.subject).await? {
            if user.value.disabled.is_some() {
                return Err(UseCaseError::Provider("the account is disabled"));
            }
            let id = user.value.id;
            // At its version: who disables the account at the same time ends this session too.
            mutations.push(update(user.value, user.version));
            return Ok(id);
        }
        let email = vouched.email.clone();
        let known = match &email {
            Some(email) => self.user_by_email(email).await?,
            None => None,
        };
        if let Some(user) = known {
            let leads = provider.organization.is_none() && provider.link_verified && vouched.email_verified;
            if !leads || user.value.disabled.is_some() {
                return Err(UseCaseError::Provider(
                    "this identity leads to no account: sign in to the one that you have, and link it there",
                ));
            }
            let id = user.value.id;
            let linked = linked(user.value, provider.id, vouched)?;
            mutations.push(update(linked, user.version));
            return Ok(id);
        }
        if !provider.provision {
            return Err(UseCaseError::Provider(
                "this identity leads to no account: ask for an invitation, and link it in your account then",
            ));
        }
        let email = email.ok_or(UseCaseError::Provider(
            "the identity provider says no address, without which there is no account",
        ))?;
        if provider.require_verified && !vouched.email_verified {
            return Err(UseCaseError::Provider(
                "the identity provider has not verified your address: verify it there",
            ));
        }
        let user = self.new_user(provider, email, vouched)?;
        let id = user.id;
        mutations.push(Mutation::Create(user.into()));
        Ok(id)
    }

    fn new_user(
        &self,
        provider: &IdentityProvider,
        email: EmailAddress,
        vouched: &Vouched,
    ) -> Result<User, UseCaseError> {
        // What an organization's provider says of an address counts nowhere else.
        let verified = provider.organization.is_none() && vouched.email_verified;
        let local = email.as_str().split('@').next().unwrap_or_default();
        let name = vouched.name.clone().or_else(|| local.parse().ok());
        let user = User {
            id: UserId::from_bytes(random()?),
            name: name.ok_or(UseCaseError::Provider("the identity provider says no name"))?,
            email,
            password_hash: None,
            totp: None,
            passkeys: Vec::new(),
            passkeys_since: Timestamp::default(),
            recovery_codes: Vec::new(),
            administrator: false,
            reset: None,
            verification: None,
            identities: Vec::new(),
            verified: verified.then(now),
            disabled: None,
            tickets_since: Timestamp::default(),
            ended: Vec::new(),
            created: now(),
        };
        linked(user, provider.id, vouched)
    }

    /// What makes the user's place in the provider's organization what its groups say, if it is not that.
    async fn vouched_member(
        &self,
        provider: &IdentityProvider,
        organization: OrganizationId,
        user: UserId,
        vouched: &Vouched,
    ) -> Result<Option<Mutation>, UseCaseError> {
        let mapped = provider.group_roles.iter();
        let now_given = mapped
            .filter(|(group, _)| vouched.groups.contains(*group))
            .map(|(_, role)| *role);
        let key = UniqueKey::Membership(organization, user);
        let found = self.store().find(&key).await?.and_then(Stored::narrow::<Member>);
        let mutation = match found {
            Some(member) => {
                let mut changed = member.value.clone();
                let given = provider.group_roles.values().collect::<BTreeSet<_>>();
                changed.roles.retain(|role| !given.contains(role));
                changed.roles.extend(now_given);
                check_roles(&changed)?;
                (changed != member.value).then(|| update(changed, member.version))
            }
            None if provider.provision => {
                let member = Member {
                    id: MemberId::from_bytes(random()?),
                    organization,
                    user,
                    roles: provider.default_roles.iter().copied().chain(now_given).collect(),
                    groups: BTreeSet::new(),
                    created: now(),
                };
                check_roles(&member)?;
                Some(Mutation::Create(member.into()))
            }
            None => return Err(UseCaseError::NoMember),
        };
        Ok(mutation)
    }

    async fn linked_user(
        &self,
        provider: ProviderId,
        subject: &str,
    ) -> Result<Option<Stored<User>>, UseCaseError> {
        let key = UniqueKey::LinkedIdentity(provider, subject.to_owned());
        Ok(self.store().find(&key).await?.and_then(Stored::narrow))
    }

    /// Links the person's account to whom a provider vouches for.
    ///
    /// # Errors
    /// When another account is linked to it, the person signed in by an organization's provider, it is no person,
    /// or the storage fails.
    pub async fn link_identity(
        &self,
        actor: &Actor,
        provider: ProviderId,
        vouched: &Vouched,
    ) -> Result<(), UseCaseError> {
        actor.everywhere()?;
        check_subject(vouched)?;
        let provider = self.any_provider(provider).await?.value;
        let user = self.own_user(actor).await?;
        if user.value.disabled.is_some() {
            return Err(UseCaseError::Provider("the account is disabled"));
        }
        let identities = &user.value.identities;
        if identities
            .iter()
            .any(|at| at.provider == provider.id && at.subject == vouched.subject)
        {
            return Ok(());
        }
        let changed = linked(user.value, provider.id, vouched)?;
        let id = changed.id;
        self.commit(actor, "user.link", id, vec![update(changed, user.version)])
            .await?;
        Ok(())
    }

    /// Takes the links to a provider from the person's account. Other sessions of theirs end.
    ///
    /// # Errors
    /// When there is none, they could not sign in any more, the person signed in by an organization's provider, it
    /// is no person, or the storage fails.
    pub async fn unlink_identity(&self, actor: &Actor, provider: ProviderId) -> Result<(), UseCaseError> {
        actor.everywhere()?;
        let person = actor.signed_in()?;
        let user = self.own_user(actor).await?;
        let mut changed = user.value;
        let before = changed.identities.len();
        changed.identities.retain(|at| at.provider != provider);
        if changed.identities.len() == before {
            return Err(UseCaseError::NotFound(
                kakuremichi_core::store::RecordKind::IdentityProvider,
            ));
        }
        let no_other = changed.identities.is_empty() && changed.passkeys.is_empty();
        if no_other && changed.password_hash.is_none() {
            return Err(UseCaseError::Provider(
                "nothing else lets you in: set a password first, by a link that is mailed to you",
            ));
        }
        let id = changed.id;
        let others = self
            .sessions_of(id)
            .await?
            .into_iter()
            .map(|session| session.value);
        let others: Vec<_> = others.filter(|session| session.id != person.session).collect();
        let mut mutations = end(&mut changed, &others);
        mutations.push(update(changed, user.version));
        self.commit(actor, "user.unlink", id, mutations).await?;
        Ok(())
    }
}

/// A subject is stored, and shown to nobody but its owner.
fn check_subject(vouched: &Vouched) -> Result<(), UseCaseError> {
    match vouched.subject.is_empty() || vouched.subject.len() > MAX_SUBJECT {
        true => Err(UseCaseError::Provider(
            "the identity provider says no subject of 1 to 255 bytes",
        )),
        false => Ok(()),
    }
}

fn check_roles(member: &Member) -> Result<(), UseCaseError> {
    match member.roles.len() > MAX_MEMBER_ROLES {
        true => Err(UseCaseError::Limit(
            "a member has at most 32 roles: map fewer groups",
        )),
        false => Ok(()),
    }
}

fn linked(mut user: User, provider: ProviderId, vouched: &Vouched) -> Result<User, UseCaseError> {
    if user.identities.len() >= MAX_IDENTITIES {
        return Err(UseCaseError::Limit(
            "an account has at most 16 identities: take one away first",
        ));
    }
    user.identities.push(LinkedIdentity {
        provider,
        subject: vouched.subject.clone(),
        since: now(),
    });
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_used_once_and_remembered_for_as_long_as_it_is_good() {
        let (mut used, start) = (UsedAttempts::default(), Instant::now());
        assert!(used.first([1; 32], start));
        assert!(!used.first([1; 32], start + ATTEMPT_LIFE));
        for n in 0..MAX_USED as u32 + 5 {
            let mut state = [2; 32];
            state[..4].copy_from_slice(&n.to_be_bytes());
            assert!(used.first(state, start));
        }
        assert_eq!(used.0.len(), MAX_USED);
        assert!(used.first([3; 32], start + ATTEMPT_LIFE + Duration::from_secs(1)));
        assert_eq!(used.0.len(), 1);
    }
}
