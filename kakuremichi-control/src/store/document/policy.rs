//! Policies. What was added since the first version is optional, so that older rows stay readable.

mod condition;

use std::time::Duration;

use kakuremichi_core::{
    auth::Strength,
    id::{PolicyId, ServiceTokenId},
    name::Label,
    policy::{Access, BasicUser, Effect, Method, Policy, Requirement, Rule},
};
use serde::{Deserialize, Serialize};

use self::condition::ConditionDocument;
use crate::text::{Text, texts, untexts};

/// The policy of a service, with what is attached to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct PolicyDocument {
    rules: Vec<RuleDocument>,
    access: AccessDocument,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attached: Vec<Text<PolicyId>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct RuleDocument {
    name: Text<Label>,
    when: ConditionDocument,
    effect: EffectDocument,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EffectDocument {
    Allow,
    Deny,
    Continue,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::store) enum AccessDocument {
    Deny,
    Public,
    AnyOf(Vec<MethodDocument>),
    AllOf(Vec<MethodDocument>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::store) enum MethodDocument {
    Basic(Vec<UserDocument>),
    SignedIn,
    SignedInAs(RequirementDocument),
    ServiceToken(Vec<Text<ServiceTokenId>>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct UserDocument {
    name: String,
    password_hash: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct RequirementDocument {
    roles: Vec<Text<Label>>,
    groups: Vec<String>,
    strength: StrengthDocument,
    /// In seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age: Option<u32>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StrengthDocument {
    OneFactor,
    TwoFactors,
    PhishingResistant,
}

impl PolicyDocument {
    pub(in crate::store) fn new(policy: &Policy, attached: &[PolicyId]) -> Self {
        Self {
            rules: policy.rules.iter().map(Into::into).collect(),
            access: (&policy.access).into(),
            attached: texts(attached),
        }
    }

    pub(in crate::store) fn into_parts(self) -> (Policy, Vec<PolicyId>) {
        let policy = Policy {
            rules: self.rules.into_iter().map(Into::into).collect(),
            access: self.access.into(),
        };
        (policy, untexts(self.attached))
    }
}

impl From<&Rule> for RuleDocument {
    fn from(rule: &Rule) -> Self {
        Self {
            name: Text(rule.name.clone()),
            when: (&rule.when).into(),
            effect: match rule.effect {
                Effect::Allow => EffectDocument::Allow,
                Effect::Deny => EffectDocument::Deny,
                Effect::Continue => EffectDocument::Continue,
            },
            dry_run: rule.dry_run,
        }
    }
}

impl From<RuleDocument> for Rule {
    fn from(document: RuleDocument) -> Self {
        Self {
            name: document.name.0,
            when: document.when.into(),
            effect: match document.effect {
                EffectDocument::Allow => Effect::Allow,
                EffectDocument::Deny => Effect::Deny,
                EffectDocument::Continue => Effect::Continue,
            },
            dry_run: document.dry_run,
        }
    }
}

impl From<&Access> for AccessDocument {
    fn from(access: &Access) -> Self {
        let all = |methods: &[Method]| methods.iter().map(Into::into).collect();
        match access {
            Access::Deny => Self::Deny,
            Access::Public => Self::Public,
            Access::AnyOf(methods) => Self::AnyOf(all(methods)),
            Access::AllOf(methods) => Self::AllOf(all(methods)),
        }
    }
}

impl From<AccessDocument> for Access {
    fn from(document: AccessDocument) -> Self {
        let all = |methods: Vec<MethodDocument>| methods.into_iter().map(Into::into).collect();
        match document {
            AccessDocument::Deny => Self::Deny,
            AccessDocument::Public => Self::Public,
            AccessDocument::AnyOf(methods) => Self::AnyOf(all(methods)),
            AccessDocument::AllOf(methods) => Self::AllOf(all(methods)),
        }
    }
}

impl From<&Method> for MethodDocument {
    fn from(method: &Method) -> Self {
        let user = |user: &BasicUser| UserDocument {
            name: user.name.clone(),
            password_hash: user.password_hash.clone(),
        };
        match method {
            Method::Basic { users } => Self::Basic(users.iter().map(user).collect()),
            // As before there were requirements.
            Method::SignedIn(requirement) if *requirement == Requirement::default() => Self::SignedIn,
            Method::SignedIn(requirement) => Self::SignedInAs(RequirementDocument {
                roles: texts(&requirement.roles),
                groups: requirement.groups.clone(),
                strength: requirement.strength.into(),
                // One that is valid fits.
                max_age: requirement.max_age.and_then(|age| age.as_secs().try_into().ok()),
            }),
            Method::ServiceToken { tokens } => Self::ServiceToken(texts(tokens)),
        }
    }
}

impl From<MethodDocument> for Method {
    fn from(document: MethodDocument) -> Self {
        let user = |user: UserDocument| BasicUser {
            name: user.name,
            password_hash: user.password_hash,
        };
        match document {
            MethodDocument::Basic(users) => Self::Basic {
                users: users.into_iter().map(user).collect(),
            },
            MethodDocument::SignedIn => Self::signed_in(),
            MethodDocument::ServiceToken(tokens) => Self::ServiceToken {
                tokens: untexts(tokens),
            },
            MethodDocument::SignedInAs(requirement) => Self::SignedIn(Requirement {
                roles: untexts(requirement.roles),
                groups: requirement.groups,
                strength: requirement.strength.into(),
                max_age: requirement.max_age.map(|age| Duration::from_secs(age.into())),
            }),
        }
    }
}

impl From<Strength> for StrengthDocument {
    fn from(strength: Strength) -> Self {
        match strength {
            Strength::OneFactor => Self::OneFactor,
            Strength::TwoFactors => Self::TwoFactors,
            Strength::PhishingResistant => Self::PhishingResistant,
        }
    }
}

impl From<StrengthDocument> for Strength {
    fn from(document: StrengthDocument) -> Self {
        match document {
            StrengthDocument::OneFactor => Self::OneFactor,
            StrengthDocument::TwoFactors => Self::TwoFactors,
            StrengthDocument::PhishingResistant => Self::PhishingResistant,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row as the first version wrote it.
    #[test]
    fn an_older_row_is_readable_and_stays_what_it_was() {
        let old = concat!(
            r#"{"rules":[{"name":"office","when":{"all":[{"source":"192.0.2.0/24"},{"not":{"method":"POST"}},"#,
            r#"{"any":[{"path":"/a"},{"subject":"ann"}]}]},"effect":"allow"}],"#,
            r#""access":{"any_of":["signed_in",{"basic":[{"name":"ann","password_hash":"x"}]}]}}"#,
        );
        let (policy, attached) = serde_json::from_str::<PolicyDocument>(old).unwrap().into_parts();
        assert_eq!(
            (policy.rules.len(), policy.rules[0].dry_run, attached.len()),
            (1, false, 0)
        );
        assert_eq!(policy.access.methods()[0], Method::signed_in());
        let again = serde_json::to_string(&PolicyDocument::new(&policy, &attached)).unwrap();
        assert_eq!(again, old);
    }

    #[test]
    fn a_requirement_of_before_there_was_a_maximum_age_has_none() {
        let old = r#"{"signed_in_as":{"roles":[],"groups":["ops"],"strength":"two_factors"}}"#;
        let method = Method::from(serde_json::from_str::<MethodDocument>(old).unwrap());
        assert_eq!(
            serde_json::to_string(&MethodDocument::from(&method)).unwrap(),
            old
        );
        let recent = r#"{"signed_in_as":{"roles":[],"groups":[],"strength":"one_factor","max_age":600}}"#;
        let method = Method::from(serde_json::from_str::<MethodDocument>(recent).unwrap());
        assert!(
            matches!(&method, Method::SignedIn(asked) if asked.max_age == Some(Duration::from_secs(600)))
        );
        assert_eq!(
            serde_json::to_string(&MethodDocument::from(&method)).unwrap(),
            recent
        );
    }

    #[test]
    fn hours_that_cannot_be_are_no_row() {
        let row = |to: u16| {
            let time = format!(r#"{{"time":{{"days":127,"from":0,"to":{to},"offset":0}}}}"#);
            let rule = format!(r#"{{"name":"a","when":{time},"effect":"deny"}}"#);
            serde_json::from_str::<RuleDocument>(&rule)
        };
        assert!(row(1440).is_ok() && row(1441).is_err());
    }
}
