//! Signing in with a passkey: with nothing else, or after a password.

use std::net::IpAddr;

use kakuremichi_core::{
    email::EmailAddress,
    model::{SignIn, User},
    secret::Secret,
    store::{Stored, UniqueKey},
    time::Timestamp,
};
use kakuremichi_proto::identity::sha256;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use webauthn_rs::prelude::{DiscoverableAuthentication, PublicKeyCredential};

use super::{
    challenge::{Made, PasskeyChallenge},
    party::{answer, stored, written},
};
use crate::service::{
    ATTEMPTS, NewSession, UseCaseError, UseCases, Whereabouts, now, sign_in::Others, update,
};

/// For what a challenge is sealed.
const SIGNING_IN: &[u8] = b"challenge to sign in with a passkey";

/// A sign-in that is under way.
#[derive(Serialize, Deserialize)]
struct SigningIn {
    /// What says that a password was right, if one was asked for.
    after: Option<String>,
    state: DiscoverableAuthentication,
}

impl UseCases {
    /// A challenge for whoever has a passkey here.
    ///
    /// # Errors
    /// When passkeys do not work at this Control's URL.
    pub fn challenge_to_sign_in(&self) -> Result<PasskeyChallenge, UseCaseError> {
        let (options, state) = self.party()?.begin_sign_in(None)?;
        self.challenge(SIGNING_IN, SigningIn { after: None, state }, options)
    }

    /// A challenge for whoever got a password right, if they have a passkey.
    ///
    /// # Errors
    /// When the sign-in is over, passkeys do not work at this Control's URL, or the storage fails.
    pub async fn challenge_after_password(
        &self,
        continuation: &Secret<String>,
    ) -> Result<Option<PasskeyChallenge>, UseCaseError> {
        let party = self.party()?;
        let proven = self.open_continuation(continuation).await?;
        let user = self.user_by_email(&proven.email).await?;
        let Some(user) = user.filter(|user| !user.value.passkeys.is_empty()) else {
            return Ok(None);
        };
        let (options, state) = party.begin_sign_in(Some(&user.value))?;
        let after = Some(continuation.expose().clone());
        self.challenge(SIGNING_IN, SigningIn { after, state }, options)
            .map(Some)
    }

    /// A challenge for whoever gives a password, as the second factor.
    ///
    /// # Errors
    /// When the password is wrong, too much was guessed, or the account has no passkey; or as for
    /// [`challenge_to_sign_in`](Self::challenge_to_sign_in).
    pub async fn challenge_with_password(
        &self,
        email: EmailAddress,
        password: Secret<String>,
        at: &Whereabouts,
    ) -> Result<PasskeyChallenge, UseCaseError> {
        self.party()?;
        let proven = self.prove_password(email, password, at).await?;
        self.was_none(at.source, &proven.email);
        let continuation = self.continuation(&proven)?;
        let challenge = self.challenge_after_password(&continuation).await?;
        challenge.ok_or(UseCaseError::NoPasskey)
    }

    /// Signs in with the answer of a passkey.
    ///
    /// # Errors
    /// When the challenge is over, the answer not good, the passkey nobody's here or its account disabled, too much
    /// was guessed, or the storage fails.
    pub async fn sign_in_with_passkey(
        &self,
        challenge: &str,
        credential: &Value,
        at: Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        let Made { at: made, about } = self.open_challenge::<SigningIn>(SIGNING_IN, challenge)?;
        let answer = answer(credential)?;
        let hash = sha256(&answer.raw_id);
        for _ in 0..ATTEMPTS {
            let user = self.holder_of(hash, &answer, about.after.as_deref()).await?;
            let email = user.value.email.clone();
            let mut changed = user.value;
            self.take_answer(&mut changed, (&answer, &about.state), made, at.source)
                .await?;
            let way = match about.after {
                Some(_) => SignIn::PasswordAndPasskey,
                None => SignIn::Passkey,
            };
            let id = changed.id;
            // At its version: of two answers to one challenge one is taken (LESSONS, advisory 11).
            let pinned = vec![update(changed, user.version)];
            let begun = self
                .begin_session(id, way, at.clone(), pinned, Others::Stay, "session.create")
                .await;
            match begun {
                Err(UseCaseError::Contended) => {}
                begun => {
                    self.was_right(at.source, &email);
                    return begun;
                }
            }
        }
        Err(UseCaseError::Contended)
    }

