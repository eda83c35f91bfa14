//! Signing in to Control with a password, and the sessions that come of it.
//!
//! An address that nobody has, an account without a password, a disabled one and a wrong password get the same
//! answer after the same work, so that nobody learns who has an account here.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_core::{
    email::EmailAddress,
    id::{OrganizationId, SessionId, UserId},
    model::{
        AccountPolicy, EndedSession, MAX_USER_AGENT, Member, Organization, Permissions, Session, SignIn, User,
    },
    name::Label,
    secret::Secret,
    store::{CommitError, Mutation, Query, RecordKind, StoreRecord, Stored, UniqueKey},
    time::Timestamp,
};
use kakuremichi_proto::identity::{SessionText, constant_time_eq, sha256};

use super::{
    ATTEMPTS, Actor, Person, UseCaseError, UseCases, anomalies::MANY_FAILURES, now, random, totp, update,
    written,
};

/// How long a session lasts.
pub const SESSION_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// The most sessions of one user; one more ends the oldest.
pub const MAX_SESSIONS: usize = 64;

/// How long somebody has for the code of the second factor after the password.
pub const CODE_LIFE: Duration = Duration::from_secs(10 * 60);
/// For what a continuation is sealed.
const CONTINUATION: &[u8] = b"continuation of a sign-in";

/// Where somebody is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// The address, if it is known.
    pub source: Option<IpAddr>,
    /// What the browser or the program calls itself; cut to [`MAX_USER_AGENT`] bytes.
    pub user_agent: String,
}

/// What somebody shows to sign in.
#[derive(Debug)]
pub struct SignInDraft {
    /// The address of the account.
    pub email: EmailAddress,
    /// The password.
    pub password: Secret<String>,
    /// A code of the second factor, or a recovery code.
    pub code: Option<Secret<String>>,
}

/// How far signing in got.
#[derive(Debug)]
pub enum SignInStep {
    /// A session began.
    In(NewSession),
    /// The password was right, and a second factor is asked for: a code, or a passkey. The continuation goes with it.
    Code(Secret<String>),
}

/// Somebody's password was right.
pub(super) struct ProvenPassword {
    pub(super) email: EmailAddress,
    /// The hash that it was right for.
    pub(super) hash: Option<String>,
    /// A hash to replace it with.
    rehashed: Option<String>,
}

/// A session that began.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// What is stored.
    pub session: Stored<Session>,
    /// The text to send as a bearer token. It is shown this once: only a hash is stored.
    pub text: Secret<String>,
}

/// How a session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) sign_in: SignIn,
    /// The only organization in which the session counts.
    pub(super) organization: Option<OrganizationId>,
}

impl From<SignIn> for Way {
    /// Wherever the user is a member.
    fn from(sign_in: SignIn) -> Self {
        Self {
            sign_in,
            organization: None,
        }
    }
}

/// What becomes of a user's other sessions when one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They go on.
    Stay,
    /// They end.
    End,
}

/// In what a person acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acting<'a> {
    /// In their own account, whatever organizations they are in.
    Account,
    /// In an organization: the chosen one, or the only one.
    In(Option<&'a OrganizationChoice>),
}

/// Which of their organizations a person acts in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrganizationChoice {
    /// By its identifier.
    Id(OrganizationId),
    /// By its name.
    Name(Label),
}

impl UseCases {
    /// Signs in.
    ///
    /// # Errors
    /// When too much was guessed, what is shown is wrong or not enough, or the storage fails.
    pub async fn sign_in(&self, draft: SignInDraft, at: Whereabouts) -> Result<NewSession, UseCaseError> {
        let proven = self.prove_password(draft.email, draft.password, &at).await?;
        self.enter(&proven, draft.code.as_ref(), at).await
    }

    /// Signs in as a person does: with a code only where one is asked for, which [`enter_code`](Self::enter_code)
    /// takes then.
    ///
    /// # Errors
    /// As for [`sign_in`](Self::sign_in).
    pub async fn sign_in_stepwise(
        &self,
        email: EmailAddress,
        password: Secret<String>,
        at: Whereabouts,
    ) -> Result<SignInStep, UseCaseError> {
        let proven = self.prove_password(email, password, &at).await?;
        match self.enter(&proven, None, at).await {
            Err(UseCaseError::SecondFactor) => Ok(SignInStep::Code(self.continuation(&proven)?)),
            begun => begun.map(SignInStep::In),
        }
    }

