//! Accounts of people.

use kakuremichi_core::{
    email::EmailAddress,
    id::UserId,
    model::{Member, PersonName, Session, SignIn, User},
    secret::Secret,
    store::{Mutation, Query, RecordId, RecordKind, Stored, Version},
};

use super::{
    Actor, Listing, UseCaseError, UseCases, at_version, now,
    sign_in::{NewSession, Others, Whereabouts},
    totp, update, written,
};

/// The shortest password, in characters (NIST SP 800-63B-4 asks for 15 where it is the only factor, 8 beside
/// another; the second factor is the organization's to demand).
pub const MIN_PASSWORD: usize = 12;

/// With what a person confirms a change of their account.
#[derive(Debug, Clone, Copy)]
pub(super) enum Factor<'a> {
    /// The password.
    Password,
    /// The password, and a code where a second factor is set up, or the sign-in with a passkey just now.
    Second(Option<&'a Secret<String>>),
}

/// What an administrator may change of an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserChange {
    /// Whether the person administers this Control.
    pub administrator: Option<bool>,
    /// Whether the account is disabled.
    pub disabled: Option<bool>,
}

impl UseCases {
    /// The person's own account.
    ///
    /// # Errors
    /// When it is no person, or the storage fails.
    pub async fn own_user(&self, actor: &Actor) -> Result<Stored<User>, UseCaseError> {
        let user = actor.signed_in()?.user;
        let found = self.store().entity::<User>(user).await?;
        found.ok_or(UseCaseError::NotFound(RecordKind::User))
    }

    /// Changes what the person is called.
    ///
    /// # Errors
    /// When it is no person, or the storage fails.
    pub async fn rename_user(&self, actor: &Actor, name: PersonName) -> Result<Stored<User>, UseCaseError> {
        actor.everywhere()?;
        let user = self.own_user(actor).await?;
        let changed = User { name, ..user.value };
        let mutations = vec![update(changed.clone(), user.version)];
        self.commit(actor, "user.update", changed.id, mutations).await?;
        Ok(written(changed, Some(user.version)))
    }

    /// Changes the person's password. All sessions of before end, and another begins (LESSONS, advisory 12).
    ///
    /// # Errors
    /// When the current password is wrong, too much was guessed, the new one is too short, or the storage fails.
    pub async fn change_password(
        &self,
        actor: &Actor,
        current: Secret<String>,
        new: Secret<String>,
        at: Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        check_password("new_password", &new)?;
        let user = self.confirm(actor, current, Factor::Password, &at).await?;
        let changed = User {
            password_hash: Some(self.0.passwords.hash(new).await?),
            reset: None,
            ..user.value
        };
        let sign_in = self.sign_in_of(actor).await?;
        let mutations = vec![update(changed.clone(), user.version)];
        self.begin_session(changed.id, sign_in, at, mutations, Others::End, "user.password")
            .await
    }

    /// By what the person signed in; by the password that they just gave, if it was by an identity provider.
    async fn sign_in_of(&self, actor: &Actor) -> Result<SignIn, UseCaseError> {
        let session = self.store().entity::<Session>(actor.signed_in()?.session).await?;
        let sign_in = session.map_or(SignIn::Password, |session| session.value.sign_in);
        let stays = sign_in.is_by_password() || sign_in == SignIn::Passkey;
        Ok(if stays { sign_in } else { SignIn::Password })
    }

    /// The person's account, if this is its password, and, where the second factor is asked for and there is one,
    /// a good code of it, which is used then.
    pub(super) async fn confirm(
        &self,
        actor: &Actor,
        password: Secret<String>,
        factor: Factor<'_>,
        at: &Whereabouts,
    ) -> Result<Stored<User>, UseCaseError> {
        let mut user = self.own_user(actor).await?;
        self.guess(at.source, &user.value.email)?;
        let hash = user.value.password_hash.clone();
        if self.0.passwords.verify(password, hash).await?.is_none() {
            return Err(UseCaseError::WrongPassword);
        }
        let code = match factor {
            Factor::Second(code) if user.value.has_second_factor() => match code {
                // A passkey that was used just now is a second factor as good as a code.
                None if user.value.totp.is_none() && self.check_recent(actor).await.is_ok() => None,
                None => return Err(UseCaseError::SecondFactor),
                code => code,
            },
            Factor::Second(_) | Factor::Password => None,
        };
        if let Some(code) = code {
            let taken = totp::take(&self.0.seal, &mut user.value, code, now());
            taken.ok_or(UseCaseError::WrongPassword)?;
        }
        self.was_right(at.source, &user.value.email);
        Ok(user)
    }

    /// Lists all accounts of this Control.
    ///
    /// # Errors
    /// When the actor is no administrator, or the storage fails.
    pub async fn users(
        &self,
        actor: &Actor,
        after: Option<RecordId>,
        limit: usize,
        wanted: impl Fn(&User) -> bool + Send,
    ) -> Result<Listing<User>, UseCaseError> {
        administrator(actor)?;
        let query = Query {
            after,
            ..Query::all(RecordKind::User)
        };
        self.filtered(query, limit, wanted).await
    }