    /// Takes the answer of one of a user's passkeys, and notes it in the account.
    pub(super) async fn take_answer(
        &self,
        user: &mut User,
        (answer, state): (&PublicKeyCredential, &DiscoverableAuthentication),
        made: Timestamp,
        source: Option<IpAddr>,
    ) -> Result<(), UseCaseError> {
        let (party, hash) = (self.party()?, sha256(&answer.raw_id));
        let mut passkeys = user.passkeys.iter_mut();
        let passkey = passkeys.find(|passkey| passkey.credential_hash == hash);
        let passkey = passkey.ok_or(UseCaseError::PasskeyRefused)?;
        if made <= passkey.answered {
            return Err(UseCaseError::SignInOver);
        }
        self.guess(source, &user.email)?;
        let known = stored(passkey).ok_or(UseCaseError::PasskeyRefused)?;
        let Some(renewed) = party.check(answer, state.clone(), known)? else {
            tracing::warn!(user = %user.id, passkey = %passkey.id, "the counter of a passkey went back");
            let actor = self.account(user.id).await?;
            self.commit(&actor, "user.passkey_copied", user.id, Vec::new())
                .await?;
            return Err(UseCaseError::PasskeyRefused);
        };
        passkey.credential = written(&renewed)?;
        (passkey.answered, passkey.used) = (made, Some(now()));
        Ok(())
    }

    /// Whose passkey answers: after a password, of the account whose it was.
    async fn holder_of(
        &self,
        hash: [u8; 32],
        answer: &PublicKeyCredential,
        after: Option<&str>,
    ) -> Result<Stored<User>, UseCaseError> {
        let found = self.store().find(&UniqueKey::Passkey(hash)).await?;
        let user = found
            .and_then(Stored::narrow::<User>)
            .filter(|user| user.value.disabled.is_none())
            .ok_or(UseCaseError::PasskeyRefused)?;
        let named = answer.get_user_unique_id();
        if named.is_some_and(|named| named != user.value.id.as_bytes()) {
            return Err(UseCaseError::PasskeyRefused);
        }
        match after {
            // Web Authentication, section 7.2, step 6: who is not known yet is named by the authenticator.
            None if named.is_none() => Err(UseCaseError::PasskeyRefused),
            None => Ok(user),
            Some(continuation) => {
                let continuation = Secret::new(continuation.to_owned());
                let proven = self.open_continuation(&continuation).await?;
                match proven.email == user.value.email && proven.hash == user.value.password_hash {
                    true => Ok(user),
                    false => Err(UseCaseError::PasskeyRefused),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kakuremichi_core::{
        model::{Permissions, Session},
        store::{Batch, MemoryStore, Mutation, Store, conformance::sample},
    };

    use super::*;
    use crate::service::{Actor, PasskeyDraft, Person, SESSION_LIFE, SoftKey, Wiring};

    /// DESIGN, section 8: several instances are one Control.
    #[tokio::test]
    async fn any_instance_takes_an_answer_and_one_does() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let [one, two] = [(); 2].map(|()| UseCases::new(Wiring::tests(Arc::clone(&store))));
        let user = sample::user(1);
        let session = Session {
            created: now(),
            expires: now().after(SESSION_LIFE),
            ..sample::session(1, 1)
        };
        let batch = Batch {
            mutations: vec![
                Mutation::Create(user.clone().into()),
                Mutation::Create(session.clone().into()),
            ],
            audit: sample::audit("test"),
            request: None,
        };
        store.commit(batch).await.unwrap();
        let person = Person {
            user: user.id,
            session: session.id,
            administrator: false,
            organization: None,
        };
        let organization = one.start().await.unwrap().organization;
        let actor = Actor::person(organization, person, Permissions::NONE);

        let mut key = SoftKey::new();
        let asked = one.challenge_to_add(&actor).await.unwrap();
        let draft = PasskeyDraft {
            credential: key.create(&asked.options),
            challenge: asked.text,
            name: "Phone".parse().unwrap(),
        };
        let made = two.add_passkey(&actor, draft).await.unwrap();
        assert!(made.recovery_codes.is_empty(), "there is an app already");
        let asked = one.challenge_to_sign_in().unwrap();
        let answer = key.get(&asked.options);
        let begun = two.sign_in_with_passkey(&asked.text, &answer, Whereabouts::default());
        assert_eq!(begun.await.unwrap().session.value.sign_in, SignIn::Passkey);
        let again = one.sign_in_with_passkey(&asked.text, &answer, Whereabouts::default());
        assert!(matches!(again.await, Err(UseCaseError::SignInOver)));
    }
}
