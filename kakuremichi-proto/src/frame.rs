//! Frames: a tag and a body.
//!
//! A frame is one binary WebSocket message: two bytes of tag, big endian, and a postcard body. Tags are
//! a registry that only grows: none is ever removed or given to another body. A tag that is not known
//! is skipped and counted, so that either side can be the newer one.

use std::fmt;

use crate::{
    codec::{self, CodecError},
    message,
};

/// The largest frame, tag included, in bytes.
pub const MAX_FRAME: usize = 256 * 1024;

/// The bytes of a tag.
pub const TAG_LEN: usize = 2;

const KIB: usize = 1024;

/// Why bytes are not a frame. The other side breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not even a tag.
    #[error("a frame has at least {TAG_LEN} bytes")]
    Short,
    /// Longer than any frame, or than this kind of frame may be.
    #[error("a frame of {length} bytes is longer than the {limit} that it may have")]
    TooLarge {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The body is not what the tag says.
    #[error("the frame {tag} does not decode: {source}")]
    Body {
        /// The tag.
        tag: Tag,
        /// Why.
        source: CodecError,
    },
}

/// What a frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives at a time, for a moment, on the stack"
)]
pub enum Incoming {
    /// A message of this build's registry.
    Known(Message),
    /// A tag that this build does not know; to be skipped.
    Unknown(u16),
}

/// Decodes a frame. Its length is checked, against the limit of its tag, before anything is allocated.
///
/// # Errors
/// When the bytes break the protocol.
pub fn decode(frame: &[u8]) -> Result<Incoming, FrameError> {
    let too_large = |limit| FrameError::TooLarge {
        length: frame.len(),
        limit,
    };
    if frame.len() > MAX_FRAME {
        return Err(too_large(MAX_FRAME));
    }
    let (code, body) = frame.split_first_chunk().ok_or(FrameError::Short)?;
    let code = u16::from_be_bytes(*code);
    let Some(tag) = Tag::from_code(code) else {
        return Ok(Incoming::Unknown(code));
    };
    if frame.len() > tag.limit() {
        return Err(too_large(tag.limit()));
    }
    Message::decode_body(tag, body)
        .map(Incoming::Known)
        .map_err(|source| FrameError::Body { tag, source })
}

