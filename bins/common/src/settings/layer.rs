//! The four places where a value can come from.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use figment::value::{Dict, Value};

use super::report::nearest;
use super::{Kind, One, Setting};
use crate::failure::Failure;

/// Bytes of a secret's file or of a configuration file that are read; a longer one is refused.
const FILE_MAX: u64 = 256 * 1024;

/// A place where values come from.
pub(super) trait Layer {
    /// The value called `name`, when this layer has one.
    fn value(&self, name: &str, kind: Kind) -> Result<Option<Value>, Failure>;

    /// How a person would find that value again.
    fn source(&self, name: &str) -> String;
}

/// What a layer says about a setting.
pub(super) enum Found {
    /// The value.
    Value(One),
    /// A secret stands in a file.
    File {
        name: &'static str,
        path: PathBuf,
        source: String,
        /// Whether the process may be able to do without it.
        optional: bool,
    },
}

/// What a layer says about a setting, if anything. No secret's file is read yet.
pub(super) fn found(layer: &dyn Layer, setting: &Setting) -> Result<Option<Found>, Failure> {
    let name = setting.name;
    let direct = layer.value(name, setting.kind)?;
    let in_file = match setting.file {
        Some(file) => layer.value(file, Kind::Text)?.map(|path| (file, path)),
        None => None,
    };
    match (direct, in_file) {
        (None, None) => Ok(None),
        (Some(value), None) => Ok(Some(Found::Value(One {
            name,
            value,
            source: layer.source(name),
        }))),
        (None, Some((file, path))) => Ok(Some(Found::File {
            name,
            path: PathBuf::from(path.as_str().unwrap_or_default()),
            source: layer.source(file),
            optional: setting.once,
        })),
        (Some(_), Some((file, _))) => {
            let (this, other) = (layer.source(name), layer.source(file));
            Err(Failure::usage(format!(
                "{this} and {other} are both given; one is enough"
            )))
        }
    }
}

impl Found {
    /// The value; a secret's file is read here.
    pub(super) fn read(self) -> Result<One, Failure> {
        let (name, path, source, optional) = match self {
            Self::Value(one) => return Ok(one),
            Self::File {
                name,
                path,
                source,
                optional,
            } => (name, path, source, optional),
        };
        let text = read(&path).and_then(|text| match text.trim() {
            "" => Err(format!("{} is empty", path.display())),
            text => Ok(text.to_owned()),
        });
        let value = match text {
            Ok(text) => Value::from(text),
            Err(why) if optional => {
                let unreadable = Value::from(format!("{source}: {why}"));
                Dict::from([("unreadable".to_owned(), unreadable)]).into()
            }
            Err(why) => return Err(Failure::refused(format!("{source}: {why}"))),
        };
        Ok(One { name, value, source })
    }
}

/// The command line.
pub(super) struct Flags<'a>(pub(super) &'a ArgMatches);

impl Layer for Flags<'_> {
    fn value(&self, name: &str, kind: Kind) -> Result<Option<Value>, Failure> {
        if self.0.value_source(name) != Some(ValueSource::CommandLine) {
            return Ok(None);
        }
        Ok(match kind {
            Kind::Text | Kind::Secret => self
                .0
                .get_one::<String>(name)
                .map(|text| Value::from(text.as_str())),
            Kind::List => self
                .0
                .get_many::<String>(name)
                .map(|texts| texts.cloned().collect::<Vec<_>>().into()),
            Kind::Switch => self.0.get_one::<bool>(name).map(|&yes| Value::from(yes)),
            Kind::Number => self.0.get_one::<u64>(name).map(|&number| Value::from(number)),
        })
    }

    fn source(&self, name: &str) -> String {
        format!("--{name}")
    }
}

/// `KAKUREMICHI_*`. An empty variable counts as none: that is how compose files leave one out.
pub(super) struct Environment<'a>(pub(super) &'a dyn Fn(&str) -> Option<OsString>);

impl Layer for Environment<'_> {
    fn value(&self, name: &str, kind: Kind) -> Result<Option<Value>, Failure> {
        let source = self.source(name);
        let Some(text) = (self.0)(&source).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let text = text
            .into_string()
            .map_err(|_| Failure::usage(format!("{source}: this is not UTF-8")))?;
        parse(&text, kind)
            .map(Some)
            .map_err(|why| Failure::usage(format!("{source}: {why}")))
    }

    fn source(&self, name: &str) -> String {
        format!("KAKUREMICHI_{}", name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// What holds when nothing is said.
pub(super) struct Defaults<'a>(pub(super) &'a [Setting]);

impl Layer for Defaults<'_> {
    fn value(&self, name: &str, kind: Kind) -> Result<Option<Value>, Failure> {
        let default = self
            .0
            .iter()
            .find(|setting| setting.name == name)
            .and_then(|setting| setting.default);
        default
            .map(|text| parse(text, kind))
            .transpose()
            .map_err(Failure::usage)
    }

    fn source(&self, _name: &str) -> String {
        "default".to_owned()
    }
}

