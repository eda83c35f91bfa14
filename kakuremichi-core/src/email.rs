//! E-mail addresses.

use std::{fmt, str::FromStr};

use crate::name::{Hostname, NameError};

/// The longest address (RFC 5321, section 4.5.3.1, less the angle brackets).
const MAX_ADDRESS: usize = 254;
/// The longest part before the `@`.
const MAX_LOCAL: usize = 64;

/// Why a text is no e-mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// There is not one part before the `@` and one behind it.
    #[error("an e-mail address is `name@host`")]
    Form,
    /// It is too long.
    #[error("an e-mail address has at most {MAX_ADDRESS} characters, and {MAX_LOCAL} before the `@`")]
    Long,
    /// A character that cannot stand before the `@` without quotes, which are not accepted.
    #[error("{0:?} cannot stand before the `@` of an e-mail address here")]
    Character(char),
    /// What follows the `@` is no host name.
    #[error("what follows the `@` of an e-mail address is a host name")]
    Host(#[from] NameError),
}

/// An e-mail address: what people sign in with.
///
/// The part before the `@` is a dot-atom of RFC 5322, the part behind it a host name. Parsing folds the case of
/// both: no mail server in use tells `Anna@` from `anna@`, and an account, a limit or a ban that differed by case
/// could be had twice (LESSONS, advisory 17). Unicode in the host is converted to A-labels by whoever takes the
/// address from a person.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EmailAddress {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        if text.len() > MAX_ADDRESS {
            return Err(EmailError::Long);
        }
        let (local, host) = text.split_once('@').ok_or(EmailError::Form)?;
        if local.len() > MAX_LOCAL {
            return Err(EmailError::Long);
        }
        if local.split('.').any(str::is_empty) {
            return Err(EmailError::Form);
        }
        let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
        if let Some(bad) = local.chars().find(|c| !atom(*c)) {
            return Err(EmailError::Character(bad));
        }
        let host: Hostname = host.parse()?;
        Ok(Self(format!("{}@{host}", local.to_ascii_lowercase())))
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_canonical() {
        let canonical = |text: &str| text.parse::<EmailAddress>().map(|email| email.to_string());
        assert_eq!(
            canonical("Anna.B+x@Example.NET."),
            Ok("anna.b+x@example.net".to_owned())
        );
        assert_eq!(canonical("root@localhost"), Ok("root@localhost".to_owned()));
        for bad in ["", "anna", "@example.net", "a..b@example.net", ".a@example.net"] {
            assert_eq!(canonical(bad), Err(EmailError::Form), "{bad}");
        }
        for (bad, c) in [
            ("a b@x.net", ' '),
            ("\"a\"@x.net", '"'),
            ("é@x.net", 'é'),
            ("a\n@x.net", '\n'),
        ] {
            assert_eq!(canonical(bad), Err(EmailError::Character(c)));
        }
        for bad in ["a@", "a@b@c", "a@127.0.0.1", "a@[::1]", "a@b c"] {
            assert!(matches!(canonical(bad), Err(EmailError::Host(_))), "{bad}");
        }
        assert_eq!(
            canonical(&format!("{}@x.net", "a".repeat(65))),
            Err(EmailError::Long)
        );
    }
}
