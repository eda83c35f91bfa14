//! Enrolment tokens, API keys and other secrets as people copy them.
//!
//! Each is a prefix and lower-case base 32 (RFC 4648 alphabet, no padding) that ends in a checksum, so
//! that a text cut short is told apart from one that is not known. The checksum is no protection.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use kakuremichi_core::{
    key::IdentityKey,
    secret::{Secret, SecretHash},
};

use super::{secret_hash, sha256};

const TOKEN_PREFIX: &str = "kkm_enroll_";
/// The only layout of tokens so far.
const TOKEN_VERSION: u8 = 1;
/// The token says which CA Control's certificate is from.
const FLAG_CA: u8 = 1;
const CHECKSUM: usize = 4;

/// Why a text is not such a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseSecretError {
    /// It does not start as one.
    #[error("the text starts with `{0}`")]
    Prefix(&'static str),
    /// What follows is not what was copied: cut short, or a character changed.
    #[error("the text is damaged: it is cut short or mistyped")]
    Damaged,
    /// It was made by a newer Control.
    #[error("the token is of a newer kind than this program knows")]
    Newer,
}

/// An enrolment token: the secret that lets a node join, and what the node needs to know that it is
/// talking to the right Control.
#[derive(Clone)]
pub struct TokenText {
    secret: Secret<[u8; 32]>,
    control: IdentityKey,
    ca: Option<[u8; 32]>,
}

impl TokenText {
    /// Makes a token of 32 random bytes, Control's identity and, where Control serves with a CA of its
    /// own, the SHA-256 of that CA's DER certificate.
    #[must_use]
    pub const fn new(secret: Secret<[u8; 32]>, control: IdentityKey, ca: Option<[u8; 32]>) -> Self {
        Self { secret, control, ca }
    }

    /// The secret.
    #[must_use]
    pub const fn secret(&self) -> &Secret<[u8; 32]> {
        &self.secret
    }

    /// SHA-256 of the secret, which is what Control stores.
    #[must_use]
    pub fn secret_hash(&self) -> SecretHash {
        secret_hash(self.secret.expose())
    }

    /// The key that Control has to prove.
    #[must_use]
    pub const fn control(&self) -> IdentityKey {
        self.control
    }

    /// SHA-256 of the DER certificate of Control's own CA.
    #[must_use]
    pub const fn ca(&self) -> Option<&[u8; 32]> {
        self.ca.as_ref()
    }

    /// The text to copy.
    #[must_use]
    pub fn to_text(&self) -> Secret<String> {
        let mut bytes = vec![TOKEN_VERSION, if self.ca.is_some() { FLAG_CA } else { 0 }];
        bytes.extend_from_slice(self.secret.expose());
        bytes.extend_from_slice(self.control.as_bytes());
        bytes.extend(self.ca.iter().flatten());
        to_text(TOKEN_PREFIX, bytes)
    }
}

impl FromStr for TokenText {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, ParseSecretError> {
        let bytes = from_text(TOKEN_PREFIX, text)?;
        let bytes = bytes.expose();
        let (&[version, flags], rest) = bytes.split_first_chunk().ok_or(ParseSecretError::Damaged)?;
        if version != TOKEN_VERSION || flags & !FLAG_CA != 0 {
            return Err(ParseSecretError::Newer);
        }
        let (secret, rest) = rest.split_first_chunk().ok_or(ParseSecretError::Damaged)?;
        let (control, rest) = rest.split_first_chunk().ok_or(ParseSecretError::Damaged)?;
        let ca = match flags {
            FLAG_CA => Some(rest.try_into().map_err(|_| ParseSecretError::Damaged)?),
            _ if rest.is_empty() => None,
            _ => return Err(ParseSecretError::Damaged),
        };
        Ok(Self {
            secret: Secret::new(*secret),
            control: IdentityKey::from_bytes(*control),
            ca,
        })
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenText")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

macro_rules! secret_texts {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            secret: Secret<[u8; 32]>,
        }

        impl $name {
            /// What the text starts with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes one of 32 random bytes.
            #[must_use]
            pub const fn new(secret: Secret<[u8; 32]>) -> Self {
                Self { secret }
            }

            /// SHA-256 of the secret, which is what Control stores.
            #[must_use]
            pub fn secret_hash(&self) -> SecretHash {
                secret_hash(self.secret.expose())
            }

            /// The text to copy.
            #[must_use]
            pub fn to_text(&self) -> Secret<String> {
                to_text(Self::PREFIX, self.secret.expose().to_vec())
            }
        }