    /// Goes on with a sign-in whose password was right.
    ///
    /// # Errors
    /// When the sign-in is over, the code is wrong, too much was guessed, or the storage fails.
    pub async fn enter_code(
        &self,
        continuation: &Secret<String>,
        code: &Secret<String>,
        at: Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        let proven = self.open_continuation(continuation).await?;
        self.guess(at.source, &proven.email)?;
        self.enter(&proven, Some(code), at).await
    }

    pub(super) async fn prove_password(
        &self,
        email: EmailAddress,
        password: Secret<String>,
        at: &Whereabouts,
    ) -> Result<ProvenPassword, UseCaseError> {
        self.guess(at.source, &email)?;
        let user = self.user_by_email(&email).await?;
        let active = user.filter(|user| user.value.disabled.is_none());
        let hash = active.and_then(|user| user.value.password_hash);
        let verified = self.0.passwords.verify(password, hash.clone()).await?;
        let verified = verified.ok_or(UseCaseError::WrongCredentials)?;
        Ok(ProvenPassword {
            email,
            hash,
            rehashed: verified.rehashed,
        })
    }

    /// Begins a session of whoever proved a password, if that is all that is asked for, or the code is good.
    async fn enter(
        &self,
        proven: &ProvenPassword,
        code: Option<&Secret<String>>,
        at: Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        let email = &proven.email;
        for _ in 0..ATTEMPTS {
            let user = self.user_by_email(email).await?;
            let user =
                user.filter(|user| user.value.disabled.is_none() && user.value.password_hash == proven.hash);
            let user = user.ok_or(UseCaseError::WrongCredentials)?;
            let mut changed = user.value.clone();
            let sign_in = match (user.value.has_second_factor(), code) {
                (false, _) => SignIn::Password,
                (true, None) => {
                    // Whoever guesses at codes knows the password: being right about it forgives no wrong code.
                    self.was_none(at.source, email);
                    return Err(UseCaseError::SecondFactor);
                }
                (true, Some(code)) => totp::take(&self.0.seal, &mut changed, code, now())
                    .ok_or(UseCaseError::WrongCredentials)?,
            };
            if let Some(better) = &proven.rehashed {
                changed.password_hash = Some(better.clone());
            }
            // At its version, changed or not: who changes the password, or the account, at the same time ends this
            // session too, or is told to try again (LESSONS, advisory 12).
            let pinned = vec![update(changed, user.version)];
            let begun = self
                .begin_session(
                    user.value.id,
                    sign_in,
                    at.clone(),
                    pinned,
                    Others::Stay,
                    "session.create",
                )
                .await;
            match begun {
                Err(UseCaseError::Contended) => {}
                begun => {
                    self.was_right(at.source, email);
                    return begun;
                }
            }
        }
        Err(UseCaseError::Contended)
    }

    /// What says, for [`CODE_LIFE`], that a password was right, as long as it stays the password. Nobody but this
    /// Control makes or reads one.
    pub(super) fn continuation(&self, proven: &ProvenPassword) -> Result<Secret<String>, UseCaseError> {
        let mut bytes = now().after(CODE_LIFE).as_millis().to_be_bytes().to_vec();
        bytes.extend(sha256(proven.hash.as_deref().unwrap_or_default().as_bytes()));
        bytes.extend(proven.email.as_str().as_bytes());
        let sealed = self.0.seal.seal(CONTINUATION, &bytes)?;
        Ok(Secret::new(BASE64URL_NOPAD.encode(&sealed)))
    }

    pub(super) async fn open_continuation(
        &self,
        continuation: &Secret<String>,
    ) -> Result<ProvenPassword, UseCaseError> {
        let opened = BASE64URL_NOPAD
            .decode(continuation.expose().as_bytes())
            .ok()
            .and_then(|sealed| self.0.seal.open(CONTINUATION, &sealed))
            .ok_or(UseCaseError::SignInOver)?;
        let (expires, rest) = opened.split_first_chunk().ok_or(UseCaseError::SignInOver)?;
        let (fingerprint, email) = rest.split_first_chunk().ok_or(UseCaseError::SignInOver)?;
        if i64::from_be_bytes(*expires) <= now().as_millis() {
            return Err(UseCaseError::SignInOver);
        }
        let email = str::from_utf8(email).ok().and_then(|email| email.parse().ok());
        let email: EmailAddress = email.ok_or(UseCaseError::SignInOver)?;
        let user = self.user_by_email(&email).await?;
        let hash = user.and_then(|user| user.value.password_hash);
        let hash = hash.filter(|hash| constant_time_eq(&sha256(hash.as_bytes()), fingerprint));
        Ok(ProvenPassword {
            email,
            hash: Some(hash.ok_or(UseCaseError::SignInOver)?),
            rehashed: None,
        })
    }

