//! Versions of the control protocol.

use std::fmt;

/// A version of the protocol: which tags and which structs there are. Within a version nothing that
/// was released changes; what is added is skipped by whoever does not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u16);

impl Version {
    /// The first version.
    pub const V1: Self = Self(1);

    /// What this build speaks, newest first.
    pub const SUPPORTED: &'static [Self] = &[Self::V1];

    /// The newest version that this build and the other side speak.
    #[must_use]
    pub fn negotiate(offered: &[u16]) -> Option<Self> {
        Self::SUPPORTED
            .iter()
            .copied()
            .find(|version| offered.contains(&version.0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The WebSocket subprotocol (RFC 6455, section 1.9) under which the link is opened.
pub const SUBPROTOCOL: &str = "kakuremichi.v1";

/// The path of the link below Control's public URL.
pub const LINK_PATH: &str = "/api/v1/link";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_taken() {
        assert_eq!(Version::negotiate(&[9, 1, 3]), Some(Version::V1));
        assert_eq!(Version::negotiate(&[2, 3]), None);
        assert_eq!(Version::negotiate(&[]), None);
    }
}
