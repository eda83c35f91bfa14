//! Values with a text form, in JSON.

use std::{collections::BTreeMap, fmt, str::FromStr};

use kakuremichi_core::model::{LabelError, Labels};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Written and read as the text form of what is inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text<T>(pub(crate) T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// Labels, as an object of texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct LabelsText(pub(crate) Labels);

impl Serialize for LabelsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let labels = self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        serializer.collect_map(labels)
    }
}

impl<'de> Deserialize<'de> for LabelsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        let labels = texts
            .iter()
            .map(|(key, value)| Ok::<_, LabelError>((key.parse()?, value.parse()?)));
        let labels = labels.collect::<Result<Vec<_>, _>>();
        labels.and_then(Labels::new).map(Self).map_err(D::Error::custom)
    }
}

pub(crate) fn texts<T: Clone>(values: &[T]) -> Vec<Text<T>> {
    values.iter().cloned().map(Text).collect()
}

pub(crate) fn untexts<T>(texts: Vec<Text<T>>) -> Vec<T> {
    texts.into_iter().map(|text| text.0).collect()
}
