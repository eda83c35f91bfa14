//! The answer to a preface: whether the agent, or a gateway that passes the flow on, reached the target.
//!
//! Between kakuremichi nodes a flow starts with a [preface](crate::preface) from the gateway, and the
//! stream back starts with two bytes from the agent, before the first byte of the target. The gateway
//! need not wait for them: it may send the visitor's bytes right behind the preface.

use kakuremichi_core::code::Code;

/// The first byte of a reply: magic and version in one.
pub const REPLY_MAGIC: u8 = 0x6b;

/// The length of a reply, in bytes.
pub const REPLY_LEN: usize = 2;

/// What became of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowReply {
    /// The target is connected; its bytes follow.
    Connected = 0,
    /// The target refused.
    Refused = 1,
    /// The target did not answer in time.
    TimedOut = 2,
    /// There is no way to the target, or its name does not resolve.
    Unreachable = 3,
    /// The agent's plan does not allow the flow.
    Denied = 4,
    /// The agent does not know the service, or nobody listens for it.
    Unknown = 5,
    /// The agent is at one of its bounds.
    Overloaded = 6,
    /// The agent is about to stop: another one is to be asked.
    Draining = 7,
    /// The gateway that was to pass the flow on has no lane to the agent.
    Offline = 8,
}

/// The bytes are not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent's reply is {0:#04x} {1:#04x}, which this version does not know")]
pub struct BadReply(pub u8, pub u8);

impl FlowReply {
    /// Every reply.
    pub const ALL: &'static [Self] = &[
        Self::Connected,
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::Denied,
        Self::Unknown,
        Self::Overloaded,
        Self::Draining,
        Self::Offline,
    ];

    /// The two bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; REPLY_LEN] {
        [REPLY_MAGIC, self as u8]
    }

    /// Reads a reply from the head of a stream. `None` when there are not yet enough bytes.
    ///
    /// # Errors
    /// When the bytes are not a reply; the first byte is enough to tell.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, BadReply> {
        match *bytes {
            [] | [REPLY_MAGIC] => Ok(None),
            [REPLY_MAGIC, status, ..] => Self::ALL
                .iter()
                .find(|reply| **reply as u8 == status)
                .map(|reply| Some(*reply))
                .ok_or(BadReply(REPLY_MAGIC, status)),
            [other, ..] => Err(BadReply(other, bytes.get(1).copied().unwrap_or(0))),
        }
    }

    /// The code under which a visitor hears of it; none where the target is connected.
    #[must_use]
    pub const fn code(self) -> Option<Code> {
        match self {
            Self::Connected => None,
            Self::Refused | Self::Unreachable => Some(Code::TARGET_REFUSED),
            Self::TimedOut => Some(Code::TARGET_TIMEOUT),
            Self::Denied | Self::Unknown => Some(Code::AGENT_DENIED),
            Self::Overloaded => Some(Code::OVERLOADED),
            Self::Draining | Self::Offline => Some(Code::AGENT_OFFLINE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_round_trip_and_garbage_is_told_at_once() {
        for status in 0..=u8::MAX {
            let known = FlowReply::ALL.iter().find(|reply| **reply as u8 == status);
            let parsed = FlowReply::parse(&[REPLY_MAGIC, status, 1]);
            assert_eq!(
                parsed,
                known
                    .map(|reply| Some(*reply))
                    .ok_or(BadReply(REPLY_MAGIC, status))
            );
        }
        assert_eq!(
            FlowReply::parse(&FlowReply::Denied.encode()),
            Ok(Some(FlowReply::Denied))
        );
        assert_eq!(FlowReply::parse(&[]), Ok(None));
        assert_eq!(FlowReply::parse(&[REPLY_MAGIC]), Ok(None));
        assert_eq!(FlowReply::parse(b"H"), Err(BadReply(b'H', 0)));
    }
}
