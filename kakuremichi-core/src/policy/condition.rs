//! Conditions over the facts about a visitor.

use super::decision::Facts;
use crate::{name::PathPattern, net::Cidr};

/// The deepest nesting of one condition.
pub const MAX_CONDITION_DEPTH: usize = 8;
/// The most nodes of one condition.
pub const MAX_CONDITION_NODES: usize = 256;

/// A condition over the facts about a visitor and the request.
///
/// A fact that is absent makes a condition on it false, and its negation true: a rule that lets
/// somebody past should therefore state what must hold, never only what must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// All of them hold; true when there are none.
    All(Vec<Self>),
    /// One of them holds; false when there are none.
    Any(Vec<Self>),
    /// The other does not hold.
    Not(Box<Self>),
    /// The canonical path matches.
    Path(PathPattern),
    /// The method is this one, in this spelling.
    Method(String),
    /// The visitor's address lies in the network.
    Source(Cidr),
    /// The visitor has proven to be this subject.
    Subject(String),
}

/// A condition is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a condition is at most {MAX_CONDITION_DEPTH} deep and has at most {MAX_CONDITION_NODES} parts")]
pub struct ConditionError;

impl Condition {
    /// Whether the condition holds.
    #[must_use]
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(facts)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(facts)),
            Self::Not(part) => !part.holds(facts),
            Self::Path(pattern) => facts
                .request
                .is_some_and(|request| pattern.matches(request.path())),
            Self::Method(method) => facts.request.is_some_and(|request| request.method() == method),
            Self::Source(network) => network.contains(facts.source.to_canonical()),
            Self::Subject(name) => facts
                .proofs
                .iter()
                .any(|proof| proof.principal().subject() == name),
        }
    }

    /// Checks depth and size.
    ///
    /// # Errors
    /// When it is deeper than [`MAX_CONDITION_DEPTH`] or has more parts than [`MAX_CONDITION_NODES`].
    pub fn validate(&self) -> Result<(), ConditionError> {
        let mut nodes = 0;
        self.measure(1, &mut nodes)
    }

    fn measure(&self, depth: usize, nodes: &mut usize) -> Result<(), ConditionError> {
        *nodes += 1;
        if depth > MAX_CONDITION_DEPTH || *nodes > MAX_CONDITION_NODES {
            return Err(ConditionError);
        }
        match self {
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().try_for_each(|part| part.measure(depth + 1, nodes))
            }
            Self::Not(part) => part.measure(depth + 1, nodes),
            Self::Path(_) | Self::Method(_) | Self::Source(_) | Self::Subject(_) => Ok(()),
        }
    }
}
