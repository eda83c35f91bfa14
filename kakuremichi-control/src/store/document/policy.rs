//! Policies.

use kakuremichi_core::{
    name::{Label, PathPattern},
    net::Cidr,
    policy::{Access, BasicUser, Condition, Effect, Method, Policy, Rule},
};
use serde::{Deserialize, Serialize};

use crate::text::Text;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct PolicyDocument {
    rules: Vec<RuleDocument>,
    access: AccessDocument,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDocument {
    name: Text<Label>,
    when: ConditionDocument,
    effect: EffectDocument,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EffectDocument {
    Allow,
    Deny,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ConditionDocument {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Path(Text<PathPattern>),
    Method(String),
    Source(Text<Cidr>),
    Subject(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AccessDocument {
    Deny,
    Public,
    AnyOf(Vec<MethodDocument>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MethodDocument {
    Basic(Vec<UserDocument>),
    SignedIn,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserDocument {
    name: String,
    password_hash: String,
}

impl From<&Policy> for PolicyDocument {
    fn from(policy: &Policy) -> Self {
        let rule = |rule: &Rule| RuleDocument {
            name: Text(rule.name.clone()),
            when: (&rule.when).into(),
            effect: match rule.effect {
                Effect::Allow => EffectDocument::Allow,
                Effect::Deny => EffectDocument::Deny,
            },
        };
        Self {
            rules: policy.rules.iter().map(rule).collect(),
            access: match &policy.access {
                Access::Deny => AccessDocument::Deny,
                Access::Public => AccessDocument::Public,
                Access::AnyOf(methods) => AccessDocument::AnyOf(methods.iter().map(Into::into).collect()),
            },
        }
    }
}

impl From<PolicyDocument> for Policy {
    fn from(document: PolicyDocument) -> Self {
        let rule = |rule: RuleDocument| Rule {
            name: rule.name.0,
            when: rule.when.into(),
            effect: match rule.effect {
                EffectDocument::Allow => Effect::Allow,
                EffectDocument::Deny => Effect::Deny,
            },
        };
        Self {
            rules: document.rules.into_iter().map(rule).collect(),
            access: match document.access {
                AccessDocument::Deny => Access::Deny,
                AccessDocument::Public => Access::Public,
                AccessDocument::AnyOf(methods) => {
                    Access::AnyOf(methods.into_iter().map(Into::into).collect())
                }
            },
        }
    }
}

impl From<&Condition> for ConditionDocument {
    fn from(condition: &Condition) -> Self {
        let all = |parts: &[Condition]| parts.iter().map(Into::into).collect();
        match condition {
            Condition::All(parts) => Self::All(all(parts)),
            Condition::Any(parts) => Self::Any(all(parts)),
            Condition::Not(part) => Self::Not(Box::new((&**part).into())),
            Condition::Path(path) => Self::Path(Text(path.clone())),
            Condition::Method(method) => Self::Method(method.clone()),
            Condition::Source(network) => Self::Source(Text(*network)),
            Condition::Subject(name) => Self::Subject(name.clone()),
        }
    }
}

impl From<ConditionDocument> for Condition {
    fn from(document: ConditionDocument) -> Self {
        let all = |parts: Vec<ConditionDocument>| parts.into_iter().map(Into::into).collect();
        match document {
            ConditionDocument::All(parts) => Self::All(all(parts)),
            ConditionDocument::Any(parts) => Self::Any(all(parts)),
            ConditionDocument::Not(part) => Self::Not(Box::new((*part).into())),
            ConditionDocument::Path(path) => Self::Path(path.0),
            ConditionDocument::Method(method) => Self::Method(method),
            ConditionDocument::Source(network) => Self::Source(network.0),
            ConditionDocument::Subject(name) => Self::Subject(name),
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
            Method::SignedIn => Self::SignedIn,
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
            MethodDocument::SignedIn => Self::SignedIn,
        }
    }
}