        impl FromStr for $name {
            type Err = ParseSecretError;

            fn from_str(text: &str) -> Result<Self, ParseSecretError> {
                let bytes = from_text(Self::PREFIX, text)?;
                let secret = bytes.expose().as_slice().try_into();
                Ok(Self::new(Secret::new(
                    secret.map_err(|_| ParseSecretError::Damaged)?,
                )))
            }
        }
    )*};
}

secret_texts! {
    /// An API key.
    ApiKeyText "kkm_api_";
    /// What a program shows at a service.
    ServiceTokenText "kkm_service_";
    /// What a person who signed in to Control shows with each request.
    SessionText "kkm_session_";
    /// Lets one person join an organization, once.
    InvitationText "kkm_invite_";
    /// Lets one person choose a new password, once.
    ResetText "kkm_reset_";
    /// Proves that somebody reads an address.
    VerificationText "kkm_verify_";
}

fn checksum(prefix: &str, bytes: &[u8]) -> [u8; CHECKSUM] {
    let hash = sha256(&[prefix.as_bytes(), bytes].concat());
    [hash[0], hash[1], hash[2], hash[3]]
}

fn to_text(prefix: &str, mut bytes: Vec<u8>) -> Secret<String> {
    bytes.extend_from_slice(&checksum(prefix, &bytes));
    let bytes = Secret::new(bytes);
    let mut text = BASE32_NOPAD.encode(bytes.expose());
    text.make_ascii_lowercase();
    text.insert_str(0, prefix);
    Secret::new(text)
}

fn from_text(prefix: &'static str, text: &str) -> Result<Secret<Vec<u8>>, ParseSecretError> {
    let body = text
        .strip_prefix(prefix)
        .ok_or(ParseSecretError::Prefix(prefix))?;
    if body.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ParseSecretError::Damaged);
    }
    let upper = Secret::new(body.to_ascii_uppercase());
    let decoded = BASE32_NOPAD.decode(upper.expose().as_bytes());
    let bytes = Secret::new(decoded.map_err(|_| ParseSecretError::Damaged)?);
    match bytes.expose().split_last_chunk::<CHECKSUM>() {
        Some((payload, sum)) if *sum == checksum(prefix, payload) => Ok(Secret::new(payload.to_vec())),
        Some(_) | None => Err(ParseSecretError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_pin_control() {
        for ca in [None, Some([3; 32])] {
            let token = TokenText::new(Secret::new([1; 32]), IdentityKey::from_bytes([2; 32]), ca);
            let text = token.to_text();
            let parsed: TokenText = text.expose().parse().unwrap();
            assert_eq!(parsed.control(), token.control());
            assert_eq!(parsed.ca(), ca.as_ref());
            assert_eq!(parsed.secret_hash(), secret_hash(&[1; 32]));
            assert!(!format!("{parsed:?}").contains(&text.expose()[20..40]));
        }
    }

    #[test]
    fn a_damaged_text_says_so() {
        let text = TokenText::new(Secret::new([1; 32]), IdentityKey::from_bytes([2; 32]), None).to_text();
        let text = text.expose();
        let parse = |text: &str| text.parse::<TokenText>().map(|_| ());
        for end in TOKEN_PREFIX.len()..text.len() {
            assert_eq!(parse(&text[..end]), Err(ParseSecretError::Damaged), "{end}");
        }
        let mut typo = text.clone();
        typo.replace_range(20..21, if &text[20..21] == "a" { "b" } else { "a" });
        assert_eq!(parse(&typo), Err(ParseSecretError::Damaged));
        assert_eq!(parse("kkm_api_aaaa"), Err(ParseSecretError::Prefix(TOKEN_PREFIX)));
        let newer = to_text(TOKEN_PREFIX, vec![2; 70]);
        assert_eq!(parse(newer.expose()), Err(ParseSecretError::Newer));
    }

    #[test]
    fn an_api_key_is_not_a_token() {
        let key = ApiKeyText::new(Secret::new([9; 32])).to_text();
        assert!(key.expose().parse::<ApiKeyText>().is_ok());
        assert!(key.expose().parse::<TokenText>().is_err());
        let forged = key.expose().replace(ApiKeyText::PREFIX, TOKEN_PREFIX);
        assert_eq!(
            forged.parse::<TokenText>().map(|_| ()),
            Err(ParseSecretError::Damaged)
        );
    }
}
