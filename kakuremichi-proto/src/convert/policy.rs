//! Policies. A condition is a tree in the domain and a flat list on the wire.

mod condition;

use std::time::Duration;

use kakuremichi_core::{
    auth::Strength,
    id::ServiceTokenId,
    policy::{Access, BasicUser, Effect, Method, Policy, Requirement, Rule},
};

use self::condition::{flatten, grow};
use super::{InField, Invalid, list, name};
use crate::{codec::List, message};

impl TryFrom<&Policy> for message::Policy {
    type Error = Invalid;

    fn try_from(policy: &Policy) -> Result<Self, Invalid> {
        Ok(Self {
            rules: list(&policy.rules, "policy.rules", |rule| rule.try_into())?,
            access: (&policy.access).try_into()?,
        })
    }
}

impl TryFrom<message::Policy> for Policy {
    type Error = Invalid;

    fn try_from(policy: message::Policy) -> Result<Self, Invalid> {
        let rules = policy.rules.into_vec().into_iter().map(Rule::try_from);
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
            access: policy.access.try_into()?,
        })
    }
}

impl TryFrom<&Rule> for message::Rule {
    type Error = Invalid;

    fn try_from(rule: &Rule) -> Result<Self, Invalid> {
        let mut nodes = Vec::new();
        flatten(&rule.when, &mut nodes);
        Ok(Self {
            name: rule.name.as_str().to_owned(),
            when: list(&nodes, "policy.rules.when", |node| Ok(node.clone()))?,
            effect: match (rule.effect, rule.dry_run) {
                (Effect::Allow, false) => message::Effect::Allow,
                (Effect::Deny, false) => message::Effect::Deny,
                (Effect::Continue, false) => message::Effect::Continue,
                (Effect::Allow, true) => message::Effect::TryAllow,
                (Effect::Deny, true) => message::Effect::TryDeny,
                (Effect::Continue, true) => message::Effect::TryContinue,
            },
        })
    }
}

impl TryFrom<message::Rule> for Rule {
    type Error = Invalid;

    fn try_from(rule: message::Rule) -> Result<Self, Invalid> {
        let mut nodes = rule.when.into_vec().into_iter();
        let when = grow(&mut nodes, 1)?;
        if nodes.next().is_some() {
            return Err(Invalid::mismatch("policy.rules.when"));
        }
        let (effect, dry_run) = match rule.effect {
            message::Effect::Allow => (Effect::Allow, false),
            message::Effect::Deny => (Effect::Deny, false),
            message::Effect::Continue => (Effect::Continue, false),
            message::Effect::TryAllow => (Effect::Allow, true),
            message::Effect::TryDeny => (Effect::Deny, true),
            message::Effect::TryContinue => (Effect::Continue, true),
        };
        let rule = Self {
            name: name(&rule.name, "policy.rules.name")?,
            when,
            effect,
            dry_run,
        };
        rule.validate().in_field("policy.rules")?;
        Ok(rule)
    }
}

impl TryFrom<&Access> for message::Access {
    type Error = Invalid;

    fn try_from(access: &Access) -> Result<Self, Invalid> {
        let all = |methods: &[Method]| list(methods, "policy.access", |method| method.try_into());
        Ok(match access {
            Access::Deny => Self::Deny,
            Access::Public => Self::Public,
            Access::AnyOf(methods) => Self::AnyOf(all(methods)?),
            Access::AllOf(methods) => Self::AllOf(all(methods)?),
        })
    }
}

impl TryFrom<message::Access> for Access {
    type Error = Invalid;

    fn try_from(access: message::Access) -> Result<Self, Invalid> {
        let all = |methods: List<message::Method, 16>| {
            let methods = methods.into_vec().into_iter().map(Method::try_from);
            methods.collect::<Result<_, _>>()
        };
        let access = match access {
            message::Access::Deny => Self::Deny,
            message::Access::Public => Self::Public,
            message::Access::AnyOf(methods) => Self::AnyOf(all(methods)?),
            message::Access::AllOf(methods) => Self::AllOf(all(methods)?),
        };
        access.validate().in_field("policy.access")?;
        Ok(access)
    }
}

impl TryFrom<&Method> for message::Method {
    type Error = Invalid;

