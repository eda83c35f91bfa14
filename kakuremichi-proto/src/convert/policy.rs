//! Policies. A condition is a tree in the domain and a flat list on the wire.

use kakuremichi_core::{
    net::Cidr,
    policy::{
        Access, BasicUser, Condition, ConditionError, Effect, MAX_CONDITION_DEPTH, Method, Policy, Rule,
    },
};

use super::{InField, Invalid, list, name};
use crate::message::{self, ConditionNode};

impl TryFrom<&Policy> for message::Policy {
    type Error = Invalid;

    fn try_from(policy: &Policy) -> Result<Self, Invalid> {
        Ok(Self {
            rules: list(&policy.rules, "policy.rules", |rule| {
                let mut nodes = Vec::new();
                flatten(&rule.when, &mut nodes);
                Ok(message::Rule {
                    name: rule.name.as_str().to_owned(),
                    when: list(&nodes, "policy.rules.when", |node| Ok(node.clone()))?,
                    effect: match rule.effect {
                        Effect::Allow => message::Effect::Allow,
                        Effect::Deny => message::Effect::Deny,
                    },
                })
            })?,
            access: match &policy.access {
                Access::Deny => message::Access::Deny,
                Access::Public => message::Access::Public,
                Access::AnyOf(methods) => {
                    message::Access::AnyOf(list(methods, "policy.access", |method| match method {
                        Method::Basic { users } => {
                            let users = list(users, "policy.access.users", |user| {
                                Ok(message::BasicUser {
                                    name: user.name.clone(),
                                    password_hash: user.password_hash.clone(),
                                })
                            });
                            users.map(message::Method::Basic)
                        }
                        Method::SignedIn => Ok(message::Method::SignedIn),
                    })?)
                }
            },
        })
    }
}

impl TryFrom<message::Policy> for Policy {
    type Error = Invalid;

    fn try_from(policy: message::Policy) -> Result<Self, Invalid> {
        let rule = |rule: message::Rule| {
            let mut nodes = rule.when.into_vec().into_iter();
            let when = grow(&mut nodes, 1)?;
            if nodes.next().is_some() {
                return Err(Invalid::mismatch("policy.rules.when"));
            }
            Ok(Rule {
                name: name(&rule.name, "policy.rules.name")?,
                when,
                effect: match rule.effect {
                    message::Effect::Allow => Effect::Allow,
                    message::Effect::Deny => Effect::Deny,
                },
            })
        };
        let method = |method| match method {
            message::Method::Basic(users) => Method::Basic {
                users: users
                    .into_vec()
                    .into_iter()
                    .map(|user| BasicUser {
                        name: user.name,
                        password_hash: user.password_hash,
                    })
                    .collect(),
            },
            message::Method::SignedIn => Method::SignedIn,
        };
        let policy = Self {
            rules: policy
                .rules
                .into_vec()
                .into_iter()
                .map(rule)
                .collect::<Result<_, _>>()?,
            access: match policy.access {
                message::Access::Deny => Access::Deny,
                message::Access::Public => Access::Public,
                message::Access::AnyOf(methods) => {
                    Access::AnyOf(methods.into_vec().into_iter().map(method).collect())
                }
            },
        };
        policy.validate().in_field("policy")?;
        Ok(policy)
    }
}

/// Writes a tree, each node before its children.
fn flatten(condition: &Condition, nodes: &mut Vec<ConditionNode>) {
    // More children than this fit in no list of nodes anyway.
    let count = |parts: &[Condition]| u16::try_from(parts.len()).unwrap_or(u16::MAX);
    match condition {
        Condition::All(parts) => {
            nodes.push(ConditionNode::All(count(parts)));
            parts.iter().for_each(|part| flatten(part, nodes));
        }
        Condition::Any(parts) => {
            nodes.push(ConditionNode::Any(count(parts)));
            parts.iter().for_each(|part| flatten(part, nodes));
        }
        Condition::Not(part) => {
            nodes.push(ConditionNode::Not);
            flatten(part, nodes);
        }
        Condition::Path(pattern) => nodes.push(ConditionNode::Path(pattern.to_string())),
        Condition::Method(method) => nodes.push(ConditionNode::Method(method.clone())),
        Condition::Source(network) => nodes.push(ConditionNode::Source((*network).into())),
        Condition::Subject(subject) => nodes.push(ConditionNode::Subject(subject.clone())),
    }
}

/// Reads a tree. Its depth is checked on the way down, its size by the list that it came in.
fn grow(nodes: &mut std::vec::IntoIter<ConditionNode>, depth: usize) -> Result<Condition, Invalid> {
    const FIELD: &str = "policy.rules.when";
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
    Ok(match node {
        ConditionNode::All(count) => Condition::All(parts(count)?),
        ConditionNode::Any(count) => Condition::Any(parts(count)?),
        ConditionNode::Not => Condition::Not(Box::new(grow(nodes, depth + 1)?)),
        ConditionNode::Path(pattern) => Condition::Path(name(&pattern, FIELD)?),
        ConditionNode::Method(method) => Condition::Method(method),
        ConditionNode::Source(network) => Condition::Source(Cidr::try_from(network).in_field(FIELD)?),
        ConditionNode::Subject(subject) => Condition::Subject(subject),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn rule(when: Condition) -> Policy {
        Policy {
            rules: vec![Rule {
                name: "office".parse().unwrap(),
                when,
                effect: Effect::Allow,
            }],
            access: Access::Deny,
        }
    }

    #[test]
    fn conditions_round_trip() {
        let leaf = || Condition::Source("10.0.0.0/8".parse().unwrap());
        let tree = Condition::All(vec![
            Condition::Any(vec![
                leaf(),
                Condition::Not(Box::new(Condition::Method("GET".to_owned()))),
            ]),
            Condition::All(vec![]),
            Condition::Path("/api".parse().unwrap()),
            Condition::Subject("alice".to_owned()),
        ]);
        let policy = rule(tree);
        let wire = message::Policy::try_from(&policy).unwrap();
        let bytes = codec::encode(&wire);
        assert_eq!(
            Policy::try_from(codec::decode::<message::Policy>(&bytes).unwrap()),
            Ok(policy)
        );
    }

    #[test]
    fn a_deep_or_broken_condition_is_refused() {
        let condition = |nodes: Vec<ConditionNode>| {
            let mut wire = message::Policy::try_from(&rule(Condition::All(vec![]))).unwrap();
            let mut rules = wire.rules.into_vec();
            rules[0].when = codec::List::new(nodes).unwrap();
            wire.rules = codec::List::new(rules).unwrap();
            Policy::try_from(wire)
                .map(|_| ())
                .map_err(|invalid| invalid.field)
        };
        assert_eq!(condition(vec![ConditionNode::Not; 256]), Err("policy.rules.when"));
        assert_eq!(condition(vec![ConditionNode::Not]), Err("policy.rules.when"));
        assert_eq!(condition(vec![]), Err("policy.rules.when"));
        assert_eq!(
            condition(vec![ConditionNode::All(0), ConditionNode::All(0)]),
            Err("policy.rules.when")
        );
        assert_eq!(condition(vec![ConditionNode::All(0)]), Ok(()));
    }
}