    /// Begins a session, together with what led to it. A change of the user that others changed meanwhile, such as
    /// a code that was used twice at once, is refused.
    pub(super) async fn begin_session(
        &self,
        user: UserId,
        way: impl Into<Way>,
        at: Whereabouts,
        mut mutations: Vec<Mutation>,
        others: Others,
        action: &str,
    ) -> Result<NewSession, UseCaseError> {
        let (text, created) = (SessionText::new(Secret::new(random()?)), now());
        let Way {
            sign_in,
            organization,
        } = way.into();
        let session = Session {
            id: SessionId::from_bytes(random()?),
            user,
            secret_hash: text.secret_hash(),
            sign_in,
            organization,
            source: at.source.map(|source| source.to_canonical()),
            user_agent: cut(&at.user_agent).to_owned(),
            created,
            authenticated: created,
            expires: created.after(SESSION_LIFE),
        };
        let mut before = self.sessions_of(user).await?;
        before.sort_by_key(|other| other.value.created);
        let surplus = (before.len() + 1).saturating_sub(MAX_SESSIONS);
        let over: Vec<_> = before
            .into_iter()
            .enumerate()
            .filter(|(at, other)| others == Others::End || *at < surplus || other.value.expires <= created)
            .map(|(_, other)| other.value)
            .collect();
        if !over.is_empty() {
            if user_in(&mut mutations, user).is_none() {
                let stored = self.store().entity::<User>(user).await?;
                let stored = stored.ok_or(UseCaseError::NotFound(RecordKind::User))?;
                mutations.push(update(stored.value, stored.version));
            }
            let ends = user_in(&mut mutations, user).map(|user| end(user, &over));
            mutations.extend(ends.into_iter().flatten());
        }
        mutations.push(Mutation::Create(session.clone().into()));
        let actor = self.account(user).await?;
        match self.commit(&actor, action, session.id, mutations).await {
            // A session that was over anyway was removed by somebody else meanwhile, or the user changed.
            Err(CommitError::Stale(_) | CommitError::Missing(_)) => Err(UseCaseError::Contended),
            committed => {
                committed?;
                self.look_at_sign_in(&session).await;
                Ok(NewSession {
                    session: written(session, None),
                    text: text.to_text(),
                })
            }
        }
    }

    /// The user itself, for the audit of what concerns no organization.
    pub(super) async fn account(&self, user: UserId) -> Result<Actor, UseCaseError> {
        let person = Person {
            user,
            session: SessionId::from_bytes([0; 16]),
            administrator: false,
            organization: None,
        };
        let organization = self.start().await?.organization;
        Ok(Actor::person(organization, person, Permissions::NONE))
    }

