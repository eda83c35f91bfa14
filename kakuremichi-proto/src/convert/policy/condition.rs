//! Conditions, each node before its children.

use kakuremichi_core::{
    auth::Principal,
    net::Cidr,
    policy::{
        Condition, ConditionError, HeaderTest, MAX_CONDITION_DEPTH, TimeWindow, TimeWindowError, Weekdays,
    },
};

use super::{InField, Invalid, name};
use crate::message::{self, ConditionNode};

/// Writes a tree, each node before its children.
pub(super) fn flatten(condition: &Condition, nodes: &mut Vec<ConditionNode>) {
    // More children than this fit in no list of nodes anyway.
    let count = |parts: &[Condition]| u16::try_from(parts.len()).unwrap_or(u16::MAX);
    nodes.push(match condition {
        Condition::All(parts) => ConditionNode::All(count(parts)),
        Condition::Any(parts) => ConditionNode::Any(count(parts)),
        Condition::Not(_) => ConditionNode::Not,
        Condition::Path(pattern) => ConditionNode::Path(pattern.to_string()),
        Condition::Method(method) => ConditionNode::Method(method.clone()),
        Condition::Source(network) => ConditionNode::Source((*network).into()),
        Condition::Subject(subject) => ConditionNode::Subject(subject.clone()),
        Condition::Header { name, is } => {
            let name = name.as_str().to_owned();
            match is {
                HeaderTest::Present => ConditionNode::HeaderPresent(name),
                HeaderTest::Equal(text) => ConditionNode::HeaderEqual(name, text.clone()),
                HeaderTest::Prefix(text) => ConditionNode::HeaderPrefix(name, text.clone()),
                HeaderTest::Contains(text) => ConditionNode::HeaderContains(name, text.clone()),
            }
        }
        Condition::Country(country) => ConditionNode::Country(country.as_str().to_owned()),
        Condition::Asn(asn) => ConditionNode::Asn(*asn),
        Condition::Time(window) => ConditionNode::Time(message::TimeWindow {
            days: window.days().bits(),
            from: window.start(),
            to: window.end(),
            offset: window.offset(),
        }),
        Condition::User(user) => ConditionNode::User(message::Principal {
            authority: user.authority().to_owned(),
            subject: user.subject().to_owned(),
        }),
        Condition::Role(role) => ConditionNode::Role(role.as_str().to_owned()),
        Condition::Group(group) => ConditionNode::Group(group.clone()),
        Condition::Strength(strength) => ConditionNode::Strength((*strength).into()),
    });
    condition.parts().iter().for_each(|part| flatten(part, nodes));
}

const FIELD: &str = "policy.rules.when";

/// Reads a tree. Its depth is checked on the way down, its size by the list that it came in.
pub(super) fn grow(
    nodes: &mut std::vec::IntoIter<ConditionNode>,
    depth: usize,
) -> Result<Condition, Invalid> {
    if depth > MAX_CONDITION_DEPTH {
        return Err(Invalid::new(FIELD, ConditionError));
    }
    let node = nodes.next().ok_or_else(|| Invalid::mismatch(FIELD))?;
    let mut parts = |count: u16| -> Result<Vec<_>, Invalid> {
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(grow(nodes, depth + 1)?);
        }
        Ok(parts)
    };
    let header = |field: String, is| -> Result<Condition, Invalid> {
        Ok(Condition::Header {
            name: name(&field, FIELD)?,
            is,
        })
    };
    Ok(match node {
        ConditionNode::All(count) => Condition::All(parts(count)?),
        ConditionNode::Any(count) => Condition::Any(parts(count)?),
        ConditionNode::Not => Condition::Not(Box::new(grow(nodes, depth + 1)?)),
        ConditionNode::Path(pattern) => Condition::Path(name(&pattern, FIELD)?),
        ConditionNode::Method(method) => Condition::Method(method),
        ConditionNode::Source(network) => Condition::Source(Cidr::try_from(network).in_field(FIELD)?),
        ConditionNode::Subject(subject) => Condition::Subject(subject),
        ConditionNode::HeaderPresent(field) => header(field, HeaderTest::Present)?,
        ConditionNode::HeaderEqual(field, text) => header(field, HeaderTest::Equal(text))?,
        ConditionNode::HeaderPrefix(field, text) => header(field, HeaderTest::Prefix(text))?,
        ConditionNode::HeaderContains(field, text) => header(field, HeaderTest::Contains(text))?,
        ConditionNode::Country(country) => Condition::Country(name(&country, FIELD)?),
        ConditionNode::Asn(asn) => Condition::Asn(asn),
        ConditionNode::Time(window) => Condition::Time(time(window).in_field(FIELD)?),
        ConditionNode::User(user) => Condition::User(Principal::new(user.authority, user.subject)),
        ConditionNode::Role(role) => Condition::Role(name(&role, FIELD)?),
        ConditionNode::Group(group) => Condition::Group(group),
        ConditionNode::Strength(strength) => Condition::Strength(strength.into()),
    })
}

fn time(window: message::TimeWindow) -> Result<TimeWindow, TimeWindowError> {
    let days = Weekdays::from_bits(window.days).ok_or(TimeWindowError::NoDay)?;
    TimeWindow::new(days, window.from, window.to, window.offset)
}
