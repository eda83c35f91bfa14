//! What Control asks a node to do.

use serde::{Deserialize, Serialize};

use super::Subject;

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandKind {
    /// Take no new flows, and let those there are end.
    Drain {
        /// How long they have, in milliseconds.
        grace: u32,
    },
    /// Take flows again.
    Undrain,
    /// Make new keys, and propose them with a [`RotateKeys`](super::RotateKeys). Only where both sides have
    /// [`KEY_ROTATION`](crate::capability::Capabilities::KEY_ROTATION).
    RotateKeys,
}

/// Control asks the node to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The number under which it is answered.
    pub request: u64,
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// What to do.
    pub kind: CommandKind,
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commanded {
    /// The number of the request.
    pub request: u64,
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// A `KKM-` code and one sentence, if it was not done.
    pub refused: Option<(String, String)>,
}
