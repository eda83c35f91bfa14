//! Typed identifiers.
//!
//! An identifier is 128 bits, drawn at random by whoever creates the thing. Its text form is a
//! prefix that names the kind and 26 lower-case base-32 characters (RFC 4648 alphabet, no padding):
//! `svc_aebagbafaydqqcikbmga2dqpca`. Text is canonical: each identifier has exactly one.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};
use std::sync::LazyLock;

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    #[expect(clippy::expect_used, reason = "the alphabet above is constant and valid")]
    spec.encoding().expect("a valid alphabet")
});

/// Why a text is not an identifier of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// The text does not start with the prefix of the kind.
    #[error("an identifier of this kind starts with `{0}`")]
    Prefix(&'static str),
    /// What follows the prefix is not 26 canonical base-32 characters.
    #[error("an identifier ends in 26 characters of a-z and 2-7")]
    Encoding,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The prefix of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an identifier of 16 bytes, which should be random.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// The prefix and the first eight characters: enough to find it in a log.
            #[must_use]
            pub fn fmt_short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(Self::PREFIX.len() + 8);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", Self::PREFIX, BASE32.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse(text, Self::PREFIX).map(Self)
            }
        }
    )*};
}

ids! {
    /// An organization, the tenant that owns everything else.
    OrganizationId = "org_";
    /// An agent.
    AgentId = "agt_";
    /// A gateway.
    GatewayId = "gtw_";
    /// A stock WireGuard device with the networks behind it.
    SiteId = "sit_";
    /// A service.
    ServiceId = "svc_";
    /// A route inside an HTTP service.
    RouteId = "rou_";
    /// A target in the pool of a route, or of a TCP or UDP service.
    TargetId = "tgt_";
    /// An enrolment token.
    TokenId = "tok_";
    /// An API key.
    ApiKeyId = "key_";
    /// A person who can sign in.
    UserId = "usr_";
    /// A role of people in an organization.
    RoleId = "rol_";
    /// A group of people in an organization.
    GroupId = "grp_";
    /// A user in an organization.
    MemberId = "mem_";
    /// An invitation to join an organization.
    InvitationId = "inv_";
    /// A session of a user.
    SessionId = "ses_";
    /// A policy that services and routes share.
    PolicyId = "pol_";
    /// An identity provider.
    ProviderId = "idp_";
    /// A passkey of a user.
    PasskeyId = "pky_";
    /// A notification channel.
    ChannelId = "chn_";
    /// A service token.
    ServiceTokenId = "stk_";
}

fn parse(text: &str, prefix: &'static str) -> Result<[u8; 16], ParseIdError> {
    let body = text.strip_prefix(prefix).ok_or(ParseIdError::Prefix(prefix))?;
    let bytes = BASE32
        .decode(body.as_bytes())
        .map_err(|_| ParseIdError::Encoding)?;
    bytes.try_into().map_err(|_| ParseIdError::Encoding)
}

/// A node: a process that enrolled with Control. Its text is that of the identifier inside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeId {
    /// An agent.
    Agent(AgentId),
    /// A gateway.
    Gateway(GatewayId),
}

/// A peer of a gateway: whoever its WireGuard device speaks to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerId {
    /// An agent.
    Agent(AgentId),
    /// A stock WireGuard device.
    Site(SiteId),
}

macro_rules! either {
    ($name:ident, $a:ident($at:ty), $b:ident($bt:ty)) => {
        impl $name {
            /// The prefix and the first eight characters: enough to find it in a log.
            #[must_use]
            pub fn fmt_short(&self) -> String {
                match self {
                    Self::$a(id) => id.fmt_short(),
                    Self::$b(id) => id.fmt_short(),
                }
            }

            /// The 16 bytes of the identifier inside.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                match self {
                    Self::$a(id) => id.as_bytes(),
                    Self::$b(id) => id.as_bytes(),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::$a(id) => id.fmt(f),
                    Self::$b(id) => id.fmt(f),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text.parse() {
                    Err(ParseIdError::Prefix(_)) => text.parse().map(Self::$b),
                    other => other.map(Self::$a),
                }
            }
        }

        impl From<$at> for $name {
            fn from(id: $at) -> Self {
                Self::$a(id)
            }
        }

        impl From<$bt> for $name {
            fn from(id: $bt) -> Self {
                Self::$b(id)
            }
        }
    };
}

either!(NodeId, Agent(AgentId), Gateway(GatewayId));
either!(PeerId, Agent(AgentId), Site(SiteId));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_is_canonical() {
        let id = ServiceId::from_bytes([7; 16]);
        let text = id.to_string();
        assert!(text.starts_with("svc_") && text.len() == 30);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(
            text.to_uppercase().parse::<ServiceId>(),
            Err(ParseIdError::Prefix("svc_"))
        );
        assert_eq!(text[..29].parse::<ServiceId>(), Err(ParseIdError::Encoding));
        // The last character carries bits that no byte uses: they must be zero.
        assert_eq!(
            format!("{}7", &text[..29]).parse::<ServiceId>(),
            Err(ParseIdError::Encoding)
        );
    }

    #[test]
    fn a_node_is_told_by_its_prefix() {
        let gateway = GatewayId::from_bytes([1; 16]);
        assert_eq!(gateway.to_string().parse(), Ok(NodeId::Gateway(gateway)));
        assert_eq!("svc_aaaa".parse::<NodeId>(), Err(ParseIdError::Prefix("gtw_")));
    }
}