/// The TOML file.
pub(super) struct File {
    path: String,
    table: toml::Table,
}

impl File {
    /// Reads a file and refuses what it should not hold.
    pub(super) fn read(path: &Path, settings: &[Setting]) -> Result<Self, Failure> {
        let text = read(path).map_err(|why| Failure::refused(format!("--config: {why}")))?;
        Self::parse(path.display().to_string(), &text, settings)
    }

    fn parse(path: String, text: &str, settings: &[Setting]) -> Result<Self, Failure> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].lines().count().max(1));
            Failure::usage(format!("{path}, line {line}: {}", error.message()))
        })?;
        match table.get("version") {
            Some(toml::Value::Integer(1)) => {}
            Some(other) => {
                return Err(Failure::usage(format!(
                    "{path}: version {other} is unknown here, 1 is known"
                )));
            }
            None => return Err(Failure::usage(format!("{path}: `version = 1` is missing"))),
        }
        let known = || {
            settings
                .iter()
                .flat_map(|setting| [Some(setting.name), setting.file])
                .flatten()
        };
        for key in table.keys().filter(|key| *key != "version") {
            if !known().any(|name| name == key) {
                let hint = nearest(key, known()).map(|name| format!("; did you mean `{name}`?"));
                let hint = hint.unwrap_or_default();
                return Err(Failure::usage(format!("{path}: unknown key `{key}`{hint}")));
            }
        }
        Ok(Self { path, table })
    }
}

impl Layer for File {
    fn value(&self, name: &str, kind: Kind) -> Result<Option<Value>, Failure> {
        let Some(value) = self.table.get(name) else {
            return Ok(None);
        };
        let wrong = |wanted: &str| Failure::usage(format!("{}: `{name}` must be {wanted}", self.path));
        match (kind, value) {
            (Kind::Text | Kind::Secret, toml::Value::String(text)) => Ok(Some(Value::from(text.as_str()))),
            (Kind::Text | Kind::Secret, _) => Err(wrong("a text in quotes")),
            (Kind::Switch, toml::Value::Boolean(yes)) => Ok(Some(Value::from(*yes))),
            (Kind::Switch, _) => Err(wrong("true or false")),
            (Kind::Number, toml::Value::Integer(number)) => {
                let number = u64::try_from(*number).map_err(|_| wrong("zero or more"))?;
                Ok(Some(Value::from(number)))
            }
            (Kind::Number, _) => Err(wrong("a whole number")),
            (Kind::List, toml::Value::Array(items)) => {
                let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
                let texts: Option<Vec<String>> = texts.collect();
                texts
                    .map(|texts| Some(texts.into()))
                    .ok_or_else(|| wrong("an array of texts"))
            }
            (Kind::List, _) => Err(wrong("an array of texts")),
        }
    }

    fn source(&self, name: &str) -> String {
        format!("{}: {name}", self.path)
    }
}

/// A value written as one text, as in a variable.
fn parse(text: &str, kind: Kind) -> Result<Value, String> {
    match kind {
        Kind::Text | Kind::Secret => Ok(Value::from(text)),
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(parts.map(str::to_owned).collect::<Vec<_>>().into())
        }
        Kind::Switch => match text {
            "true" | "1" | "yes" | "on" => Ok(Value::from(true)),
            "false" | "0" | "no" | "off" => Ok(Value::from(false)),
            other => Err(format!("`{other}` is neither true nor false")),
        },
        Kind::Number => match text.parse::<u64>() {
            Ok(number) => Ok(Value::from(number)),
            Err(_) => Err(format!("`{text}` is not a whole number")),
        },
    }
}

/// A small text file; the error is half a sentence that names it.
fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = fs::File::open(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let mut text = String::new();
    let mut file = file.take(FILE_MAX + 1);
    file.read_to_string(&mut text)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if text.len() as u64 > FILE_MAX {
        return Err(format!("{shown} is longer than {FILE_MAX} bytes"));
    }
    Ok(text)
}
