//! Secrets, which must not be printed, and what is kept of them, which is compared in constant time only.

use std::fmt;

use zeroize::Zeroize;

/// Holds a secret: printed as `[redacted]`, wiped from memory when dropped.
#[derive(Clone, Default)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the secret.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Hands out the secret, for the moment in which it is used.
    #[must_use]
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T: Zeroize> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// SHA-256 of a secret that somebody shows: of a token, a key, a session, a link, a recovery code.
///
/// `==` takes the same time wherever two of them differ. Nothing else compares them: they have no order, and are no
/// key of a table. What is found by its hash is found by the [bytes](Self::as_bytes), and then compared.
#[derive(Debug, Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Takes the hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to store them or to look for them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for SecretHash {}

/// Compares without telling by the time it takes where the two differ.
#[must_use]
pub fn constant_time_eq(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use std::{hash::Hash, marker::PhantomData};

    use super::*;
    use crate::{
        model::{ApiKey, EnrolmentToken, Invitation, MailedSecret, ServiceToken, Session, User},
        plan::GatewayServiceToken,
    };

    /// Which of the traits that compare `T` has: an inherent constant goes before one of a trait.
    struct Compares<T>(PhantomData<T>);

    trait DoesNot {
        const BY_EQUALITY: bool = false;
        const BY_ORDER: bool = false;
        const AS_A_KEY: bool = false;
    }

    impl<T> DoesNot for Compares<T> {}

    impl<T: PartialEq> Compares<T> {
        const BY_EQUALITY: bool = true;
    }

    impl<T: PartialOrd> Compares<T> {
        const BY_ORDER: bool = true;
    }

    impl<T: Hash> Compares<T> {
        const AS_A_KEY: bool = true;
    }

    /// LESSONS, advisory 11. That a credential of each kind is kept as a [`SecretHash`] is what the functions
    /// say by their types.
    #[test]
    fn secrets_compare_in_constant_time() {
        const {
            assert!(
                Compares::<[u8; 32]>::BY_EQUALITY
                    && Compares::<[u8; 32]>::BY_ORDER
                    && Compares::<[u8; 32]>::AS_A_KEY
            )
        };
        const { assert!(!Compares::<Secret<[u8; 32]>>::BY_EQUALITY && !Compares::<Secret<String>>::BY_EQUALITY) };
        const { assert!(!Compares::<SecretHash>::BY_ORDER && !Compares::<SecretHash>::AS_A_KEY) };

        let _: fn(&EnrolmentToken) -> &SecretHash = |token| &token.secret_hash;
        let _: fn(&ApiKey) -> &SecretHash = |key| &key.secret_hash;
        let _: fn(&ServiceToken) -> &SecretHash = |token| &token.secret_hash;
        let _: fn(&GatewayServiceToken) -> &SecretHash = |token| &token.secret_hash;
        let _: fn(&Invitation) -> &SecretHash = |invitation| &invitation.secret_hash;
        let _: fn(&Session) -> &SecretHash = |session| &session.secret_hash;
        let _: fn(&MailedSecret) -> &SecretHash = |mailed| &mailed.hash;
        let _: fn(&User) -> &[SecretHash] = |user| &user.recovery_codes;
    }

    #[test]
    fn a_hash_equals_itself_and_none_that_differs_in_a_bit() {
        let hash = SecretHash::from_bytes([0x5a; 32]);
        assert_eq!(hash, SecretHash::from_bytes(*hash.as_bytes()));
        for bit in 0..256 {
            let mut other = *hash.as_bytes();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash, SecretHash::from_bytes(other), "bit {bit}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?}"), "[redacted] [redacted]");
    }
}
