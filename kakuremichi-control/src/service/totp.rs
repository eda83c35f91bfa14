//! The second factor: codes of an app (RFC 6238), and recovery codes for when it is lost.

use data_encoding::{BASE32_NOPAD, HEXLOWER_PERMISSIVE};
use kakuremichi_core::{
    model::{MAX_RECOVERY_CODES, SignIn, Totp, User},
    secret::Secret,
    time::Timestamp,
};
use kakuremichi_proto::identity::{SecretHash, secret_hash};
use totp_rs::Builder;

use super::{
    Actor, UseCaseError, UseCases, now, random,
    seal::Seal,
    sign_in::{NewSession, Others, Whereabouts},
    update,
    users::Factor,
};

/// The bytes of a secret: 160 bits, as RFC 4226 recommends.
const SECRET: usize = 20;
/// What every app assumes.
const DIGITS: usize = 6;
/// Who the apps show as the issuer.
const ISSUER: &str = "kakuremichi";
/// The bytes of a recovery code: 80 bits, too many to guess.
const RECOVERY: usize = 10;

/// A secret for an app, not in use yet.
#[derive(Debug, Clone)]
pub struct TotpSecret {
    /// The secret in base 32, to be typed.
    pub secret: Secret<String>,
    /// The same as an `otpauth:` URI, to be shown as a QR code.
    pub uri: Secret<String>,
    /// Whether the person has a second factor already, which is asked for once more.
    pub replaces: bool,
}

/// The bytes of a secret that was drawn.
fn drawn(secret: &Secret<String>) -> Result<Vec<u8>, UseCaseError> {
    let bytes = BASE32_NOPAD.decode(secret.expose().as_bytes()).ok();
    bytes
        .filter(|bytes| bytes.len() == SECRET)
        .ok_or_else(|| UseCaseError::field("secret", "give the secret that was drawn, unchanged"))
}

/// The second factor was set up.
#[derive(Debug)]
pub struct NewTotp {
    /// Codes that work once each, in the place of the app. They are shown this once: only hashes are stored.
    pub recovery_codes: Vec<Secret<String>>,
    /// The session to go on with: those before are over.
    pub session: NewSession,
}

impl UseCases {
    /// Draws a secret for the person's app. Nothing is stored before it is [confirmed](Self::set_totp).
    ///
    /// # Errors
    /// When it is no person, or the storage fails.
    pub async fn draw_totp(&self, actor: &Actor) -> Result<TotpSecret, UseCaseError> {
        let secret = BASE32_NOPAD.encode(&random::<SECRET>()?);
        self.totp_secret(actor, Secret::new(secret)).await
    }

    /// The same of a secret that was drawn before.
    ///
    /// # Errors
    /// When it is none, it is no person, or the storage fails.
    pub async fn totp_secret(
        &self,
        actor: &Actor,
        secret: Secret<String>,
    ) -> Result<TotpSecret, UseCaseError> {
        drawn(&secret)?;
        let user = self.own_user(actor).await?.value;
        // An address has no character that would need to be escaped in a path, but for these.
        let label = user
            .email
            .as_str()
            .replace('%', "%25")
            .replace('?', "%3F")
            .replace('/', "%2F")
            .replace('#', "%23");
        let uri = format!(
            "otpauth://totp/{ISSUER}:{label}?secret={}&issuer={ISSUER}",
            secret.expose()
        );
        Ok(TotpSecret {
            secret,
            uri: Secret::new(uri),
            replaces: user.has_second_factor(),
        })
    }

    /// Sets the person's second factor up, or another one in its place: with a code that proves that the app has
    /// the secret, and the password, since a session that was left open is not enough; with a code of the one before,
    /// where there is one. All sessions of before end.
    ///
    /// # Errors
    /// When secret, code or password are wrong, too much was guessed, or the storage fails.
    pub async fn set_totp(
        &self,
        actor: &Actor,
        secret: &Secret<String>,
        code: &Secret<String>,
        password: Secret<String>,
        current: Option<&Secret<String>>,
        at: Whereabouts,
    ) -> Result<NewTotp, UseCaseError> {
        let user = self
            .confirm(actor, password, Factor::Second(current), &at)
            .await?;
        let bytes = drawn(secret)?;
        let Some(step) = step_of(&bytes, code.expose(), 0, now()) else {
            return Err(UseCaseError::field(
                "code",
                "the code is not one of the app's now: is the clock of its device right?",
            ));
        };
        let codes = RecoveryCodes::draw()?;
        let mut changed = user.value.clone();
        changed.totp = Some(Totp {
            sealed_secret: self.0.seal.seal(user.value.id.as_bytes(), &bytes)?,
            last_step: step,
        });
        changed.recovery_codes = codes.hashes;
        changed.reset = None;
        let mutations = vec![update(changed, user.version)];
        let session = self
            .begin_session(
                user.value.id,
                SignIn::PasswordAndTotp,
                at,
                mutations,
                Others::End,
                "user.totp",
            )
            .await?;
        Ok(NewTotp {
            recovery_codes: codes.texts,
            session,
        })
    }

