//! Public keys. There is no type for a private key here, nor anywhere in Control: what cannot be
//! written cannot leak.

use std::{fmt, str::FromStr};

use data_encoding::BASE64;

/// The text is not the base 64 (RFC 4648, padded) of 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public key is 44 characters of base 64")]
pub struct ParseKeyError;

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes the 32 bytes of a public key.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight characters of the text form.
            #[must_use]
            pub fn fmt_short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(8);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE64.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseKeyError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let bytes = BASE64.decode(text.as_bytes()).map_err(|_| ParseKeyError)?;
                bytes.try_into().map(Self).map_err(|_| ParseKeyError)
            }
        }
    )*};
}

keys! {
    /// An Ed25519 public key (RFC 8032): who a node, or Control, is.
    IdentityKey;
    /// An X25519 public key (RFC 7748): how a WireGuard peer is addressed.
    WireGuardKey;
    /// An Ed25519 public key (RFC 8032) that tickets and session cookies are signed for; whose it is, a plan says.
    SigningKey;
}

/// The start of the SHA-256 of a [`SigningKey`], by which what it signed says which key it was.
pub type SigningKeyId = [u8; 8];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_and_write_the_form_that_wg_prints() {
        let text = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        assert_eq!(text.parse::<WireGuardKey>().unwrap().to_string(), text);
        assert_eq!("short".parse::<WireGuardKey>(), Err(ParseKeyError));
    }
}
