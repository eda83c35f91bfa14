//! The settings of an agent.

use std::path::PathBuf;

use kakuremichi_bins_common::{Setting, settings::FirstSecret};
use serde::Deserialize;

/// What an agent can be told, besides what every role can.
pub const SETTINGS: &[Setting] = &[
    Setting::text(
        "control",
        "URL",
        "Control's public URL, such as https://control.example.net:7443",
    ),
    Setting::secret(
        "token",
        "token-file",
        "TOKEN",
        "An enrolment token; needed at the first start only",
    )
    .at_first_start(),
    Setting::text(
        "data",
        "DIR",
        "Where its keys and its last plan are; made when missing",
    ),
    Setting::text(
        "name",
        "NAME",
        "The name that it would like to have; Control finds another if it is taken",
    ),
];

/// The settings as they were given.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Control's public URL.
    pub control: String,
    /// The enrolment token.
    pub token: Option<FirstSecret>,
    /// The data directory.
    pub data: PathBuf,
    /// The name that it would like to have.
    pub name: Option<String>,
}