macro_rules! registry {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $limit:expr;)*) => {
        /// The kind of a frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Tag {
            $($(#[$doc])* $name = $code,)*
        }

        impl Tag {
            /// Every tag, in the order of the registry.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The two bytes on the wire, as a number.
            #[must_use]
            pub const fn code(self) -> u16 {
                self as u16
            }

            /// Finds a tag by its code.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name, as in the registry.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The largest frame with this tag, in bytes.
            #[must_use]
            pub const fn limit(self) -> usize {
                match self {
                    $(Self::$name => $limit,)*
                }
            }
        }

        /// A message of any kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Message {
            $($(#[$doc])* $name(message::$name),)*
        }

        impl Message {
            /// The tag.
            #[must_use]
            pub const fn tag(&self) -> Tag {
                match self {
                    $(Self::$name(_) => Tag::$name,)*
                }
            }

            fn encode_body(&self) -> Vec<u8> {
                match self {
                    $(Self::$name(body) => codec::encode(body),)*
                }
            }

            fn decode_body(tag: Tag, body: &[u8]) -> Result<Self, CodecError> {
                match tag {
                    $(Tag::$name => codec::decode(body).map(Self::$name),)*
                }
            }
        }

        $(
            impl From<message::$name> for Message {
                fn from(body: message::$name) -> Self {
                    Self::$name(body)
                }
            }
        )*
    };
}

registry! {
    /// A node: who it is and what it speaks.
    Hello = 0x0001, 4 * KIB;
    /// Control: who it is, proven.
    Challenge = 0x0002, 4 * KIB;
    /// The node's proof, and its enrolment token if it is new.
    Proof = 0x0003, 4 * KIB;
    /// Control lets the node in.
    Welcome = 0x0004, 4 * KIB;
    /// Either side ends the connection and says why.
    Close = 0x0005, 4 * KIB;
    /// Either side asks whether the other is there.
    Ping = 0x0010, 64;
    /// The answer to a ping, and to each before it.
    Pong = 0x0011, 64;
    /// The node's first message after the welcome: what it has.
    Resume = 0x0020, 64 * KIB;
    /// What Control should know about the node's process.
    NodeInfo = 0x0021, 16 * KIB;
    /// What a gateway signs session cookies with.
    SigningKeys = 0x0022, 4 * KIB;
    /// Control starts to send a plan.
    PlanBegin = 0x0030, 4 * KIB;
    /// A piece of the records of a plan.
    PlanRecords = 0x0031, MAX_FRAME;
    /// The plan is complete, and this is its hash.
    PlanEnd = 0x0032, 4 * KIB;
    /// The node has applied a plan.
    PlanAck = 0x0033, 64 * KIB;
    /// The node could not use what was sent, and wants the whole plan.
    PlanRequest = 0x0034, 4 * KIB;
    /// The agent asks to publish a service.
    Declare = 0x0040, MAX_FRAME;
    /// The answer to a declaration.
    Declared = 0x0041, 64 * KIB;
    /// The agent ends a declaration.
    Undeclare = 0x0042, 4 * KIB;
    /// The answer to the end of a declaration.
    Undeclared = 0x0043, 4 * KIB;
    /// The state of the node's lanes and targets.
    Status = 0x0050, MAX_FRAME;
    /// Something happened on the node.
    Event = 0x0051, 16 * KIB;
    /// The certificates that visitors may see.
    Certificates = 0x0052, 128 * KIB;
    /// What was used of the node's services.
    Usage = 0x0060, MAX_FRAME;
    /// Control has stored usage.
    UsageAck = 0x0061, 64;
    /// Control asks the node to do something.
    Command = 0x0070, 4 * KIB;
    /// The answer to a command.
    Commanded = 0x0071, 4 * KIB;
    /// The node proposes new keys.
    RotateKeys = 0x0080, KIB;
    /// The answer to new keys.
    KeysRotated = 0x0081, 4 * KIB;
}

impl Message {
    /// Whom the message is about; none where it is about the connection.
    #[must_use]
    pub const fn subject(&self) -> Option<message::Subject> {
        match self {
            Self::Resume(message::Resume { subject, .. })
            | Self::NodeInfo(message::NodeInfo { subject, .. })
            | Self::SigningKeys(message::SigningKeys { subject, .. })
            | Self::PlanBegin(message::PlanBegin { subject, .. })
            | Self::PlanAck(message::PlanAck { subject, .. })
            | Self::PlanRequest(message::PlanRequest { subject, .. })
            | Self::Declare(message::Declare { subject, .. })
            | Self::Declared(
                message::Declared::Accepted { subject, .. } | message::Declared::Refused { subject, .. },
            )
            | Self::Undeclare(message::Undeclare { subject, .. })
            | Self::Undeclared(message::Undeclared { subject, .. })
            | Self::Status(message::Status { subject, .. })
            | Self::Event(message::Event { subject, .. })
            | Self::Certificates(message::Certificates { subject, .. })
            | Self::Usage(message::Usage { subject, .. })
            | Self::Command(message::Command { subject, .. })
            | Self::Commanded(message::Commanded { subject, .. })
            | Self::RotateKeys(message::RotateKeys { subject, .. })
            | Self::KeysRotated(message::KeysRotated { subject, .. }) => Some(*subject),
            // Those of the handshake are bound by signatures; pieces of a plan by its beginning and its
            // hash; the rest says nothing about a node.
            Self::Hello(_)
            | Self::Challenge(_)
            | Self::Proof(_)
            | Self::Welcome(_)
            | Self::Close(_)
            | Self::Ping(_)
            | Self::Pong(_)
            | Self::PlanRecords(_)
            | Self::PlanEnd(_)
            | Self::UsageAck(_) => None,
        }
    }

    /// Encodes the frame.
    ///
    /// # Errors
    /// When it would be larger than frames of its tag may be.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let tag = self.tag();
        let body = self.encode_body();
        let length = TAG_LEN + body.len();
        if length > tag.limit() {
            return Err(FrameError::TooLarge {
                length,
                limit: tag.limit(),
            });
        }
        let mut frame = Vec::with_capacity(length);
        frame.extend_from_slice(&tag.code().to_be_bytes());
        frame.extend_from_slice(&body);
        Ok(frame)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_exhaustive_and_codes_are_unique() {
        for code in 0..=u16::MAX {
            if let Some(tag) = Tag::from_code(code) {
                assert_eq!(tag.code(), code);
                assert_eq!(Tag::ALL.iter().filter(|other| **other == tag).count(), 1);
            }
        }
        let known = (0..=u16::MAX)
            .filter(|code| Tag::from_code(*code).is_some())
            .count();
        assert_eq!(known, Tag::ALL.len());
        assert!(Tag::ALL.iter().all(|tag| tag.limit() <= MAX_FRAME));
    }

    /// What was released stays: this list only grows at its end.
    #[test]
    fn the_registry_only_grows() {
        let registry: Vec<_> = Tag::ALL.iter().map(|tag| (tag.code(), tag.name())).collect();
        assert_eq!(
            registry,
            [
                (0x0001, "Hello"),
                (0x0002, "Challenge"),
                (0x0003, "Proof"),
                (0x0004, "Welcome"),
                (0x0005, "Close"),
                (0x0010, "Ping"),
                (0x0011, "Pong"),
                (0x0020, "Resume"),
                (0x0021, "NodeInfo"),
                (0x0022, "SigningKeys"),
                (0x0030, "PlanBegin"),
                (0x0031, "PlanRecords"),
                (0x0032, "PlanEnd"),
                (0x0033, "PlanAck"),
                (0x0034, "PlanRequest"),
                (0x0040, "Declare"),
                (0x0041, "Declared"),
                (0x0042, "Undeclare"),
                (0x0043, "Undeclared"),
                (0x0050, "Status"),
                (0x0051, "Event"),
                (0x0052, "Certificates"),
                (0x0060, "Usage"),
                (0x0061, "UsageAck"),
                (0x0070, "Command"),
                (0x0071, "Commanded"),
                (0x0080, "RotateKeys"),
                (0x0081, "KeysRotated"),
            ]
        );
    }

    #[test]
    fn limits_are_checked_before_the_body_is_looked_at() {
        let mut ping = Message::Ping(message::Ping { number: 1 }).encode().unwrap();
        ping.resize(65, 0);
        assert_eq!(
            decode(&ping),
            Err(FrameError::TooLarge {
                length: 65,
                limit: 64
            })
        );
        assert_eq!(decode(&[0]), Err(FrameError::Short));
        assert!(matches!(
            decode(&vec![0xff; MAX_FRAME + 1]),
            Err(FrameError::TooLarge { .. })
        ));
        assert_eq!(decode(&[0xff; 9]), Ok(Incoming::Unknown(0xffff)));
    }
}
