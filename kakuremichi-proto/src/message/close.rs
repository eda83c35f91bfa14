//! The end of a connection.

use serde::{Deserialize, Serialize};

/// The sender ends the connection. Nothing follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// A `KKM-` code.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// Whether coming back is of no use.
    pub permanent: bool,
    /// How long to wait before coming back, at least, in milliseconds.
    pub retry_after: Option<u32>,
}