    /// The session of this text and its user, if both are good now.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn session_of(
        &self,
        text: &str,
    ) -> Result<Option<(Stored<Session>, Stored<User>)>, UseCaseError> {
        let Ok(shown) = text.parse::<SessionText>() else {
            return Ok(None);
        };
        let hash = shown.secret_hash();
        let found = self
            .store()
            .find(&UniqueKey::SessionSecret(*hash.as_bytes()))
            .await?;
        let Some(session) = found.and_then(Stored::narrow::<Session>) else {
            return Ok(None);
        };
        if session.value.secret_hash != hash || session.value.expires <= now() {
            return Ok(None);
        }
        let user = self.store().entity::<User>(session.value.user).await?;
        let user = user.filter(|user| user.value.disabled.is_none());
        Ok(user.map(|user| (session, user)))
    }

    /// Who shows this text, if it is that of a session that is good now, in their account, or in the
    /// organization of their choice.
    ///
    /// # Errors
    /// When the person has to choose, or is not in the chosen organization, or the storage fails.
    pub async fn person_of(&self, text: &str, acting: Acting<'_>) -> Result<Option<Actor>, UseCaseError> {
        let Some((session, user)) = self.session_of(text).await? else {
            return Ok(None);
        };
        let person = Person {
            user: user.value.id,
            session: session.value.id,
            // Whoever runs an organization's provider is not to become an administrator by it.
            administrator: user.value.administrator && session.value.organization.is_none(),
            organization: session.value.organization,
        };
        let (organization, permissions) = match acting {
            Acting::Account => (self.start().await?.organization, Permissions::NONE),
            Acting::In(choice) => {
                let (organization, permissions) = self.rights(person, choice).await?;
                self.counts_in(&session.value, organization).await?;
                (organization, permissions)
            }
        };
        Ok(Some(Actor::person(organization, person, permissions)))
    }

    /// Until when a session counts in an organization: if it began by a provider of that organization, or of nobody,
    /// and has what the organization asks of accounts.
    ///
    /// # Errors
    /// What is missing, or that the storage fails.
    pub async fn counts_in(
        &self,
        session: &Session,
        organization: OrganizationId,
    ) -> Result<Timestamp, UseCaseError> {
        if session.organization.is_some_and(|only| only != organization) {
            return Err(UseCaseError::OtherOrganization);
        }
        let found = self.store().entity::<Organization>(organization).await?;
        let policy = found.ok_or(UseCaseError::NoMember)?.value.accounts;
        met(&policy, session, now())?;
        let ends = policy.session_life.map(|life| session.created.after(life));
        Ok(ends.map_or(session.expires, |ends| ends.min(session.expires)))
    }

    /// Where a person acts, and what they may do there.
    async fn rights(
        &self,
        person: Person,
        choice: Option<&OrganizationChoice>,
    ) -> Result<(OrganizationId, Permissions), UseCaseError> {
        let query = Query::all(RecordKind::Member).owned_by(person.user);
        let members: Vec<Stored<Member>> = self.store().all_of(query).await?;
        let chosen = match choice {
            Some(choice) => Some(self.chosen(choice).await?.ok_or(UseCaseError::NoMember)?),
            None => person.organization,
        };
        let member = match (chosen, members.as_slice()) {
            (Some(chosen), members) => members.iter().find(|member| member.value.organization == chosen),
            (None, [only]) => Some(only),
            (None, []) => None,
            (None, _) if person.administrator => None,
            (None, _) => return Err(UseCaseError::ChooseOrganization),
        };
        if person.administrator {
            let default = self.start().await?.organization;
            let organization = chosen.or_else(|| member.map(|member| member.value.organization));
            return Ok((organization.unwrap_or(default), Permissions::EVERYTHING));
        }
        let member = member.ok_or(UseCaseError::NoMember)?;
        let organization = member.value.organization;
        let permissions = self.permissions_in(organization, &member.value.roles).await?;
        Ok((organization, permissions))
    }

    /// Whether an actor is in the organization that a request names.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn is_in(&self, actor: &Actor, choice: &OrganizationChoice) -> Result<bool, UseCaseError> {
        Ok(self.chosen(choice).await? == Some(actor.organization))
    }

    async fn chosen(&self, choice: &OrganizationChoice) -> Result<Option<OrganizationId>, UseCaseError> {
        let found = match choice {
            OrganizationChoice::Id(id) => self.store().get((*id).into()).await?,
            OrganizationChoice::Name(name) => {
                let key = UniqueKey::OrganizationName(name.clone());
                self.store().find(&key).await?
            }
        };
        let organization = found.and_then(Stored::narrow::<Organization>);
        Ok(organization.map(|organization| organization.value.id))
    }

    /// The person's sessions that are not over, newest first.
    ///
    /// # Errors
    /// When it is no person, or the storage fails.
    pub async fn own_sessions(&self, actor: &Actor) -> Result<Vec<Stored<Session>>, UseCaseError> {
        let mut sessions = self.sessions_of(actor.signed_in()?.user).await?;
        let now = now();
        sessions.retain(|session| session.value.expires > now);
        sessions.sort_by_key(|session| std::cmp::Reverse(session.value.created));
        Ok(sessions)
    }

    /// Ends a session of the person's own.
    ///
    /// # Errors
    /// When there is no such session of theirs, or the storage fails.
    pub async fn end_session(&self, actor: &Actor, id: SessionId) -> Result<(), UseCaseError> {
        let person = actor.signed_in()?;
        let session = self.store().entity::<Session>(id).await?;
        let session = session.filter(|session| session.value.user == person.user);
        let session = session.ok_or(UseCaseError::NotFound(RecordKind::Session))?;
        self.end_one(actor, &session.value).await
    }

    /// Ends a session, here and at gateways.
    async fn end_one(&self, actor: &Actor, session: &Session) -> Result<(), UseCaseError> {
        for _ in 0..ATTEMPTS {
            let user = self.store().entity::<User>(session.user).await?;
            let user = user.ok_or(UseCaseError::NotFound(RecordKind::User))?;
            let mut changed = user.value.clone();
            let mut mutations = end(&mut changed, std::slice::from_ref(session));
            mutations.push(update(changed, user.version));
            match self.commit(actor, "session.delete", session.id, mutations).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Missing(_)) => return Err(UseCaseError::NotFound(RecordKind::Session)),
                Err(CommitError::Stale(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Ends the session of this text. One that is over already is no error.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn sign_out(&self, text: &str) -> Result<(), UseCaseError> {
        let Some((session, user)) = self.session_of(text).await? else {
            return Ok(());
        };
        let actor = self.account(user.value.id).await?;
        match self.end_one(&actor, &session.value).await {
            Err(UseCaseError::NotFound(_)) => Ok(()),
            ended => ended,
        }
    }

    pub(super) async fn sessions_of(&self, user: UserId) -> Result<Vec<Stored<Session>>, UseCaseError> {
        let query = Query::all(RecordKind::Session).owned_by(user);
        Ok(self.store().all_of(query).await?)
    }

    /// What ends all sessions of a user, whose record is written with it.
    pub(super) async fn end_sessions_of(&self, user: &mut User) -> Result<Vec<Mutation>, UseCaseError> {
        let sessions = self.sessions_of(user.id).await?;
        let sessions: Vec<_> = sessions.into_iter().map(|session| session.value).collect();
        Ok(end(user, &sessions))
    }

    pub(super) async fn user_by_email(
        &self,
        email: &EmailAddress,
    ) -> Result<Option<Stored<User>>, UseCaseError> {
        let found = self.store().find(&UniqueKey::Email(email.clone())).await?;
        Ok(found.and_then(Stored::narrow))
    }

    /// Counts a guess at an account's secrets, or refuses to look at it yet.
    pub(super) fn guess(&self, source: Option<IpAddr>, account: &EmailAddress) -> Result<(), UseCaseError> {
        let now = Instant::now();
        let (many, guessed) = {
            let mut throttle = self.throttle();
            let many = throttle.are_many(account, MANY_FAILURES, now);
            (many, throttle.guess(source, account, now))
        };
        if many {
            self.look_at_failures(account.clone());
        }
        guessed.map_err(UseCaseError::TooManyAttempts)
    }

    /// What was counted was no guess.
    pub(super) fn was_none(&self, source: Option<IpAddr>, account: &EmailAddress) {
        self.throttle().was_none(source, account);
    }

    /// The guess was right.
    pub(super) fn was_right(&self, source: Option<IpAddr>, account: &EmailAddress) {
        self.throttle().was_right(source, account);
    }
}

/// Whether a session has what an organization asks of accounts.
pub(super) fn met(policy: &AccountPolicy, session: &Session, at: Timestamp) -> Result<(), UseCaseError> {
    if !policy.passwords && session.sign_in.is_by_password() {
        return Err(UseCaseError::NoPasswords);
    }
    if policy.multi_factor && !session.sign_in.is_multi_factor() {
        return Err(UseCaseError::MultiFactor);
    }
    match policy.session_life {
        Some(life) if session.created.after(life) <= at => Err(UseCaseError::SessionAge),
        Some(_) | None => Ok(()),
    }
}

/// What ends sessions of a user, and what gateways hold of them.
pub(super) fn end(user: &mut User, sessions: &[Session]) -> Vec<Mutation> {
    let now = now();
    for session in sessions {
        let ended = EndedSession {
            id: session.id,
            expires: session.expires,
        };
        user.end_session(ended, now);
    }
    let ids = sessions.iter().map(|session| session.id);
    ids.map(|id| Mutation::Delete(id.into(), None)).collect()
}

/// The user, if mutations write it.
fn user_in(mutations: &mut [Mutation], id: UserId) -> Option<&mut User> {
    mutations.iter_mut().find_map(|mutation| match mutation {
        Mutation::Create(StoreRecord::User(user)) | Mutation::Update(StoreRecord::User(user), _)
            if user.id == id =>
        {
            Some(user)
        }
        _ => None,
    })
}

/// At most so many bytes of a text, in whole characters.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_USER_AGENT)]
}
