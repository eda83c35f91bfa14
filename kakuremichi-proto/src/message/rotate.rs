//! A node gets other keys.

use serde::{Deserialize, Serialize};

use super::Subject;
use crate::codec::Array;

/// The node proposes new keys. Both signatures are over the [transcript](crate::identity::RotationTranscript) of this very
/// session: by who the node is, and by who it will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateKeys {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// Its Ed25519 key to be.
    pub identity: [u8; 32],
    /// Its X25519 key to be.
    pub wireguard: [u8; 32],
    /// By the identity that the session was authenticated with.
    pub by_old: Array<64>,
    /// By the identity to be.
    pub by_new: Array<64>,
}

/// The answer to new keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRotated {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// The Ed25519 key that was proposed.
    pub identity: [u8; 32],
    /// What came of it.
    pub outcome: Rotated,
}

/// What came of new keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rotated {
    /// The node has them now.
    Accepted {
        /// Until when the keys of before count, in milliseconds since the epoch; they do not, where there is nothing.
        previous_until: Option<i64>,
    },
    /// The node has what it had: a `KKM-` code and one sentence.
    Refused(String, String),
}
