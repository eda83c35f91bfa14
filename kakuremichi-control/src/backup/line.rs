//! The lines of a backup. What is written once must stay readable.

use data_encoding::{BASE64, DecodeError};
use kakuremichi_core::secret::Secret;
use serde::{Deserialize, Serialize};

use super::File;

/// One line. Identifiers are text, and what is opaque to a backup is as the database has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    /// The first line.
    Begin {
        /// The version of the lines.
        format: u32,
        /// The version of the product.
        version: String,
    },
    /// A file.
    File {
        /// Its name.
        name: String,
        /// What it holds, in base64.
        contents: String,
    },
    /// What there is one of.
    Meta {
        /// Its name.
        key: String,
        /// What it is.
        value: String,
    },
    /// A record.
    Record {
        /// Its text, see [`record_to_json`](crate::store::record_to_json).
        record: String,
        /// How often it was written.
        version: u64,
    },
    /// An entry of the audit.
    Audit {
        /// Its number.
        sequence: i64,
        /// When.
        at: i64,
        /// Who says who it was.
        authority: Option<String>,
        /// Who.
        actor: Option<String>,
        /// For whom.
        organization: Option<String>,
        /// What.
        action: String,
        /// To what.
        subject: Option<String>,
        /// Its link of the chain, in hexadecimal; none in backups of versions that sealed nothing.
        #[serde(default)]
        hash: Option<String>,
    },
    /// The last usage reports of a node.
    Report {
        /// The node.
        node: String,
        /// The stream of the newest.
        epoch: i64,
        /// Its number.
        sequence: i64,
        /// Those of earlier streams, in hexadecimal.
        earlier: Option<String>,
    },
    /// What a service was used.
    Total {
        /// The service.
        service: String,
        /// Connections.
        connections: i64,
        /// Requests.
        requests: i64,
        /// Bytes to targets.
        bytes_in: i64,
        /// Bytes from targets.
        bytes_out: i64,
    },
    /// What was used in a step of time.
    Step {
        /// How fine.
        level: i64,
        /// The organization.
        organization: String,
        /// When it begins.
        start: i64,
        /// The service, if there is one.
        service: String,
        /// The node.
        node: String,
        /// Connections, requests, bytes to targets and from them.
        counts: [i64; 4],
    },
    /// What a task keeps about a record.
    Memo {
        /// Its name.
        name: String,
        /// The record.
        about: String,
        /// The text.
        memo: String,
    },
    /// The last number of the change feed.
    Position(i64),
    /// The last line.
    End,
}

impl Line {
    /// The line of a file.
    pub(super) fn file(file: &File) -> Self {
        Self::File {
            name: file.name.clone(),
            contents: BASE64.encode(file.contents.expose()),
        }
    }

    /// What a file holds.
    pub(super) fn file_contents(text: &str) -> Result<Secret<Vec<u8>>, DecodeError> {
        BASE64.decode(text.as_bytes()).map(Secret::new)
    }
}