    fn try_from(method: &Method) -> Result<Self, Invalid> {
        Ok(match method {
            Method::Basic { users } => Self::Basic(list(users, "policy.access.users", |user| {
                Ok(message::BasicUser {
                    name: user.name.clone(),
                    password_hash: user.password_hash.clone(),
                })
            })?),
            // The form that it had before there were requirements.
            Method::SignedIn(requirement) if *requirement == Requirement::default() => Self::SignedIn,
            Method::SignedIn(requirement) => match requirement.max_age {
                None => Self::SignedInAs(requirement.try_into()?),
                Some(age) => Self::SignedInWithin(message::RecentRequirement {
                    requirement: requirement.try_into()?,
                    max_age: age
                        .as_secs()
                        .try_into()
                        .map_err(|_| Invalid::mismatch("policy.access.max_age"))?,
                }),
            },
            Method::ServiceToken { tokens } => {
                Self::ServiceToken(list(tokens, "policy.access.tokens", |token| {
                    Ok(*token.as_bytes())
                })?)
            }
        })
    }
}

impl TryFrom<message::Method> for Method {
    type Error = Invalid;

    fn try_from(method: message::Method) -> Result<Self, Invalid> {
        Ok(match method {
            message::Method::Basic(users) => Self::Basic {
                users: users
                    .into_vec()
                    .into_iter()
                    .map(|user| BasicUser {
                        name: user.name,
                        password_hash: user.password_hash,
                    })
                    .collect(),
            },
            message::Method::SignedIn => Self::signed_in(),
            message::Method::ServiceToken(tokens) => Self::ServiceToken {
                tokens: tokens
                    .into_vec()
                    .into_iter()
                    .map(ServiceTokenId::from_bytes)
                    .collect(),
            },
            message::Method::SignedInAs(requirement) => Self::SignedIn(requirement.try_into()?),
            message::Method::SignedInWithin(recent) => Self::SignedIn(Requirement {
                max_age: Some(Duration::from_secs(recent.max_age.into())),
                ..recent.requirement.try_into()?
            }),
        })
    }
}

impl TryFrom<&Requirement> for message::Requirement {
    type Error = Invalid;

    fn try_from(requirement: &Requirement) -> Result<Self, Invalid> {
        Ok(Self {
            roles: list(&requirement.roles, "policy.access.roles", |role| {
                Ok(role.as_str().to_owned())
            })?,
            groups: list(&requirement.groups, "policy.access.groups", |group| {
                Ok(group.clone())
            })?,
            strength: requirement.strength.into(),
        })
    }
}

impl TryFrom<message::Requirement> for Requirement {
    type Error = Invalid;

    fn try_from(requirement: message::Requirement) -> Result<Self, Invalid> {
        let roles = requirement.roles.as_slice().iter();
        Ok(Self {
            roles: roles
                .map(|role| name(role, "policy.access.roles"))
                .collect::<Result<_, _>>()?,
            groups: requirement.groups.into_vec(),
            strength: requirement.strength.into(),
            max_age: None,
        })
    }
}

impl From<Strength> for message::Strength {
    fn from(strength: Strength) -> Self {
        match strength {
            Strength::OneFactor => Self::OneFactor,
            Strength::TwoFactors => Self::TwoFactors,
            Strength::PhishingResistant => Self::PhishingResistant,
        }
    }
}

impl From<message::Strength> for Strength {
    fn from(strength: message::Strength) -> Self {
        match strength {
            message::Strength::OneFactor => Self::OneFactor,
            message::Strength::TwoFactors => Self::TwoFactors,
            message::Strength::PhishingResistant => Self::PhishingResistant,
        }
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::policy::{Condition, HeaderTest};

    use super::*;
    use crate::{codec, message::ConditionNode, testing::samples};

    fn rule(when: Condition) -> Policy {
        Policy {
            rules: vec![Rule::new("office".parse().unwrap(), when, Effect::Allow)],
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
    fn policies_round_trip() {
        for policy in [
            samples::policy(),
            samples::guarding_policy(),
            samples::recent_policy(),
        ] {
            let wire = message::Policy::try_from(&policy).unwrap();
            let bytes = codec::encode(&wire);
            let read = codec::decode::<message::Policy>(&bytes).unwrap();
            assert_eq!(Policy::try_from(read), Ok(policy));
        }
    }

    /// LESSONS, advisory 4: what would let somebody past because of a header is not a policy.
    #[test]
    fn a_rule_that_lets_past_by_a_header_is_refused() {
        let when = Condition::Header {
            name: "user-agent".parse().unwrap(),
            is: HeaderTest::Present,
        };
        let wire = message::Policy::try_from(&rule(when)).unwrap();
        assert_eq!(
            Policy::try_from(wire).map_err(|invalid| invalid.field),
            Err("policy.rules")
        );
    }

    #[test]
    fn a_deep_or_broken_condition_is_refused() {
        let condition = |nodes: Vec<ConditionNode>| {
            let mut wire = message::Policy::try_from(&rule(Condition::All(vec![]))).unwrap();
            let mut rules = wire.rules.into_vec();
            rules[0].when = List::new(nodes).unwrap();
            wire.rules = List::new(rules).unwrap();
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