    /// Takes the person's app away as a second factor, which needs a code of it. All sessions of before end.
    ///
    /// # Errors
    /// When the password is wrong, too much was guessed, an organization asks for two factors and there is no passkey
    /// either, or the storage fails.
    pub async fn remove_totp(
        &self,
        actor: &Actor,
        password: Secret<String>,
        code: Option<&Secret<String>>,
        at: Whereabouts,
    ) -> Result<NewSession, UseCaseError> {
        let user = self.confirm(actor, password, Factor::Second(code), &at).await?;
        let mut changed = user.value.clone();
        changed.totp = None;
        self.may_be_without(&changed).await?;
        if !changed.has_second_factor() {
            changed.recovery_codes = Vec::new();
        }
        changed.reset = None;
        let mutations = vec![update(changed, user.version)];
        self.begin_session(
            user.value.id,
            SignIn::Password,
            at,
            mutations,
            Others::End,
            "user.totp_remove",
        )
        .await
    }
}

/// Codes for when a second factor is lost.
pub(super) struct RecoveryCodes {
    /// What the person keeps.
    pub(super) texts: Vec<Secret<String>>,
    /// What is stored.
    pub(super) hashes: Vec<SecretHash>,
}

impl RecoveryCodes {
    pub(super) fn draw() -> Result<Self, UseCaseError> {
        let mut codes = Self {
            texts: Vec::with_capacity(MAX_RECOVERY_CODES),
            hashes: Vec::with_capacity(MAX_RECOVERY_CODES),
        };
        for _ in 0..MAX_RECOVERY_CODES {
            let code = random::<RECOVERY>()?;
            codes.texts.push(Secret::new(written(&code)));
            codes.hashes.push(secret_hash(&code));
        }
        Ok(codes)
    }
}

/// Takes a code, which is then used: of the app, or for recovery. Says what it was, if it was good.
pub(super) fn take(seal: &Seal, user: &mut User, code: &Secret<String>, at: Timestamp) -> Option<SignIn> {
    let text: String = code
        .expose()
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .collect();
    if text.len() == DIGITS {
        let totp = user.totp.as_mut()?;
        let secret = seal.open(user.id.as_bytes(), &totp.sealed_secret)?;
        totp.last_step = step_of(&secret, &text, totp.last_step + 1, at)?;
        return Some(SignIn::PasswordAndTotp);
    }
    let hash = secret_hash(&HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?);
    let used = user.recovery_codes.iter().position(|known| *known == hash)?;
    user.recovery_codes.remove(used);
    Some(SignIn::PasswordAndRecoveryCode)
}

/// The step that a code is of: the one of now or one beside it (RFC 6238, section 5.2), and none before `first`.
fn step_of(secret: &[u8], code: &str, first: u64, at: Timestamp) -> Option<u64> {
    let app = Builder::new().with_secret(secret.to_vec()).build().ok()?;
    let seconds = u64::try_from(at.as_millis()).ok()? / 1000;
    app.check(code, seconds).filter(|step| *step >= first)
}

/// A recovery code as a person copies it: groups of five.
fn written(code: &[u8; RECOVERY]) -> String {
    let hex = data_encoding::HEXLOWER.encode(code);
    let groups: Vec<_> = hex.as_bytes().chunks(5).map(String::from_utf8_lossy).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::store::conformance::sample;

    use super::*;

    const SEED: &[u8] = b"12345678901234567890";

    const fn second(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    /// The last six digits of the eight that RFC 6238 has in appendix B.
    #[test]
    fn codes_are_those_of_the_rfc() {
        for (at, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_234_567_890, "005924"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(step_of(SEED, code, 0, second(at)), Some(at as u64 / 30));
        }
        for late in [58, 89, 29, 30] {
            assert_eq!(step_of(SEED, "287082", 0, second(late)), Some(1), "{late}");
        }
        assert_eq!(step_of(SEED, "287082", 0, second(90)), None);
        assert_eq!(step_of(SEED, "287083", 0, second(59)), None);
    }

    #[test]
    fn a_code_is_good_once() {
        let seal = Seal::new(b"identity").unwrap();
        let mut user = sample::user(1);
        user.totp = Some(Totp {
            sealed_secret: seal.seal(user.id.as_bytes(), SEED).unwrap(),
            last_step: 0,
        });
        let recovery = [7; RECOVERY];
        user.recovery_codes = vec![secret_hash(&[1; RECOVERY]), secret_hash(&recovery)];
        let mut with = |code: &str, at| take(&seal, &mut user, &Secret::new(code.to_owned()), second(at));
        assert_eq!(with("000000", 59), None);
        assert_eq!(with("287 082", 59), Some(SignIn::PasswordAndTotp));
        assert_eq!(with("287082", 59), None, "it was used");
        let text = written(&recovery);
        assert_eq!(text.len(), 23);
        assert_eq!(
            with(&text.to_uppercase(), 59),
            Some(SignIn::PasswordAndRecoveryCode)
        );
        assert_eq!(with(&text, 59), None, "it was used");
        for bad in ["", "x", "00000", &"0".repeat(10_000)] {
            assert_eq!(with(bad, 59), None);
        }
        assert_eq!(user.recovery_codes.len(), 1);
    }
}
