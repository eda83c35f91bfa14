//! What tasks of Control remember of records between processes, as JSON.

use kakuremichi_core::store::StoreError;
use serde::{Serialize, de::DeserializeOwned};

/// A memo cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the memo `{name}` cannot be understood")]
struct Unreadable {
    name: &'static str,
    #[source]
    source: serde_json::Error,
}

/// Reads the memo of this name.
///
/// # Errors
/// When the text is another's, or a newer version's.
pub(crate) fn read<T: DeserializeOwned>(name: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Backend(Box::new(Unreadable { name, source })))
}

/// Writes one. Memos hold texts, numbers and addresses, and no keys that are none of them: nothing can fail.
pub(crate) fn text<T: Serialize>(memo: &T) -> String {
    serde_json::to_string(memo).unwrap_or_default()
}
