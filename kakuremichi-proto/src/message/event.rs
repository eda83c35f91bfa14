//! Things that happened on a node.

use serde::{Deserialize, Serialize};

use super::Subject;

/// How grave an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Unusual.
    Warning,
    /// Broken.
    Error,
}

/// Something happened on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The node, and the session in which it is said.
    pub subject: Subject,
    /// When, in milliseconds since the epoch.
    pub at: i64,
    /// How grave it is.
    pub severity: Severity,
    /// A `KKM-` code, if there is one for it.
    pub code: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// How many events before this one were lost because the queue was full.
    pub lost: u32,
}
