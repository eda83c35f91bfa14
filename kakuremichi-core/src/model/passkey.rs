//! Passkeys: keys with which people sign in (Web Authentication).

use crate::{id::PasskeyId, model::PersonName, time::Timestamp};

/// The most passkeys of one user.
pub const MAX_PASSKEYS: usize = 16;

/// A key that an authenticator of a person keeps. Each use of it proves that its person was there and that the
/// authenticator knew them, by a PIN or a finger: two factors, neither of which another site can pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passkey {
    /// Its identifier.
    pub id: PasskeyId,
    /// What its person calls it.
    pub name: PersonName,
    /// SHA-256 of the identifier that the authenticator gave it, which nobody else's has.
    pub credential_hash: [u8; 32],
    /// The public key, the signature counter and what else verifies a signature, in JSON as the verifier writes it.
    pub credential: String,
    /// When the newest challenge was made that it answered to sign in: that one, and those before it, it answers no more.
    pub answered: Timestamp,
    /// When it was used last to sign in.
    pub used: Option<Timestamp>,
    /// When it was added.
    pub created: Timestamp,
}
