//! What a person is told about settings.

use std::fmt::Write as _;

use figment::Figment;
use figment::error::Kind as Reason;
use figment::value::Value;

use super::{Kind, Setting};
use crate::failure::Failure;

/// Less alike than this, and a suggestion would only confuse.
const ALIKE_MIN: f64 = 0.5;

/// Every setting with its value and where it comes from.
pub(super) fn all(figment: &Figment, settings: &[Setting]) -> String {
    let mut text = "version = 1\n".to_owned();
    for setting in settings {
        let name = setting.name;
        let Ok(value) = figment.find_value(name) else {
            let _ = writeln!(text, "# {name} is not set");
            continue;
        };
        let source = figment
            .find_metadata(name)
            .map_or("unknown", |metadata| metadata.name.as_ref());
        // A secret's line is a comment: it cannot be used as it stands.
        let _ = match setting.kind {
            Kind::Secret => writeln!(text, "# {name} = [redacted]  # {source}"),
            _ => writeln!(text, "{name} = {}  # {source}", shown(&value)),
        };
    }
    text
}

/// One sentence about a value that its type refuses.
pub(super) fn refusal(error: &figment::Error, figment: &Figment, settings: &[Setting]) -> Failure {
    if let Reason::MissingField(name) = &error.kind {
        let variable = name.to_ascii_uppercase().replace('-', "_");
        return Failure::usage(format!(
            "`{name}` is not set: give --{name}, KAKUREMICHI_{variable}, or `{name}` in the file of --config"
        ));
    }
    let name = error.path.first().map_or("", String::as_str);
    let source = error
        .metadata
        .as_ref()
        .map_or(name, |metadata| metadata.name.as_ref());
    let source = if source == "default" { name } else { source };
    let is_secret = settings
        .iter()
        .any(|setting| setting.name == name && setting.kind == Kind::Secret);
    match figment.find_value(name) {
        Ok(value) if !is_secret => Failure::usage(format!("{source} {}: {}", shown(&value), error.kind)),
        // The reason may quote the secret.
        Ok(_) if is_secret => Failure::usage(format!("{source}: this is not a usable value")),
        _ => Failure::usage(format!("{source}: {}", error.kind)),
    }
}

/// The name most like `wrong`, when one is.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |name: &str| strsim::normalized_damerau_levenshtein(wrong, name);
    let best = names.max_by(|one, other| alike(one).total_cmp(&alike(other)))?;
    (alike(best) >= ALIKE_MIN).then_some(best)
}

/// clap's several paragraphs as one sentence, without the usage lines at their end.
pub(super) fn one_sentence(rendered: &str) -> String {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let end = ["\n\nUsage:", "\n\nFor more information"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min();
    let text = &text[..end.unwrap_or(text.len())];
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| line.strip_prefix("tip: ").unwrap_or(line))
        .collect::<Vec<_>>()
        .join("; ")
        .replace(":; ", ": ")
}

/// A value as TOML writes it.
fn shown(value: &Value) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    match value {
        Value::String(_, text) => quoted(text),
        Value::Bool(_, yes) => yes.to_string(),
        Value::Num(_, number) => number.to_u128().unwrap_or_default().to_string(),
        Value::Array(_, items) => {
            let items: Vec<_> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Char(..) | Value::Dict(..) | Value::Empty(..) => String::new(),
    }
}
