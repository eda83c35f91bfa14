//! Settings: flag, then `KAKUREMICHI_*`, then the TOML file, then the default.
//!
//! A binary declares each setting once, as a [`Setting`]; its flag, its variable, its key in the file, its line in
//! `--help` and in `--print-config` follow from that. A struct with serde's `Deserialize` takes the values.
//!
//! | | `https` | the secret `token` |
//! |---|---|---|
//! | flag | `--https ADDR` | `--token TOKEN` or `--token-file FILE` |
//! | variable | `KAKUREMICHI_HTTPS` | `KAKUREMICHI_TOKEN` or `KAKUREMICHI_TOKEN_FILE` |
//! | file | `https = "ADDR"` | `token = "TOKEN"` or `token-file = "FILE"` |

mod layer;
mod report;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use kakuremichi_core::secret::Secret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::admin::AdminAddress;
use crate::failure::Failure;
use crate::logging;
use crate::role::Role;
use layer::{Defaults, Environment, File, Flags, Layer};

/// The form of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything in one line, such as an address or a path.
    Text,
    /// Text that is never shown and may stand in a file of its own.
    Secret,
    /// Several texts: the flag repeated, a comma-separated variable, an array in the file.
    List,
    /// Yes or no.
    Switch,
    /// A whole number.
    Number,
}

/// One thing that can be set.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    name: &'static str,
    /// The name under which a secret's file is given.
    file: Option<&'static str>,
    value: &'static str,
    help: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    /// Whether a secret's file may be missing: see [`Setting::at_first_start`].
    once: bool,
}

impl Setting {
    /// A text; `value` is its placeholder in the help.
    #[must_use]
    pub const fn text(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            file: None,
            value,
            help,
            kind: Kind::Text,
            default: None,
            once: false,
        }
    }

    /// A secret, given as `name` or in a file named by `file`.
    #[must_use]
    pub const fn secret(
        name: &'static str,
        file: &'static str,
        value: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            file: Some(file),
            value,
            help,
            kind: Kind::Secret,
            default: None,
            once: false,
        }
    }

    /// A list of texts.
    #[must_use]
    pub const fn list(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            file: None,
            value,
            help,
            kind: Kind::List,
            default: None,
            once: false,
        }
    }

    /// A switch: `--name` or `--name=false`.
    #[must_use]
    pub const fn switch(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            file: None,
            value: "BOOL",
            help,
            kind: Kind::Switch,
            default: None,
            once: false,
        }
    }

    /// A whole number that is not negative.
    #[must_use]
    pub const fn number(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            file: None,
            value,
            help,
            kind: Kind::Number,
            default: None,
            once: false,
        }
    }

    /// A secret that the process needs at its first start only: that its file cannot be read is for
    /// [`FirstSecret`] to say.
    #[must_use]
    pub const fn at_first_start(mut self) -> Self {
        self.once = true;
        self
    }

    /// The same with a default, written as it would be in a variable.
    #[must_use]
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }
}

/// What every role can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Common {
    /// Where `/healthz`, `/readyz` and `/metrics` are.
    pub admin: AdminAddress,
    /// What is logged.
    pub log: String,
    /// Seconds for what is under way when the process is asked to end, at most [`GRACE_MAX`].
    #[serde(deserialize_with = "grace")]
    pub grace: u64,
}

/// The longest time for what is under way when a process is asked to end: an hour, in seconds.
pub const GRACE_MAX: u64 = 3600;

fn grace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        seconds if seconds <= GRACE_MAX => Ok(seconds),
        seconds => Err(serde::de::Error::custom(format_args!(
            "{seconds} seconds are more than an hour ({GRACE_MAX})"
        ))),
    }
}

/// The settings of one binary.
#[derive(Debug, Clone)]
pub struct Layers {
    settings: Vec<Setting>,
}

impl Layers {
    /// The role's own settings, and those that all roles have (see [`Common`]).
    #[must_use]
    pub fn new(role: Role, own: &[Setting]) -> Self {
        let common = [
            Setting::text(
                "admin",
                "ADDR|off",
                "Where /healthz, /readyz and /metrics are served",
            )
            .or(role.admin()),
            Setting::text(
                "log",
                "FILTER",
                "What is logged, such as info or kakuremichi_tunnel=debug,warn",
            )
            .or(logging::DEFAULT_FILTER),
            Setting::number("grace", "SECONDS", "Time for what is under way when asked to end").or("10"),
        ];
        Self {
            settings: own.iter().copied().chain(common).collect(),
        }
    }

    /// Adds the flags of all settings to a command, and `--config` and `--print-config`.
    #[must_use]
    pub fn flags(&self, mut command: Command) -> Command {
        for setting in &self.settings {
            let default = setting
                .default
                .map(|text| format!(" [default: {text}]"))
                .unwrap_or_default();
            let help = format!("{}{default}", setting.help);
            let arg = Arg::new(setting.name)
                .long(setting.name)
                .value_name(setting.value)
                .help(help);
            let arg = match setting.kind {
                Kind::Text | Kind::Secret => arg,
                Kind::List => arg.action(ArgAction::Append),
                Kind::Number => arg.value_parser(clap::value_parser!(u64)),
                Kind::Switch => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
                    .hide_possible_values(true)
                    .value_parser(clap::value_parser!(bool)),
            };
            command = command.arg(arg);
            if let Some(file) = setting.file {
                let help = format!("A file that holds it, instead of --{}", setting.name);
                command = command.arg(Arg::new(file).long(file).value_name("FILE").help(help));
            }
        }
        command
            .arg(Arg::new("config").long("config").value_name("FILE").help("Settings in TOML, with `version = 1`"))
            .arg(
                Arg::new("print-config")
                    .long("print-config")
                    .action(ArgAction::SetTrue)
                    .help("Print every setting and where it comes from, and end"),
            )
            .after_help(
                "Each setting can also be a variable (--tls-cert is KAKUREMICHI_TLS_CERT) or a key in the file \
                 (tls-cert); a flag wins over a variable, a variable over the file.",
            )
    }

