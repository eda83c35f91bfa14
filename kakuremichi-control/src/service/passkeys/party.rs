//! What checks passkeys: the relying party that this Control is, by `webauthn-rs`.

use kakuremichi_core::{model::User, net::Host};
use kakuremichi_proto::identity::CanonicalUrl;
use serde_json::Value;
use webauthn_rs::{
    Webauthn, WebauthnBuilder,
    prelude::{
        AuthenticationResult, DiscoverableAuthentication, DiscoverableKey, Passkey, PasskeyRegistration,
        PublicKeyCredential, RegisterPublicKeyCredential, Url, Uuid, WebauthnError,
    },
};
use webauthn_rs_proto::{AllowCredentials, PublicKeyCredentialDescriptor, ResidentKeyRequirement};

use super::{CHALLENGE_LIFE, MAX_CREDENTIAL_ID};
use crate::service::UseCaseError;

/// Whom authenticators show as the site.
const NAME: &str = "kakuremichi";

/// This Control, for authenticators: its host is what a passkey belongs to.
#[derive(Debug)]
pub(in crate::service) struct RelyingParty(Webauthn);

impl RelyingParty {
    /// At a URL. There is none where browsers give pages no passkeys: at an address in the place of a name, or
    /// without TLS, except on `localhost`.
    pub(in crate::service) fn at(url: &CanonicalUrl) -> Option<Self> {
        let Host::Name(host) = &url.endpoint().host else {
            return None;
        };
        let host = host.as_str();
        let local = host == "localhost" || host.ends_with(".localhost");
        if !url.is_secure() && !local {
            return None;
        }
        let scheme = if url.is_secure() { "https" } else { "http" };
        let origin = Url::parse(&format!("{scheme}://{}", url.authority())).ok()?;
        let party = WebauthnBuilder::new(host, &origin).ok()?;
        party.rp_name(NAME).timeout(CHALLENGE_LIFE).build().ok().map(Self)
    }

    /// Asks for a passkey that the authenticator itself finds again, and which knows its person.
    pub(super) fn begin_adding(&self, user: &User) -> Result<(Value, PasskeyRegistration), UseCaseError> {
        let handle = Uuid::from_bytes(*user.id.as_bytes());
        let (mut asked, state) = self
            .0
            .start_passkey_registration(handle, user.email.as_str(), user.name.as_str(), None)
            .map_err(failed)?;
        let public = &mut asked.public_key;
        if let Some(wanted) = &mut public.authenticator_selection {
            wanted.resident_key = Some(ResidentKeyRequirement::Required);
            wanted.require_resident_key = true;
        }
        let known = credentials(user).map(|passkey| PublicKeyCredentialDescriptor {
            type_: "public-key".to_owned(),
            id: passkey.cred_id().clone(),
            transports: None,
        });
        public.exclude_credentials = Some(known.collect());
        Ok((options(&asked)?, state))
    }

    /// The passkey that an authenticator made.
    pub(super) fn added(&self, made: &Value, state: &PasskeyRegistration) -> Result<Passkey, UseCaseError> {
        let made: RegisterPublicKeyCredential = read(made)?;
        check_length(&made.raw_id)?;
        self.0.finish_passkey_registration(&made, state).map_err(refused)
    }

    /// Asks for any passkey of this Control, or, if a user is known already, for one of theirs.
    pub(super) fn begin_sign_in(
        &self,
        user: Option<&User>,
    ) -> Result<(Value, DiscoverableAuthentication), UseCaseError> {
        let (mut asked, state) = self.0.start_discoverable_authentication().map_err(failed)?;
        // Not while something is typed, but when it is asked for.
        asked.mediation = None;
        let known = user.into_iter().flat_map(credentials);
        asked.public_key.allow_credentials = known
            .map(|passkey| AllowCredentials {
                type_: "public-key".to_owned(),
                id: passkey.cred_id().clone(),
                transports: None,
            })
            .collect();
        Ok((options(&asked)?, state))
    }

    /// Checks an answer by a passkey, which is another from then on. `None` when its counter of signatures went back:
    /// somebody has a copy of the key.
    pub(super) fn check(
        &self,
        answer: &PublicKeyCredential,
        state: DiscoverableAuthentication,
        mut passkey: Passkey,
    ) -> Result<Option<Passkey>, UseCaseError> {
        let key = DiscoverableKey::from(&passkey);
        let checked = self.0.finish_discoverable_authentication_v2(answer, state, &key);
        let result: AuthenticationResult = match checked {
            Ok(result) => result,
            Err(WebauthnError::CredentialPossibleCompromise) => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        if !result.user_verified() {
            return Err(UseCaseError::PasskeyRefused);
        }
        passkey.update_credential(&result);
        Ok(Some(passkey))
    }
}

/// Reads what a browser sent.
pub(super) fn answer(credential: &Value) -> Result<PublicKeyCredential, UseCaseError> {
    let answer: PublicKeyCredential = read(credential)?;
    check_length(&answer.raw_id)?;
    Ok(answer)
}

/// A passkey as it is stored.
pub(super) fn stored(passkey: &kakuremichi_core::model::Passkey) -> Option<Passkey> {
    serde_json::from_str(&passkey.credential).ok()
}

/// The same, to be stored.
pub(super) fn written(passkey: &Passkey) -> Result<String, UseCaseError> {
    serde_json::to_string(passkey).map_err(|_| UseCaseError::PasskeyRefused)
}

fn credentials(user: &User) -> impl Iterator<Item = Passkey> {
    user.passkeys.iter().filter_map(stored)
}

fn read<T: serde::de::DeserializeOwned>(credential: &Value) -> Result<T, UseCaseError> {
    T::deserialize(credential).map_err(|error| {
        UseCaseError::field(
            "credential",
            format!("give what the browser made, as `toJSON()` writes it: {error}"),
        )
    })
}

fn check_length(id: &[u8]) -> Result<(), UseCaseError> {
    match id.len() <= MAX_CREDENTIAL_ID {
        true => Ok(()),
        false => Err(UseCaseError::PasskeyRefused),
    }
}

fn options(asked: &impl serde::Serialize) -> Result<Value, UseCaseError> {
    serde_json::to_value(asked).map_err(|_| UseCaseError::Random)
}

fn refused(error: WebauthnError) -> UseCaseError {
    tracing::info!(
        error = &error as &dyn std::error::Error,
        "a passkey's answer is refused"
    );
    UseCaseError::PasskeyRefused
}

/// No answer is to blame.
fn failed(error: WebauthnError) -> UseCaseError {
    tracing::error!(
        error = &error as &dyn std::error::Error,
        "no challenge for a passkey"
    );
    UseCaseError::Random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passkeys_are_of_a_name_that_is_reached_over_tls() {
        let party = |url: &str| RelyingParty::at(&url.parse().unwrap()).is_some();
        for good in [
            "https://control.example.net/km",
            "https://control.example.net:7443",
            "http://localhost:7443",
            "https://control.localhost:7443",
        ] {
            assert!(party(good), "{good}");
        }
        for bad in [
            "https://192.0.2.1",
            "https://[2001:db8::1]:7443",
            "http://127.0.0.1:7443",
        ] {
            assert!(!party(bad), "{bad}");
        }
    }
}
