//! What both ends of a flow say to each other before its data.

use std::fmt;

/// The first byte of every reply: which protocol, and which version of it.
const MAGIC: u8 = 0x6b;

/// The answer of the end that dials the target, two bytes before the first byte of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FlowReply {
    /// The target accepted; its bytes follow.
    Connected,
    /// The target refused the connection.
    Refused,
    /// The target did not answer in time.
    TimedOut,
    /// There is no way to the target.
    Unreachable,
    /// The plan of the other node does not allow this flow.
    Denied,
    /// The service is not known, or its listener is closed.
    UnknownService,
    /// The other node takes no more flows.
    Overloaded,
    /// A refusal that a newer version defines.
    Other(u8),
}

impl FlowReply {
    /// The length of a reply in bytes.
    pub const LENGTH: usize = 2;

    /// The bytes on the wire.
    #[must_use]
    pub const fn encode(self) -> [u8; Self::LENGTH] {
        let code = match self {
            Self::Connected => 0,
            Self::Refused => 1,
            Self::TimedOut => 2,
            Self::Unreachable => 3,
            Self::Denied => 4,
            Self::UnknownService => 5,
            Self::Overloaded => 6,
            Self::Other(code) => code,
        };
        [MAGIC, code]
    }

    /// Reads a reply; `None` when the other end speaks something else.
    #[must_use]
    pub const fn decode(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        let [MAGIC, code] = bytes else { return None };
        Some(match code {
            0 => Self::Connected,
            1 => Self::Refused,
            2 => Self::TimedOut,
            3 => Self::Unreachable,
            4 => Self::Denied,
            5 => Self::UnknownService,
            6 => Self::Overloaded,
            code => Self::Other(code),
        })
    }
}

impl fmt::Display for FlowReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "the target accepted",
            Self::Refused => "the target refused the connection",
            Self::TimedOut => "the target did not answer in time",
            Self::Unreachable => "the target cannot be reached",
            Self::Denied => "the plan of the other node does not allow the flow",
            Self::UnknownService => "the other node does not know the service",
            Self::Overloaded => "the other node takes no more flows",
            Self::Other(_) => "the other node refused for a reason that is not known here",
        })
    }
}

/// A flow does not begin with a preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flow does not begin with a preface")]
pub struct InvalidPreface;

/// Tells how long the preface at the start of some bytes is; `None` while there are too few bytes to
/// tell. The length may exceed the bytes.
pub type PrefaceLength = fn(&[u8]) -> Result<Option<usize>, InvalidPreface>;

/// The length of a PROXY protocol header of version 2.
///
/// # Errors
/// When the bytes begin differently.
pub fn proxy_v2_length(bytes: &[u8]) -> Result<Option<usize>, InvalidPreface> {
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] || bytes.get(12).is_some_and(|version| version >> 4 != 2) {
        return Err(InvalidPreface);
    }
    let Some(&[high, low]) = bytes.get(14..16) else {
        return Ok(None);
    };
    Ok(Some(16 + usize::from(u16::from_be_bytes([high, low]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_survive_the_wire() {
        for code in 0..=255 {
            let reply = FlowReply::decode([MAGIC, code]).unwrap();
            assert_eq!(reply.encode(), [MAGIC, code]);
        }
        assert_eq!(FlowReply::decode([0, 0]), None);
    }

    #[test]
    fn a_preface_is_measured_at_any_cut() {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        bytes.extend_from_slice(&[0; 20]);
        for cut in 0..bytes.len() {
            let expected = if cut < 16 { None } else { Some(28) };
            assert_eq!(proxy_v2_length(&bytes[..cut]), Ok(expected));
        }
        assert_eq!(proxy_v2_length(b"GET /"), Err(InvalidPreface));
        bytes[12] = 0x11;
        assert_eq!(proxy_v2_length(&bytes), Err(InvalidPreface));
    }
}
