//! Who may reach a service.

mod condition;

use std::time::Duration;

pub(crate) use condition::{ConditionView, PrincipalView, StrengthView};

use kakuremichi_core::{
    name::Label,
    policy::{Access, Effect, MAX_RULES, Method, Policy, Requirement, Rule},
    secret::Secret,
};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    api::{
        problem::Problem,
        schema,
        text::{Named, ServiceTokenText},
    },
    service::{AccessDraft, FieldError, MethodDraft, PasswordDraft, PolicyDraft, Reference, UserDraft},
    text::{Text, texts, untexts},
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
    /// They pass once they have proven themselves by each of these.
    AllOf(Vec<MethodView>),
}

/// A way to prove who one is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MethodView {
    /// Name and password by HTTP Basic authentication.
    Basic(BasicView),
    /// Whoever has signed in at Control, or is proven by the gateway's authenticator.
    SignedIn,
    /// Whoever has signed in so, and meets this.
    SignedInAs(RequirementView),
    /// A service token, which a program shows in `Authorization: Bearer` or `X-Kakuremichi-Service-Token`.
    ServiceToken(ServiceTokensView),
}

/// Which service tokens.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServiceTokensView {
    /// These, by identifier or name; any of the organization's if none is given.
    #[schema(value_type = Vec<String>)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<ServiceTokenText>,
}

/// What somebody who signed in must be, too.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequirementView {
    /// One of these roles, if any are given.
    #[schema(value_type = Vec<schema::Name>)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roles: Vec<Text<Label>>,
    /// In one of these groups, if any are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    /// At least this strongly proven.
    #[serde(default)]
    strength: StrengthView,
    /// How long ago they may have signed in, or confirmed that it is them, in seconds; any time if left out. What is
    /// open is closed when it is over.
    #[schema(minimum = 300, maximum = 86400)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age: Option<u32>,
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
    #[serde(default, skip_serializing_if = "is_secret", serialize_with = "nothing")]
    password: Option<Password>,
    /// In place of the password: its Argon2id hash in PHC string format. It is never shown.
    #[schema(write_only)]
    #[serde(default, skip_serializing_if = "is_secret", serialize_with = "nothing")]
    password_hash: Option<String>,
}

/// Says of a field that it is never shown. What serde skips altogether would not be in the API's document either.
const fn is_secret<T>(_: &T) -> bool {
    true
}

/// Writes nothing, in the place of a field that is never shown.
fn nothing<T, S: Serializer>(_: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_none()
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
    #[schema(value_type = schema::Name, example = "office")]
    name: Text<Label>,
    /// When it holds.
    when: ConditionView,
    /// What it does.
    effect: EffectView,
    /// It is only tried out: what it would do is logged and shown by the simulator, and not done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EffectView {
    /// The visitor passes, without proving anything.
    Allow,
    /// The visitor is denied.
    Deny,
    /// The visitor goes on to the methods, past all rules behind this one.
    Continue,
}

impl TryFrom<PolicyView> for PolicyDraft {
    type Error = Problem;

    fn try_from(view: PolicyView) -> Result<Self, Problem> {
        Ok(Self {
            rules: rules(view.rules, "policy.rules")?,
            access: view.access.draft("policy.access")?,
        })
    }
}

/// Reads the rules at the field `at`.
pub(crate) fn rules(views: Vec<RuleView>, at: &str) -> Result<Vec<Rule>, Problem> {
    let wrong = |field: String, message: String| Problem::fields(vec![FieldError::new(field, message)]);
    if views.len() > MAX_RULES {
        return Err(wrong(at.to_owned(), format!("at most {MAX_RULES} rules")));
    }
    let rule = |(index, rule): (usize, RuleView)| {
        let when = rule.when.try_into();
        Ok(Rule {
            name: rule.name.0,
            when: when.map_err(|error: String| wrong(format!("{at}[{index}].when"), error))?,
            effect: match rule.effect {
                EffectView::Allow => Effect::Allow,
                EffectView::Deny => Effect::Deny,
                EffectView::Continue => Effect::Continue,
            },
            dry_run: rule.dry_run,
        })
    };
    views.into_iter().enumerate().map(rule).collect()
}

impl AccessView {
    /// Reads what is at the field `at`.
    pub(crate) fn draft(self, at: &str) -> Result<AccessDraft, Problem> {
        let all = |methods: Vec<MethodView>, name: &str| {
            let methods = methods.into_iter().enumerate();
            methods
                .map(|(index, method)| draft(&format!("{at}.{name}[{index}]"), method))
                .collect::<Result<_, _>>()
        };
        Ok(match self {
            Self::Deny => AccessDraft::Deny,
            Self::Public => AccessDraft::Public,
            Self::AnyOf(methods) => AccessDraft::AnyOf(all(methods, "any_of")?),
            Self::AllOf(methods) => AccessDraft::AllOf(all(methods, "all_of")?),
        })
    }
}

fn draft(method: &str, view: MethodView) -> Result<MethodDraft, Problem> {
    let basic = match view {
        MethodView::Basic(basic) => basic,
        MethodView::SignedIn => return Ok(MethodDraft::SignedIn(Requirement::default())),
        MethodView::ServiceToken(view) => {
            let tokens = view.tokens.into_iter().map(|token| token.0.0);
            return Ok(MethodDraft::ServiceToken(tokens.collect()));
        }
        MethodView::SignedInAs(requirement) => {
            return Ok(MethodDraft::SignedIn(Requirement {
                roles: untexts(requirement.roles),
                groups: requirement.groups,
                strength: requirement.strength.into(),
                max_age: requirement.max_age.map(|age| Duration::from_secs(age.into())),
            }));
        }
    };
    let user = |(index, user): (usize, UserView)| {
        let password = match (user.password, user.password_hash) {
            (Some(Password(password)), None) => PasswordDraft::Plain(password),
            (None, Some(hash)) => PasswordDraft::Hash(hash),
            (None, None) => PasswordDraft::Keep,
            (Some(_), Some(_)) => {
                let at = format!("{method}.basic.users[{index}].password");
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

impl From<&Policy> for PolicyView {
    fn from(policy: &Policy) -> Self {
        Self {
            rules: policy.rules.iter().map(Into::into).collect(),
            access: (&policy.access).into(),
        }
    }
}

impl From<&Rule> for RuleView {
    fn from(rule: &Rule) -> Self {
        Self {
            name: Text(rule.name.clone()),
            when: (&rule.when).into(),
            effect: rule.effect.into(),
            dry_run: rule.dry_run,
        }
    }
}

impl From<Effect> for EffectView {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Allow => Self::Allow,
            Effect::Deny => Self::Deny,
            Effect::Continue => Self::Continue,
        }
    }
}

impl From<&Access> for AccessView {
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

impl From<&Method> for MethodView {
    fn from(method: &Method) -> Self {
        match method {
            Method::SignedIn(requirement) if *requirement == Requirement::default() => Self::SignedIn,
            Method::SignedIn(requirement) => Self::SignedInAs(RequirementView {
                roles: texts(&requirement.roles),
                groups: requirement.groups.clone(),
                strength: requirement.strength.into(),
                // One that is valid fits.
                max_age: requirement.max_age.and_then(|age| age.as_secs().try_into().ok()),
            }),
            Method::ServiceToken { tokens } => Self::ServiceToken(ServiceTokensView {
                tokens: tokens
                    .iter()
                    .map(|id| ServiceTokenText(Named(Reference::Id(*id))))
                    .collect(),
            }),
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
