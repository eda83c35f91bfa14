//! From wire types to domain types and back.
//!
//! What comes from the wire is checked field by field; what goes there is only written down. An error
//! names the field.

mod agent;
mod declare;
mod discreet;
mod gateway;
mod guarded;
mod hello;
mod key;
mod net;
mod policy;
mod report;
mod sign_in;
mod target;

pub use net::role_of;
pub(crate) use net::services;

use kakuremichi_core::{
    name::NameError,
    net::NetError,
    policy::{ConditionError, PolicyError, TimeWindowError},
};

use crate::codec::{CodecError, List};

/// A field of a message or a record is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the field `{field}` is not valid: {cause}")]
pub struct Invalid {
    /// The field, with the fields that it is in before it: `routes.path`.
    pub field: &'static str,
    /// What is wrong with it.
    pub cause: Cause,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// It is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is not an address, a network, an endpoint or a port.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It is not a policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It is not a condition.
    #[error(transparent)]
    Condition(#[from] ConditionError),
    /// They are no hours of the week.
    #[error(transparent)]
    Time(#[from] TimeWindowError),
    /// It does not decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It has more items than it may.
    #[error("it has more items than {0}")]
    TooMany(usize),
    /// It has no item.
    #[error("it is empty")]
    Empty,
    /// It is not what it must be equal to.
    #[error("it contradicts another field")]
    Mismatch,
    /// It is a text with characters that may not stand here.
    #[error("it has characters that may not stand here")]
    Text,
    /// It is a port that may not stand here.
    #[error("it is not a port that may stand here")]
    Port,
    /// It is no time at all, or too long.
    #[error("it is no time at all, or too long")]
    Duration,
}

impl Invalid {
    pub(crate) fn new(field: &'static str, cause: impl Into<Cause>) -> Self {
        Self {
            field,
            cause: cause.into(),
        }
    }

    pub(crate) const fn mismatch(field: &'static str) -> Self {
        Self {
            field,
            cause: Cause::Mismatch,
        }
    }
}

/// Names the field of an error.
trait InField<T> {
    fn in_field(self, field: &'static str) -> Result<T, Invalid>;
}

impl<T, E: Into<Cause>> InField<T> for Result<T, E> {
    fn in_field(self, field: &'static str) -> Result<T, Invalid> {
        self.map_err(|cause| Invalid::new(field, cause))
    }
}

/// Parses a name.
fn name<T: std::str::FromStr<Err = NameError>>(text: &str, field: &'static str) -> Result<T, Invalid> {
    text.parse().in_field(field)
}

/// Writes items into a list.
fn list<T, U, const MAX: usize>(
    items: &[T],
    field: &'static str,
    mut convert: impl FnMut(&T) -> Result<U, Invalid>,
) -> Result<List<U, MAX>, Invalid> {
    if items.len() > MAX {
        return Err(Invalid::new(field, Cause::TooMany(MAX)));
    }
    let items: Vec<U> = items.iter().map(&mut convert).collect::<Result<_, _>>()?;
    Ok(List::truncated(items))
}
