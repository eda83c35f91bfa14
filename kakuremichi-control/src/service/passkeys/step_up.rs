//! Stepping up with a passkey.

use kakuremichi_core::{id::SessionId, model::User};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use webauthn_rs::prelude::DiscoverableAuthentication;

use super::{
    challenge::{Made, PasskeyChallenge},
    party::answer,
};
use crate::service::{ATTEMPTS, NewSession, UseCaseError, UseCases, Whereabouts};

/// For what a challenge is sealed.
const STEPPING_UP: &[u8] = b"challenge to step up with a passkey";

/// What is under way.
#[derive(Serialize, Deserialize)]
struct SteppingUp {
    /// Of this session, and no other.
    session: [u8; 16],
    state: DiscoverableAuthentication,
}

impl UseCases {
    /// A challenge for somebody who is signed in, if they have a passkey and passkeys work here.
    pub(in crate::service) fn challenge_to_step_up(
        &self,
        session: SessionId,
        user: &User,
    ) -> Result<Option<PasskeyChallenge>, UseCaseError> {
        if !self.has_passkeys() || user.passkeys.is_empty() {
            return Ok(None);
        }
        let (options, state) = self.party()?.begin_sign_in(Some(user))?;
        let session = *session.as_bytes();
        self.challenge(STEPPING_UP, SteppingUp { session, state }, options)
            .map(Some)
    }

    /// Steps up with the answer of a passkey of the person's own.
    ///
    /// # Errors
    /// When the session or the challenge is over, the answer not good, too much was guessed, or the storage fails.
    pub async fn step_up_with_passkey(
        &self,
        text: &str,
        challenge: &str,
        credential: &Value,
        at: &Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        let Made { at: made, about } = self.open_challenge::<SteppingUp>(STEPPING_UP, challenge)?;
        let answer = answer(credential)?;
        for _ in 0..ATTEMPTS {
            let (session, user) = self.stepping_up(text).await?;
            if *session.value.id.as_bytes() != about.session {
                return Err(UseCaseError::SignInOver);
            }
            let named = answer.get_user_unique_id();
            if named.is_some_and(|named| named != user.value.id.as_bytes()) {
                return Err(UseCaseError::PasskeyRefused);
            }
            let mut changed = user.value;
            self.take_answer(&mut changed, (&answer, &about.state), made, at.source)
                .await?;
            let sign_in = session.value.sign_in.with_passkey();
            match self
                .renew(session, (changed, user.version), sign_in, at.source)
                .await
            {
                Err(UseCaseError::Contended) => {}
                renewed => return renewed,
            }
        }
        Err(UseCaseError::Contended)
    }
}
