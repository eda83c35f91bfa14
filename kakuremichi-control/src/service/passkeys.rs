//! Passkeys of people's accounts (Web Authentication, level 3).
//!
//! Whoever adds or removes one has signed in a moment ago, with a second factor where there is one: a session that was
//! left open is not enough.

mod challenge;
mod party;
mod sign_in;
#[cfg(test)]
mod soft_key;
mod step_up;

pub use challenge::{CHALLENGE_LIFE, PasskeyChallenge};
pub(super) use party::RelyingParty;
#[cfg(test)]
pub(crate) use soft_key::SoftKey;

use std::time::Duration;

use kakuremichi_core::{
    id::{PasskeyId, SessionId, UserId},
    model::{MAX_PASSKEYS, Member, Organization, Passkey, PersonName, Session, User},
    secret::Secret,
    store::{CommitError, Query, RecordKind, Stored},
    time::Timestamp,
};
use kakuremichi_proto::identity::sha256;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use webauthn_rs::prelude::PasskeyRegistration;

use self::challenge::Made;
use super::{Actor, UseCaseError, UseCases, now, random, sign_in::end, totp::RecoveryCodes, update};
use crate::{mail::Mail, text::Text};

/// How long ago somebody may have signed in who adds or removes a passkey.
pub const RECENT_SIGN_IN: Duration = Duration::from_secs(10 * 60);
/// For what a challenge for another passkey is sealed.
const ADDING: &[u8] = b"challenge for another passkey";
/// The longest identifier of a credential, in bytes (Web Authentication, section 4).
const MAX_CREDENTIAL_ID: usize = 1023;

/// A passkey to be.
#[derive(Debug)]
pub struct PasskeyDraft {
    /// The challenge's text.
    pub challenge: String,
    /// What the person calls it.
    pub name: PersonName,
    /// What the browser made: a `PublicKeyCredential` with an attestation, in JSON.
    pub credential: Value,
}

/// A passkey was added.
#[derive(Debug)]
pub struct NewPasskey {
    /// The passkey.
    pub passkey: Passkey,
    /// If it is the account's first second factor: codes that work once each in its place. They are shown this once.
    pub recovery_codes: Vec<Secret<String>>,
}

/// Who adds a passkey, in which session.
#[derive(Serialize, Deserialize)]
struct Adding {
    user: Text<UserId>,
    session: Text<SessionId>,
    state: PasskeyRegistration,
}

impl UseCases {
    /// Whether passkeys work at this Control's URL.
    #[must_use]
    pub fn has_passkeys(&self) -> bool {
        self.0.party.is_some()
    }

    pub(super) fn party(&self) -> Result<&RelyingParty, UseCaseError> {
        self.0.party.as_ref().ok_or(UseCaseError::NoPasskeys)
    }

    /// Whether the person's session began just now, so that passkeys can be added and removed in it.
    ///
    /// # Errors
    /// Why they cannot, or that it is no person or the storage fails.
    pub async fn check_recent(&self, actor: &Actor) -> Result<(), UseCaseError> {
        self.recent(actor).await.map(|_| ())
    }

    /// The person's account and session, if they signed in just now.
    async fn recent(&self, actor: &Actor) -> Result<(Stored<User>, Session), UseCaseError> {
        actor.everywhere()?;
        let user = self.own_user(actor).await?;
        let session = self.store().entity::<Session>(actor.signed_in()?.session).await?;
        let session = session.ok_or(UseCaseError::NotFound(RecordKind::Session))?.value;
        match is_recent(&user.value, &session) {
            true => Ok((user, session)),
            false => Err(UseCaseError::SignInAgain),
        }
    }

    /// A challenge for another passkey of the person.
    ///
    /// # Errors
    /// When the person did not sign in just now, has [`MAX_PASSKEYS`], it is no person, passkeys do not work at
    /// this Control's URL, or the storage fails.
    pub async fn challenge_to_add(&self, actor: &Actor) -> Result<PasskeyChallenge, UseCaseError> {
        let party = self.party()?;
        let (user, session) = self.recent(actor).await?;
        has_room(&user.value)?;
        let (options, state) = party.begin_adding(&user.value)?;
        let adding = Adding {
            user: Text(user.value.id),
            session: Text(session.id),
            state,
        };
        self.challenge(ADDING, adding, options)
    }

    /// Adds a passkey to the person's account. Their other sessions end, and they get mail.
    ///
    /// # Errors
    /// When the challenge is over or the answer not good, the passkey is there already, or as for
    /// [`challenge_to_add`](Self::challenge_to_add).
    pub async fn add_passkey(&self, actor: &Actor, draft: PasskeyDraft) -> Result<NewPasskey, UseCaseError> {
        let party = self.party()?;
        let (user, session) = self.recent(actor).await?;
        has_room(&user.value)?;
        let Made { at, about } = self.open_challenge::<Adding>(ADDING, &draft.challenge)?;
        if about.user.0 != user.value.id || about.session.0 != session.id || at <= user.value.passkeys_since {
            return Err(UseCaseError::SignInOver);
        }
        let credential = party.added(&draft.credential, &about.state)?;
        let passkey = Passkey {
            id: PasskeyId::from_bytes(random()?),
            name: draft.name,
            credential_hash: sha256(credential.cred_id()),
            credential: party::written(&credential)?,
            answered: Timestamp::default(),
            used: None,
            created: now(),
        };
        let mut changed = user.value;
        let mut codes = Vec::new();
        if !changed.has_second_factor() {
            let drawn = RecoveryCodes::draw()?;
            (codes, changed.recovery_codes) = (drawn.texts, drawn.hashes);
        }
        changed.passkeys.push(passkey.clone());
        changed.passkeys_since = at;
        changed.reset = None;
        self.change_passkeys(actor, (changed, user.version), &session, "user.passkey")
            .await?;
        self.tell(actor, &passkey, "added to").await;
        Ok(NewPasskey {
            passkey,
            recovery_codes: codes,
        })
    }

