//! What people write on nodes to find them again.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// The most labels of one node, and the most that one selector asks for.
pub const MAX_LABELS: usize = 32;
/// The longest name of a label, and the longest value, in bytes.
const MAX_NAME: usize = 63;
/// The longest prefix of a key, in bytes.
const MAX_PREFIX: usize = 253;

/// Why something is no label, no set of labels, or no selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The name in a key.
    #[error(
        "the name in a label's key has 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or a digit at both ends"
    )]
    Name,
    /// The prefix of a key.
    #[error("the prefix of a label's key, in front of the `/`, is a DNS name in lower case")]
    Prefix,
    /// The value.
    #[error(
        "the value of a label is empty, or has 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or a digit at both ends"
    )]
    Value,
    /// There are too many.
    #[error("there are at most {MAX_LABELS} labels")]
    Many,
    /// A key stands twice.
    #[error("each label stands once")]
    Twice,
    /// A label without a value.
    #[error("a label is written as `key=value`")]
    Pair,
}

/// The key of a label, by the rules of Kubernetes: a name, perhaps behind a DNS name and a `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelKey(String);

/// The value of a label, by the rules of Kubernetes. It can be empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelValue(String);

macro_rules! text_of {
    ($($name:ident)*) => {$(
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_of!(LabelKey LabelValue);

impl FromStr for LabelKey {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let name = match text.split_once('/') {
            Some((prefix, name)) => {
                if !is_prefix(prefix) {
                    return Err(LabelError::Prefix);
                }
                name
            }
            None => text,
        };
        if !is_name(name) {
            return Err(LabelError::Name);
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for LabelValue {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        if !text.is_empty() && !is_name(text) {
            return Err(LabelError::Value);
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_name(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().next_back()];
    text.len() <= MAX_NAME
        && ends
            .iter()
            .all(|byte| byte.is_some_and(|byte| byte.is_ascii_alphanumeric()))
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether it is a DNS subdomain (RFC 1123) in lower case.
fn is_prefix(text: &str) -> bool {
    let is_part = |part: &str| {
        is_name(part)
            && part
                .bytes()
                .all(|byte| byte == b'-' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    text.len() <= MAX_PREFIX && text.split('.').all(is_part)
}

/// Labels: each key has one value. At most [`MAX_LABELS`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(BTreeMap<LabelKey, LabelValue>);

impl Labels {
    /// Takes labels.
    ///
    /// # Errors
    /// When there are too many, or a key stands twice.
    pub fn new(labels: impl IntoIterator<Item = (LabelKey, LabelValue)>) -> Result<Self, LabelError> {
        let mut all = BTreeMap::new();
        for (key, value) in labels {
            if all.insert(key, value).is_some() {
                return Err(LabelError::Twice);
            }
            if all.len() > MAX_LABELS {
                return Err(LabelError::Many);
            }
        }
        Ok(Self(all))
    }

    /// The labels, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&LabelKey, &LabelValue)> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads `key=value`.
///
/// # Errors
/// When it is no label.
pub fn parse_label(text: &str) -> Result<(LabelKey, LabelValue), LabelError> {
    let (key, value) = text.split_once('=').ok_or(LabelError::Pair)?;
    Ok((key.parse()?, value.parse()?))
}

/// What the labels of a node have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Is(LabelKey, LabelValue),
    IsNot(LabelKey, LabelValue),
    Has(LabelKey),
    HasNot(LabelKey),
}

/// Selects nodes by their labels, as Kubernetes does: `key=value`, `key!=value`, `key` and `!key`, with commas
/// between; all of it has to be so. The empty one selects every node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Whether a node with these labels is selected. One without the label of a `key!=value` is.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Is(key, value) => labels.0.get(key) == Some(value),
            Requirement::IsNot(key, value) => labels.0.get(key) != Some(value),
            Requirement::Has(key) => labels.0.contains_key(key),
            Requirement::HasNot(key) => !labels.0.contains_key(key),
        })
    }
}

impl FromStr for LabelSelector {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let mut all = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            if all.len() == MAX_LABELS {
                return Err(LabelError::Many);
            }
            all.push(if let Some((key, value)) = part.split_once("!=") {
                Requirement::IsNot(key.parse()?, value.parse()?)
            } else if let Some((key, value)) = part.split_once('=') {
                Requirement::Is(key.parse()?, value.parse()?)
            } else if let Some(key) = part.strip_prefix('!') {
                Requirement::HasNot(key.parse()?)
            } else {
                Requirement::Has(part.parse()?)
            });
        }
        Ok(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_as_in_kubernetes() {
        for good in ["env", "example.net/env", "a.b_c-D9", &"k".repeat(63)] {
            assert!(good.parse::<LabelKey>().is_ok(), "{good}");
        }
        let long = "k".repeat(64);
        let bad = [
            "",
            "/env",
            "Example.net/env",
            "a/b/c",
            "-a",
            "a-",
            "a b",
            "é",
            &long,
            "a./b",
        ];
        for bad in bad {
            assert!(bad.parse::<LabelKey>().is_err(), "{bad}");
        }
        assert!("".parse::<LabelValue>().is_ok() && "v1.2_x".parse::<LabelValue>().is_ok());
        assert!("a/b".parse::<LabelValue>().is_err() && ".a".parse::<LabelValue>().is_err());
        assert_eq!(parse_label("env"), Err(LabelError::Pair));
    }

    #[test]
    fn labels_are_bounded_and_each_stands_once() {
        let label = |n: usize| parse_label(&format!("k{n}=v")).unwrap();
        assert!(Labels::new((0..MAX_LABELS).map(label)).is_ok());
        assert_eq!(Labels::new((0..=MAX_LABELS).map(label)), Err(LabelError::Many));
        assert_eq!(Labels::new([label(1), label(1)]), Err(LabelError::Twice));
        let many = vec!["a"; MAX_LABELS + 1].join(",");
        assert_eq!(many.parse::<LabelSelector>(), Err(LabelError::Many));
    }

    #[test]
    fn a_selector_wants_all_of_what_it_says() {
        let labels = Labels::new(["env=prod", "rack=7"].map(|text| parse_label(text).unwrap())).unwrap();
        let selects = |text: &str| text.parse::<LabelSelector>().unwrap().selects(&labels);
        for yes in [
            "",
            "env=prod",
            "env",
            "env=prod,rack=7",
            "env!=test",
            "zone!=a",
            "!zone",
        ] {
            assert!(selects(yes), "{yes}");
        }
        for no in [
            "env=test",
            "zone",
            "env=prod,rack=8",
            "env!=prod",
            "!env",
            "zone=",
        ] {
            assert!(!selects(no), "{no}");
        }
    }
}
