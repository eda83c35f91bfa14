//! Names of header fields.

use std::{fmt, str::FromStr};

use crate::name::NameError;

/// The longest name of a header field that a condition can look at.
const MAX_NAME: usize = 64;

/// The name of a header field, in lower case: names that differ in case only are the same
/// (RFC 9110, section 5.1). Parsing folds case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(String);

impl HeaderName {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::Long);
        }
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if let Some(bad) = text.chars().find(|c| !token(*c)) {
            return Err(NameError::Character(bad));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl TryFrom<&str> for HeaderName {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        text.parse()
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_are_canonical() {
        let name: HeaderName = "User-Agent".parse().unwrap();
        assert_eq!(name.as_str(), "user-agent");
        for bad in ["", "a b", "a:", "é", ":authority", &"x".repeat(65)] {
            assert!(bad.parse::<HeaderName>().is_err(), "{bad}");
        }
    }
}