    /// Puts the layers on top of each other. `environment` looks a variable up; see [`environment`].
    ///
    /// # Errors
    ///
    /// A value of the wrong form, an unknown key in the file, a file that cannot be read: one sentence that names
    /// the flag, the variable or the file.
    pub fn load(
        &self,
        matches: &ArgMatches,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Layered, Failure> {
        let variables = Environment(environment);
        let config = match matches.get_one::<String>("config") {
            Some(path) => Some(PathBuf::from(path)),
            None => environment("KAKUREMICHI_CONFIG")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        };
        let file = config.map(|path| File::read(&path, &self.settings)).transpose()?;
        let file = file.as_ref().map(|file| file as &dyn Layer);
        let lowest_first = [
            Some(&Defaults(&self.settings) as &dyn Layer),
            file,
            Some(&variables),
            Some(&Flags(matches)),
        ];
        let mut figment = Figment::new();
        for setting in &self.settings {
            // Only the layer that wins counts: a secret's file that nobody needs may be missing.
            let mut winner = None;
            for layer in lowest_first.into_iter().flatten() {
                winner = layer::found(layer, setting)?.or(winner);
            }
            if let Some(found) = winner {
                figment = figment.merge(found.read()?);
            }
        }
        let print = matches.get_flag("print-config");
        Ok(Layered {
            figment,
            settings: self.settings.clone(),
            print,
        })
    }
}

/// The process's own environment, for [`Layers::load`].
#[must_use]
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The arguments of this process, understood by `command`. Help and version are printed, and the process ends.
///
/// # Errors
///
/// Arguments that make no sense, as one sentence.
pub fn arguments(command: Command) -> Result<ArgMatches, Failure> {
    parse(command, std::env::args_os())
}

/// [`arguments`] with given ones; the first is the program's name.
///
/// # Errors
///
/// Arguments that make no sense, as one sentence.
pub fn parse<I, T>(command: Command, arguments: I) -> Result<ArgMatches, Failure>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    command.try_get_matches_from(arguments).map_err(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        Failure::usage(report::one_sentence(&error.render().to_string()))
    })
}

/// All layers on top of each other.
#[derive(Debug, Clone)]
pub struct Layered {
    figment: Figment,
    settings: Vec<Setting>,
    print: bool,
}

impl Layered {
    /// True when `--print-config` was given: print [`Layered::report`] and end.
    #[must_use]
    pub const fn print_wanted(&self) -> bool {
        self.print
    }

    /// Every setting with its value and where it comes from. It can be used as a configuration file, once the
    /// secrets are filled in.
    #[must_use]
    pub fn report(&self) -> String {
        report::all(&self.figment, &self.settings)
    }

    /// The values as a struct whose fields are named like the settings, in kebab-case. What the struct does not
    /// name is left out, so that [`Common`] and a role's own settings are taken one after the other.
    ///
    /// # Errors
    ///
    /// A value that the struct's type refuses, or a setting without a value that must have one.
    pub fn values<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        self.figment
            .extract()
            .map_err(|error| report::refusal(&error, &self.figment, &self.settings))
    }
}

/// Takes a secret setting: `#[serde(deserialize_with = "settings::secret")]`.
///
/// # Errors
///
/// The value is no text.
pub fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// Takes a secret setting that may be absent: `#[serde(default, deserialize_with = "settings::optional_secret")]`.
///
/// # Errors
///
/// The value is no text.
pub fn optional_secret<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Secret<String>>, D::Error> {
    secret(deserializer).map(Some)
}

/// A secret that a process needs at its first start only ([`Setting::at_first_start`]).
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Given")]
pub struct FirstSecret(Result<Secret<String>, String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Text(String),
    Unreadable { unreadable: String },
}

impl From<Given> for FirstSecret {
    fn from(given: Given) -> Self {
        Self(match given {
            Given::Text(text) => Ok(Secret::new(text)),
            Given::Unreadable { unreadable } => Err(unreadable),
        })
    }
}

impl FirstSecret {
    /// The secret; nothing when its file cannot be read.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.as_ref().map_or("", |secret| secret.expose())
    }

    /// Why its file cannot be read, if it cannot: for a process that needs it.
    #[must_use]
    pub fn unreadable(&self) -> Option<Failure> {
        self.0.as_ref().err().map(Failure::refused)
    }
}

/// One value and where it comes from.
struct One {
    name: &'static str,
    value: Value,
    source: String,
}

impl Provider for One {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let values = Dict::from([(self.name.to_owned(), self.value.clone())]);
        Ok(Map::from([(Profile::Default, values)]))
    }
}

#[cfg(test)]
mod tests;
