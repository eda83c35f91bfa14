//! Step-up: somebody who is signed in proves it once more, with one factor of theirs, because a service wants a stronger
//! sign-in, or one that is not so long ago.
//!
//! The session goes on as the same one, so nothing that is open elsewhere by it is closed; its secret is another one from
//! then on (LESSONS, advisory 12).

use std::net::IpAddr;

use kakuremichi_core::{
    auth::Strength,
    model::{Session, SignIn, User},
    secret::Secret,
    store::{CommitError, Stored, Version},
};
use kakuremichi_proto::identity::SessionText;

use super::{
    ATTEMPTS, NewSession, PasskeyChallenge, UseCaseError, UseCases, Whereabouts, now, random, totp, update,
    written,
};

/// By what somebody can step up.
#[derive(Debug)]
pub struct StepUpWays {
    /// A passkey, which is asked so.
    pub passkey: Option<PasskeyChallenge>,
    /// A code of the app, or a recovery code.
    pub code: bool,
    /// The password, where there is no second factor.
    pub password: bool,
}

impl StepUpWays {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.passkey.is_none() && !self.code && !self.password
    }
}

impl UseCases {
    /// By what a person can make a session as strong as `wanted`, and recent.
    ///
    /// # Errors
    /// When the system's cryptography fails.
    pub fn ways_to_step_up(
        &self,
        (session, user): (&Session, &User),
        wanted: Strength,
    ) -> Result<StepUpWays, UseCaseError> {
        let enough = |sign_in: SignIn| sign_in.strength() >= wanted;
        let has_code = user.totp.is_some() || !user.recovery_codes.is_empty();
        let by_password = session.sign_in.is_by_password() && user.password_hash.is_some();
        Ok(StepUpWays {
            passkey: self.challenge_to_step_up(session.id, user)?,
            code: has_code && enough(session.sign_in.with_code()),
            // Who has a second factor proves that they still have it.
            password: by_password && !user.has_second_factor() && enough(session.sign_in),
        })
    }

    /// Steps up with a code of the person's app, or a recovery code. `text` is the session's.
    ///
    /// # Errors
    /// When the session is over, the code is wrong, too much was guessed, or the storage fails.
    pub async fn step_up_with_code(
        &self,
        text: &str,
        code: &Secret<String>,
        at: &Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        for _ in 0..ATTEMPTS {
            let (session, user) = self.stepping_up(text).await?;
            self.guess(at.source, &user.value.email)?;
            let mut changed = user.value;
            let taken = totp::take(&self.0.seal, &mut changed, code, now());
            let taken = taken.ok_or(UseCaseError::WrongCredentials)?;
            let sign_in = match (taken, session.value.sign_in) {
                (SignIn::PasswordAndRecoveryCode, SignIn::Password) => taken,
                (_, before) => before.with_code(),
            };
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

    /// Steps up with the person's password, which makes the session recent and no stronger. `text` is the session's.
    ///
    /// # Errors
    /// When the session is over, the password is wrong or not what the account is proven by, too much was guessed, or
    /// the storage fails.
    pub async fn step_up_with_password(
        &self,
        text: &str,
        password: Secret<String>,
        at: &Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        let (session, user) = self.stepping_up(text).await?;
        self.guess(at.source, &user.value.email)?;
        let hash = user.value.password_hash.clone();
        let verified = self.0.passwords.verify(password, hash).await?;
        if verified.is_none() || user.value.has_second_factor() {
            return Err(UseCaseError::WrongCredentials);
        }
        let sign_in = session.value.sign_in;
        // At the version at which the password was right.
        self.renew(session, (user.value, user.version), sign_in, at.source)
            .await
    }

    /// The session of somebody who steps up.
    pub(super) async fn stepping_up(
        &self,
        text: &str,
    ) -> Result<(Stored<Session>, Stored<User>), UseCaseError> {
        let found = self.session_of(text).await?;
        found.ok_or(UseCaseError::SignInOver)
    }

    /// Gives a session that somebody confirmed another secret, together with what it was confirmed by.
    pub(super) async fn renew(
        &self,
        session: Stored<Session>,
        (user, version): (User, Version),
        sign_in: SignIn,
        source: Option<IpAddr>,
    ) -> Result<NewSession, UseCaseError> {
        let text = SessionText::new(Secret::new(random()?));
        let (before, email) = (session.version, user.email.clone());
        let renewed = Session {
            secret_hash: text.secret_hash(),
            sign_in,
            authenticated: now(),
            ..session.value
        };
        let actor = self.account(user.id).await?;
        let mutations = vec![update(user, version), update(renewed.clone(), before)];
        match self
            .commit(&actor, "session.step_up", renewed.id, mutations)
            .await
        {
            Err(CommitError::Stale(_) | CommitError::Missing(_)) => Err(UseCaseError::Contended),
            committed => {
                committed?;
                self.was_right(source, &email);
                Ok(NewSession {
                    session: written(renewed, Some(before)),
                    text: text.to_text(),
                })
            }
        }
    }
}
