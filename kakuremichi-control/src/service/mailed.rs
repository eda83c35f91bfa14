//! Links that people get by mail: they prove who reads an address.

use std::time::{Duration, Instant};

use kakuremichi_core::{
    email::EmailAddress,
    model::{MailedSecret, SignIn, User},
    secret::Secret,
    store::{Mutation, Stored, UniqueKey},
};
use kakuremichi_proto::identity::{ResetText, SecretHash, VerificationText};

use super::{
    Actor, UseCaseError, UseCases, now, random,
    sign_in::{NewSession, Others, Whereabouts},
    totp, update,
    users::check_password,
};
use crate::mail::Mail;

/// How long a link to a new password is good.
pub const RESET_LIFE: Duration = Duration::from_secs(60 * 60);
/// How long no other is mailed.
const RESET_PAUSE: Duration = Duration::from_secs(2 * 60);
/// How long a link that verifies an address is good.
pub const VERIFICATION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// A new password, by a link.
#[derive(Debug)]
pub struct ResetDraft {
    /// What the link has.
    pub reset: ResetText,
    /// The password as it is to be.
    pub password: Secret<String>,
    /// A code, where a second factor is set up: mail does not replace it.
    pub code: Option<Secret<String>>,
}

impl UseCases {
    /// Mails a link to a new password to an address, if there is an account with it. Whether there is, the caller
    /// does not learn, neither by the answer nor by the time that it takes.
    ///
    /// # Errors
    /// When this Control sends no mail, or too many were asked for.
    pub fn mail_reset(&self, email: EmailAddress, at: &Whereabouts) -> Result<(), UseCaseError> {
        if self.0.mail.is_none() {
            return Err(UseCaseError::NoMail);
        }
        self.asks_for_mail(&email, at)?;
        let control = self.clone();
        tokio::spawn(async move {
            // Whoever asks again and again does not spoil the link that somebody is about to use.
            if control.was_mailed_lately(&email).await.unwrap_or(true) {
                return;
            }
            match control.reset_link(&email).await {
                Ok(Some(link)) => control.mail(Mail {
                    to: email,
                    subject: "Choose a new password",
                    text: format!(
                        "Somebody, probably you, asked for a new password. Choose it here within an hour:\n\n{}\n\n\
                         If it was not you, there is nothing to do: your password stays as it is.\n",
                        link.expose()
                    ),
                }),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "no link to a new password");
                }
            }
        });
        Ok(())
    }

    /// Whether a link to a new password was made for an account a moment ago.
    async fn was_mailed_lately(&self, email: &EmailAddress) -> Result<bool, UseCaseError> {
        let user = self.user_by_email(email).await?;
        let reset = user.and_then(|user| user.value.reset);
        Ok(reset.is_some_and(|reset| now().after(RESET_LIFE) < reset.expires.after(RESET_PAUSE)))
    }

    /// A link to a new password for an account, if there is one that is not disabled. Links of before are good no
    /// more.
    ///
    /// # Errors
    /// When the storage fails, or the account changes at the same time.
    pub async fn reset_link(&self, email: &EmailAddress) -> Result<Option<Secret<String>>, UseCaseError> {
        let user = self.user_by_email(email).await?;
        let Some(user) = user.filter(|user| user.value.disabled.is_none()) else {
            return Ok(None);
        };
        let text = ResetText::new(Secret::new(random()?));
        let changed = User {
            reset: Some(MailedSecret {
                hash: text.secret_hash(),
                expires: now().after(RESET_LIFE),
            }),
            ..user.value
        };
        let id = changed.id;
        let actor = self.control().await?;
        self.commit(&actor, "user.reset_link", id, vec![update(changed, user.version)])
            .await?;
        Ok(Some(self.link(crate::pages::RESET, &text.to_text())))
    }

    /// Sets a new password by a link. The link is good no more, all sessions end, and another begins.
    ///
    /// # Errors
    /// When the link is not good, the password too short, a code is missing or wrong, or the storage fails.
    pub async fn reset_password(
        &self,
        draft: ResetDraft,
        at: Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        check_password("password", &draft.password)?;
        let hash = draft.reset.secret_hash();
        let user = self.mailed(hash, |user| user.reset.as_ref()).await?;
        let mut changed = user.value.clone();
        let sign_in = match (changed.has_second_factor(), draft.code) {
            (false, _) => SignIn::Password,
            (true, None) => return Err(UseCaseError::SecondFactor),
            (true, Some(code)) => {
                self.guess(at.source, &user.value.email)?;
                let taken = totp::take(&self.0.seal, &mut changed, &code, now());
                let taken = taken.ok_or(UseCaseError::WrongCredentials)?;
                self.was_right(at.source, &user.value.email);
                taken
            }
        };
        changed.password_hash = Some(self.0.passwords.hash(draft.password).await?);
        changed.reset = None;
        // At its version: of two who use the link at once one does (LESSONS, advisory 11).
        let mutations = vec![Mutation::Update(changed.into(), user.version)];
        let begun = self
            .begin_session(
                user.value.id,
                sign_in,
                at,
                mutations,
                Others::End,
                "user.reset_password",
            )
            .await;
        match begun {
            // Somebody else used it; or the account changed otherwise, and the link is good still.
            Err(UseCaseError::Contended) => {
                self.mailed(hash, |user| user.reset.as_ref()).await?;
                Err(UseCaseError::Contended)
            }
            begun => begun,
        }
    }

    /// Mails the person a link that proves that they read their address.
    ///
    /// # Errors
    /// When this Control sends no mail, too many were asked for, it is no person, or the storage fails.
    pub async fn mail_verification(&self, actor: &Actor, at: &Whereabouts) -> Result<(), UseCaseError> {
        if self.0.mail.is_none() {
            return Err(UseCaseError::NoMail);
        }
        let user = self.own_user(actor).await?;
        if user.value.verified.is_some() {
            return Ok(());
        }
        self.asks_for_mail(&user.value.email, at)?;
        let text = VerificationText::new(Secret::new(random()?));
        let changed = User {
            verification: Some(MailedSecret {
                hash: text.secret_hash(),
                expires: now().after(VERIFICATION_LIFE),
            }),
            ..user.value
        };
        let (id, to) = (changed.id, changed.email.clone());
        self.commit(
            actor,
            "user.verification_link",
            id,
            vec![update(changed, user.version)],
        )
        .await?;
        let link = self.link(crate::pages::VERIFY, &text.to_text());
        self.mail(Mail {
            to,
            subject: "Confirm your address",
            text: format!(
                "Open this link within a day to confirm that this is your address:\n\n{}\n\n\
                 If you have no account here, there is nothing to do.\n",
                link.expose()
            ),
        });
        Ok(())
    }

    /// Takes the proof that somebody reads the address of their account.
    ///
    /// # Errors
    /// When the link is not good, or the storage fails.
    pub async fn verify_address(&self, text: &VerificationText) -> Result<(), UseCaseError> {
        let user = self
            .mailed(text.secret_hash(), |user| user.verification.as_ref())
            .await?;
        let changed = User {
            verification: None,
            verified: Some(now()),
            ..user.value
        };
        let (id, actor) = (changed.id, self.account(changed.id).await?);
        self.commit(&actor, "user.verify", id, vec![update(changed, user.version)])
            .await?;
        Ok(())
    }

    /// The user who was mailed this secret, if it is good now.
    async fn mailed(
        &self,
        hash: SecretHash,
        of: impl Fn(&User) -> Option<&MailedSecret>,
    ) -> Result<Stored<User>, UseCaseError> {
        let found = self
            .store()
            .find(&UniqueKey::MailedSecret(*hash.as_bytes()))
            .await?;
        found
            .and_then(Stored::narrow::<User>)
            .filter(|user| {
                let good = |mailed: &MailedSecret| mailed.hash == hash && now() < mailed.expires;
                user.value.disabled.is_none() && of(&user.value).is_some_and(good)
            })
            .ok_or(UseCaseError::Link)
    }

    /// Counts that somebody has a mail sent to an address, whoever has it.
    fn asks_for_mail(&self, email: &EmailAddress, at: &Whereabouts) -> Result<(), UseCaseError> {
        let asked = self.mails().guess(at.source, email, Instant::now());
        asked.map_err(UseCaseError::TooManyAttempts)
    }

    pub(super) fn mail(&self, mail: Mail) {
        if let Some(mailer) = &self.0.mail {
            mailer.send(mail);
        }
    }

    /// A page of this Control, with a secret behind the `#`, where it is sent to nobody.
    pub(super) fn link(&self, page: &str, secret: &Secret<String>) -> Secret<String> {
        Secret::new(format!("{}{page}#{}", self.0.url, secret.expose()))
    }
}