    /// Gives one of the person's passkeys another name.
    ///
    /// # Errors
    /// When there is none such, it is no person, or the storage fails.
    pub async fn rename_passkey(
        &self,
        actor: &Actor,
        id: PasskeyId,
        name: PersonName,
    ) -> Result<Passkey, UseCaseError> {
        actor.everywhere()?;
        let user = self.own_user(actor).await?;
        let mut changed = user.value;
        let passkey = changed.passkeys.iter_mut().find(|passkey| passkey.id == id);
        let passkey = passkey.ok_or(UseCaseError::NoPasskey)?;
        passkey.name = name;
        let (renamed, subject) = (passkey.clone(), changed.id);
        let mutations = vec![update(changed, user.version)];
        self.commit(actor, "user.passkey_rename", subject, mutations)
            .await?;
        Ok(renamed)
    }

    /// Takes a passkey from the person's account. Their other sessions end, and they get mail.
    ///
    /// # Errors
    /// When there is none such, the person did not sign in just now, they could not sign in any more as they have to,
    /// it is no person, or the storage fails.
    pub async fn remove_passkey(&self, actor: &Actor, id: PasskeyId) -> Result<(), UseCaseError> {
        let (user, session) = self.recent(actor).await?;
        let mut changed = user.value;
        let place = changed.passkeys.iter().position(|passkey| passkey.id == id);
        let removed = changed.passkeys.remove(place.ok_or(UseCaseError::NoPasskey)?);
        let no_other = changed.passkeys.is_empty() && changed.identities.is_empty();
        if no_other && changed.password_hash.is_none() {
            return Err(UseCaseError::LastFactor(
                "nothing else lets you in: add another passkey, or set a password, first",
            ));
        }
        self.may_be_without(&changed).await?;
        if !changed.has_second_factor() {
            changed.recovery_codes = Vec::new();
        }
        changed.passkeys_since = now();
        self.change_passkeys(actor, (changed, user.version), &session, "user.passkey_remove")
            .await?;
        self.tell(actor, &removed, "removed from").await;
        Ok(())
    }

    /// Checks that an account may be as it would be: with a second factor where an organization asks for two.
    ///
    /// # Errors
    /// Which it may not, or that the storage fails.
    pub(super) async fn may_be_without(&self, user: &User) -> Result<(), UseCaseError> {
        if user.has_second_factor() {
            return Ok(());
        }
        let query = Query::all(RecordKind::Member).owned_by(user.id);
        let members: Vec<Stored<Member>> = self.store().all_of(query).await?;
        for member in members {
            let organization = self
                .store()
                .entity::<Organization>(member.value.organization)
                .await?;
            if organization.is_some_and(|organization| organization.value.accounts.multi_factor) {
                return Err(UseCaseError::LastFactor(
                    "an organization that you are in asks for two factors: set up another second one first",
                ));
            }
        }
        Ok(())
    }

    /// Writes an account whose passkeys changed, and ends its other sessions.
    async fn change_passkeys(
        &self,
        actor: &Actor,
        (mut changed, version): (User, kakuremichi_core::store::Version),
        session: &Session,
        action: &str,
    ) -> Result<(), UseCaseError> {
        let id = changed.id;
        let others = self.sessions_of(id).await?.into_iter();
        let others: Vec<_> = others
            .map(|other| other.value)
            .filter(|other| other.id != session.id)
            .collect();
        let mut mutations = end(&mut changed, &others);
        mutations.push(update(changed, version));
        match self.commit(actor, action, id, mutations).await {
            Err(CommitError::Stale(_) | CommitError::Missing(_)) => Err(UseCaseError::Contended),
            committed => {
                committed?;
                Ok(())
            }
        }
    }

    /// Tells a person by mail what happened to their passkeys. What was done is done without, too.
    async fn tell(&self, actor: &Actor, passkey: &Passkey, what: &str) {
        match self.own_user(actor).await {
            Ok(user) => self.mail(Mail {
                to: user.value.email,
                subject: "The passkeys of your account have changed",
                text: format!(
                    "The passkey \"{}\" was {what} your account at {}.\n\n\
                     If it was not you, sign in, remove what you do not know, and choose a new password.\n",
                    passkey.name, self.0.url
                ),
            }),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no mail about a passkey"
            ),
        }
    }
}

/// Whether a session of this user began just now, as strongly as the account can.
pub(super) fn is_recent(user: &User, session: &Session) -> bool {
    let strong = session.sign_in.is_multi_factor() || !user.has_second_factor();
    strong && now() < session.created.after(RECENT_SIGN_IN)
}

fn has_room(user: &User) -> Result<(), UseCaseError> {
    match user.passkeys.len() < MAX_PASSKEYS {
        true => Ok(()),
        false => Err(UseCaseError::Limit(
            "an account has at most 16 passkeys: remove one first",
        )),
    }
}
