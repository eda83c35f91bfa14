//! Who may reach a service.

use kakuremichi_core::{
    name::{Label, PathPattern},
    net::Cidr,
    policy::{Access, Condition, Effect, MAX_RULES, Method, Policy, Rule},
    secret::Secret,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::problem::Problem,
    service::{AccessDraft, FieldError, MethodDraft, PasswordDraft, PolicyDraft, UserDraft},
    text::Text,
};

/// Who may reach a service: rules first, in order; then, for whom no rule decided, the access.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PolicyView {
    /// The rules; the first whose condition holds decides.
    rules: Vec<RuleView>,
    /// What is asked of visitors for whom no rule decided.
    access: AccessView,
}

/// What is asked of visitors for whom no rule decided.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AccessView {
    /// They are denied.
    #[default]
    Deny,
    /// They pass.
    Public,
    /// They pass once they have proven themselves by one of these.
    AnyOf(Vec<MethodView>),
}

/// A way to prove who one is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MethodView {
    /// Name and password by HTTP Basic authentication.
    Basic(BasicView),
    /// Any principal that the gateway's authenticator proves.
    SignedIn,
}

/// Names and passwords.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BasicView {
    /// Who may pass.
    users: Vec<UserView>,
}

/// A name and a password. In an update, a user without either form of it keeps the password that is stored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserView {
    /// The name.
    #[schema(example = "alice")]
    name: String,
    /// The password; Control stores its Argon2id hash. It is never shown.
    #[schema(write_only, value_type = Option<String>)]
    #[serde(default, skip_serializing)]
    password: Option<Password>,
    /// In place of the password: its Argon2id hash in PHC string format. It is never shown.
    #[schema(write_only)]
    #[serde(default, skip_serializing)]
    password_hash: Option<String>,
}

/// A password on its way in.
#[derive(Debug)]
pub(crate) struct Password(Secret<String>);

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

/// A rule.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleView {
    /// Its name, for logs.
    #[schema(value_type = String, example = "office")]
    name: Text<Label>,
    /// When it holds.
    when: ConditionView,
    /// What it does.
    effect: EffectView,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EffectView {
    /// The visitor passes, without proving anything.
    Allow,
    /// The visitor is denied.
    Deny,
}

/// A condition over what is known of a visitor and the request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConditionView {
    /// All of them hold.
    #[schema(no_recursion)]
    All(Vec<Self>),
    /// One of them holds.
    #[schema(no_recursion)]
    Any(Vec<Self>),
    /// The other does not hold.
    #[schema(no_recursion)]
    Not(Box<Self>),
    /// The path matches: with all below it; with `=` before it, only the path itself.
    #[schema(value_type = String)]
    Path(Text<PathPattern>),
    /// The method is this one.
    Method(String),
    /// The visitor's address lies in the network.
    #[schema(value_type = String)]
    Source(Text<Cidr>),
    /// The visitor has proven to be this subject.
    Subject(String),
}

impl TryFrom<PolicyView> for PolicyDraft {
    type Error = Problem;

    fn try_from(view: PolicyView) -> Result<Self, Problem> {
        if view.rules.len() > MAX_RULES {
            let error = FieldError::new("policy.rules", format!("at most {MAX_RULES} rules"));
            return Err(Problem::fields(vec![error]));
        }
        let rules = view.rules.into_iter().map(|rule| Rule {
            name: rule.name.0,
            when: rule.when.into(),
            effect: match rule.effect {
                EffectView::Allow => Effect::Allow,
                EffectView::Deny => Effect::Deny,
            },
        });
        Ok(Self {
            rules: rules.collect(),
            access: match view.access {
                AccessView::Deny => AccessDraft::Deny,
                AccessView::Public => AccessDraft::Public,
                AccessView::AnyOf(methods) => {
                    let methods = methods.into_iter().enumerate();
                    AccessDraft::AnyOf(
                        methods
                            .map(|(index, method)| draft(index, method))
                            .collect::<Result<_, _>>()?,
                    )
                }
            },
        })
    }
}

fn draft(method: usize, view: MethodView) -> Result<MethodDraft, Problem> {
    let MethodView::Basic(basic) = view else {
        return Ok(MethodDraft::SignedIn);
    };
    let user = |(index, user): (usize, UserView)| {
        let password = match (user.password, user.password_hash) {
            (Some(Password(password)), None) => PasswordDraft::Plain(password),
            (None, Some(hash)) => PasswordDraft::Hash(hash),
            (None, None) => PasswordDraft::Keep,
            (Some(_), Some(_)) => {
                let at = format!("policy.access.any_of[{method}].basic.users[{index}].password");
                let error = FieldError::new(at, "give either `password` or `password_hash`");
                return Err(Problem::fields(vec![error]));
            }
        };
        Ok(UserDraft {
            name: user.name,
            password,
        })
    };
    let users = basic.users.into_iter().enumerate().map(user);
    Ok(MethodDraft::Basic(users.collect::<Result<_, _>>()?))
}

impl From<ConditionView> for Condition {
    /// JSON is read at most 128 deep, so this recursion is bounded; how deep a condition may be, the policy
    /// itself checks.
    fn from(view: ConditionView) -> Self {
        let all = |parts: Vec<ConditionView>| parts.into_iter().map(Into::into).collect();
        match view {
            ConditionView::All(parts) => Self::All(all(parts)),
            ConditionView::Any(parts) => Self::Any(all(parts)),
            ConditionView::Not(part) => Self::Not(Box::new((*part).into())),
            ConditionView::Path(path) => Self::Path(path.0),
            ConditionView::Method(method) => Self::Method(method),
            ConditionView::Source(network) => Self::Source(network.0),
            ConditionView::Subject(name) => Self::Subject(name),
        }
    }
}

impl From<&Policy> for PolicyView {
    fn from(policy: &Policy) -> Self {
        let rules = policy.rules.iter().map(|rule| RuleView {
            name: Text(rule.name.clone()),
            when: (&rule.when).into(),
            effect: match rule.effect {
                Effect::Allow => EffectView::Allow,
                Effect::Deny => EffectView::Deny,
            },
        });
        Self {
            rules: rules.collect(),
            access: match &policy.access {
                Access::Deny => AccessView::Deny,
                Access::Public => AccessView::Public,
                Access::AnyOf(methods) => AccessView::AnyOf(methods.iter().map(Into::into).collect()),
            },
        }
    }
}

impl From<&Method> for MethodView {
    fn from(method: &Method) -> Self {
        match method {
            Method::SignedIn => Self::SignedIn,
            Method::Basic { users } => {
                let users = users.iter().map(|user| UserView {
                    name: user.name.clone(),
                    password: None,
                    password_hash: None,
                });
                Self::Basic(BasicView {
                    users: users.collect(),
                })
            }
        }
    }
}

impl From<&Condition> for ConditionView {
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