    /// Reads any account.
    ///
    /// # Errors
    /// When the actor is no administrator, the account is not there, or the storage fails.
    pub async fn user(&self, actor: &Actor, id: UserId) -> Result<Stored<User>, UseCaseError> {
        administrator(actor)?;
        let found = self.store().entity::<User>(id).await?;
        found.ok_or(UseCaseError::NotFound(RecordKind::User))
    }

    /// Changes an account. Who is disabled, or is no administrator any more, has no session any more either
    /// (LESSONS, advisory 12).
    ///
    /// # Errors
    /// When the actor is no administrator, the account is not there or the last administrator's, it changed since
    /// `expected`, or the storage fails.
    pub async fn change_user(
        &self,
        actor: &Actor,
        id: UserId,
        change: UserChange,
        expected: Option<Version>,
    ) -> Result<Stored<User>, UseCaseError> {
        let user = self.user(actor, id).await?;
        at_version(&user, expected)?;
        let mut changed = user.value.clone();
        if let Some(administrator) = change.administrator {
            changed.administrator = administrator;
        }
        match change.disabled {
            Some(true) => {
                changed.disabled = changed.disabled.or_else(|| Some(now()));
                changed.reset = None;
            }
            Some(false) => changed.disabled = None,
            None => {}
        }
        if changed == user.value {
            return Ok(user);
        }
        let mut mutations = Vec::new();
        if !is_active_administrator(&changed) {
            mutations.extend(self.keep_an_administrator(id).await?);
        }
        mutations.extend(self.end_sessions_of(&mut changed).await?);
        mutations.push(update(changed.clone(), user.version));
        self.commit(actor, "user.update", id, mutations).await?;
        Ok(written(changed, Some(user.version)))
    }

    /// Deletes an account, with its memberships and sessions.
    ///
    /// # Errors
    /// As for [`change_user`](Self::change_user).
    pub async fn delete_user(
        &self,
        actor: &Actor,
        id: UserId,
        expected: Option<Version>,
    ) -> Result<(), UseCaseError> {
        let user = self.user(actor, id).await?;
        at_version(&user, expected)?;
        let mut mutations = self.keep_an_administrator(id).await?;
        let mut gone = user.value.clone();
        mutations.extend(self.end_sessions_of(&mut gone).await?);
        let query = Query::all(RecordKind::Member).owned_by(id);
        let members: Vec<Stored<Member>> = self.store().all_of(query).await?;
        mutations.extend(
            members
                .iter()
                .map(|member| Mutation::Delete(member.value.id.into(), None)),
        );
        mutations.push(Mutation::Delete(id.into(), Some(user.version)));
        self.commit(actor, "user.delete", id, mutations).await?;
        Ok(())
    }

    /// Checks that somebody else administers this Control, and goes on doing so while the batch is applied: two who
    /// dismiss each other at once would leave nobody.
    async fn keep_an_administrator(&self, but: UserId) -> Result<Vec<Mutation>, UseCaseError> {
        let users: Vec<Stored<User>> = self.store().all(None).await?;
        if !users
            .iter()
            .any(|user| user.value.id == but && is_active_administrator(&user.value))
        {
            return Ok(Vec::new());
        }
        let other = users
            .into_iter()
            .find(|user| user.value.id != but && is_active_administrator(&user.value))
            .ok_or(UseCaseError::LastAdministrator)?;
        Ok(vec![update(other.value, other.version)])
    }
}

const fn is_active_administrator(user: &User) -> bool {
    user.administrator && user.disabled.is_none()
}

pub(super) fn administrator(actor: &Actor) -> Result<(), UseCaseError> {
    if actor.administers() {
        return Ok(());
    }
    Err(UseCaseError::NoAdministrator)
}

/// Checks that a password can be one.
pub(super) fn check_password(field: &str, password: &Secret<String>) -> Result<(), UseCaseError> {
    let text = password.expose();
    if text.len() > super::MAX_PASSWORD {
        let message = format!("a password has at most {} bytes", super::MAX_PASSWORD);
        return Err(UseCaseError::field(field, message));
    }
    if text.chars().count() < MIN_PASSWORD {
        let message =
            format!("a password has at least {MIN_PASSWORD} characters: a few words are easy to remember");
        return Err(UseCaseError::field(field, message));
    }
    Ok(())
}

/// An address as a person types it: with Unicode in its host.
///
/// # Errors
/// What is wrong with it.
pub fn parse_email(text: &str) -> Result<EmailAddress, String> {
    let text = text.trim();
    let Some((local, host)) = text.rsplit_once('@') else {
        return text
            .parse()
            .map_err(|error: kakuremichi_core::email::EmailError| error.to_string());
    };
    let host = super::parse_host(host).map_err(|error| error.to_string())?;
    format!("{local}@{host}")
        .parse()
        .map_err(|error: kakuremichi_core::email::EmailError| error.to_string())
}
