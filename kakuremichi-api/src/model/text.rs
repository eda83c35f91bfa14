//! Identifiers, as the text that they are in JSON.

use std::{fmt::Display, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error};

pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}
