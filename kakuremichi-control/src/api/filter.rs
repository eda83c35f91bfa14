//! Which items of a list are wanted.
//!
//! A filter is a query parameter with the name of what it looks at; several must all hold. It is applied to the records
//! as they are read, in their order, so a part of a filtered list can be short, or empty, and not be the last one: what
//! counts is whether there is a `next_cursor`.

use kakuremichi_core::{
    model::{Channel, Group, Organization, ServiceToken, Site, UserRole},
    policy::SharedPolicy,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::schema;
use crate::text::Text;

/// The longest text that is searched for, in characters.
pub(super) const MAX_SEARCH: usize = 100;

/// The parameters of a list besides `limit` and `cursor`. Each can be absent.
pub(super) trait Parameters: DeserializeOwned + Default {
    /// Their names.
    const NAMES: &'static [&'static str];
}

/// Parameters of a list of `T`.
pub(super) trait Filter<T>: Parameters {
    /// Whether an item is wanted.
    fn admits(&self, item: &T) -> bool;
}

/// A text that names contain, whatever its case.
#[derive(Debug)]
pub(crate) struct Search(String);

impl Search {
    /// Whether one of the texts contains it.
    pub(super) fn finds<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> bool {
        texts
            .into_iter()
            .any(|text| text.to_lowercase().contains(&self.0))
    }
}

impl std::str::FromStr for Search {
    type Err = SearchError;

    fn from_str(text: &str) -> Result<Self, SearchError> {
        // Not more than so many: counting the characters of an endless text costs its length.
        if text.is_empty() || text.chars().nth(MAX_SEARCH).is_some() {
            return Err(SearchError);
        }
        Ok(Self(text.to_lowercase()))
    }
}

/// What cannot be searched for.
#[derive(Debug, thiserror::Error)]
#[error("a text of 1 to {MAX_SEARCH} characters")]
pub(crate) struct SearchError;

/// Whether a filter that may be absent lets something through.
pub(super) fn holds<T>(filter: Option<&T>, holds: impl FnOnce(&T) -> bool) -> bool {
    filter.is_none_or(holds)
}

/// For things that have a name, and nothing else that one would look for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ByName {
    /// Only those whose name contains this, whatever its case: 1 to 100 characters.
    #[param(inline, value_type = Option<schema::Search>)]
    search: Option<Text<Search>>,
}

/// What [`ByName`] is for.
pub(crate) trait Named {
    /// Its name.
    fn name(&self) -> &str;
}

macro_rules! named {
    ($($kind:ty),*) => {$(
        impl Named for $kind {
            fn name(&self) -> &str {
                self.name.as_str()
            }
        }
    )*};
}

named!(
    Channel,
    Group,
    Organization,
    ServiceToken,
    SharedPolicy,
    Site,
    UserRole
);

impl Parameters for ByName {
    const NAMES: &'static [&'static str] = &["search"];
}

impl<T: Named> Filter<T> for ByName {
    fn admits(&self, item: &T) -> bool {
        holds(self.search.as_ref(), |search| search.0.finds([item.name()]))
    }
}
