//! Would this visitor reach that, and which rule decides?

use std::{collections::BTreeMap, net::IpAddr};

use axum::{Extension, Json, extract::State};
use kakuremichi_core::{
    auth::{Identity, Principal, Strength},
    name::Label,
    policy::{Challenge, CountryCode, DecidedBy, Explanation, Outcome, Step, Truth},
    request::{CanonicalRequest, HeaderName},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    extract::Body,
    problem::Problem,
    schema,
    services::{ConditionView, EffectView, PrincipalView, StrengthView},
    text::{ServiceText, ServiceTokenText, TimeText},
};
use crate::{
    service::{Actor, FieldError, Simulated, SimulatedProof, Simulation, now},
    text::{Text, untexts},
};

/// A visitor to try, and what they ask for: a `url`, or a TCP or UDP `service`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SimulateInput {
    /// What is asked for.
    #[schema(example = "https://billing.example.net/admin")]
    #[serde(default)]
    url: Option<String>,
    /// The service, by identifier or name, if not by the host of the `url`.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    service: Option<ServiceText>,
    /// The method of the request.
    #[serde(default = "get")]
    method: String,
    /// The header fields of the request. Any other one was not sent.
    #[schema(value_type = BTreeMap<String, String>)]
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The visitor's address.
    #[schema(value_type = String, example = "203.0.113.7")]
    address: Text<IpAddr>,
    /// The country of the address; not known if left out.
    #[schema(value_type = Option<String>, example = "DE")]
    #[serde(default)]
    country: Option<Text<CountryCode>>,
    /// The autonomous system of the address; not known if left out.
    #[serde(default)]
    asn: Option<u32>,
    /// When; now if left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    at: Option<TimeText>,
    /// Who the visitor is; nobody has signed in if it is left out.
    #[serde(default)]
    visitor: Option<VisitorView>,
}

/// Who a visitor is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VisitorView {
    /// They gave the password of this user.
    Basic(String),
    /// They signed in.
    SignedIn(IdentityView),
    /// They show this service token.
    ServiceToken(ShownTokenView),
}

/// A service token that is shown.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShownTokenView {
    /// Which, by identifier or name.
    #[schema(value_type = String)]
    token: ServiceTokenText,
}

/// Somebody who signed in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityView {
    /// Who it is.
    user: PrincipalView,
    /// The roles; not known if left out.
    #[schema(value_type = Option<Vec<schema::Name>>)]
    #[serde(default)]
    roles: Option<Vec<Text<Label>>>,
    /// The groups; not known if left out.
    #[serde(default)]
    groups: Option<Vec<String>>,
    /// How strongly they signed in.
    #[serde(default)]
    strength: StrengthView,
    /// When they signed in, or confirmed it; not known if left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    authenticated_at: Option<TimeText>,
}

/// What would happen to the visitor.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SimulateView {
    /// The service.
    service: String,
    /// The route.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    /// What is decided.
    decision: DecisionView,
    /// Why, in a sentence.
    reason: String,
    /// The rule that decided, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<RuleRefView>,
    /// Each rule that was looked at, in order.
    trail: Vec<StepView>,
}

/// What is decided.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DecisionView {
    /// The visitor passes.
    Permit,
    /// The visitor has to prove something first.
    Challenge,
    /// The visitor is denied.
    Deny,
    /// The service has no route for the path.
    NoRoute,
}

/// A rule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RuleRefView {
    /// Its name.
    name: String,
    /// The shared policy that it is of; none when it is the service's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
}

/// A rule that was looked at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StepView {
    /// The rule.
    rule: RuleRefView,
    /// What it does.
    effect: EffectView,
    /// It is only tried out.
    dry_run: bool,
    /// It is only tried out, and would have acted.
    would_have_acted: bool,
    /// Whether its condition holds.
    holds: HoldsView,
    /// The part of the condition that decided that.
    part: ConditionView,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HoldsView {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be told: something is not known.
    Unknown,
}

fn get() -> String {
    "GET".to_owned()
}

/// Says whether a visitor would reach something, and which rule decides, by the function that gateways run. An
/// authorizer that is built into a gateway is not asked.
#[utoipa::path(post, path = "/api/v1/simulate", tag = "policies", request_body = SimulateInput,
    responses((status = 200, body = SimulateView), (status = 400, body = Problem), (status = 401, body = Problem),
              (status = 404, body = Problem)))]
pub(super) async fn simulate(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Body(input): Body<SimulateInput>,
) -> Result<Json<SimulateView>, Problem> {
    let simulated = app.use_cases.simulate(&actor, input.try_into()?).await?;
    Ok(Json(view(&simulated)))
}

fn wrong(field: &str, message: impl ToString) -> Problem {
    Problem::fields(vec![FieldError::new(field, message)])
}

impl TryFrom<SimulateInput> for Simulation {
    type Error = Problem;

    fn try_from(input: SimulateInput) -> Result<Self, Problem> {
        let request = input
            .url
            .as_deref()
            .map(|url| request(&input.method, url, &input.headers))
            .transpose()?;
        Ok(Self {
            service: input.service.map(|service| service.0.0),
            request,
            now: input.at.as_ref().map_or_else(now, TimeText::timestamp),
            source: input.address.0.to_canonical(),
            country: input.country.map(|country| country.0),
            asn: input.asn,
            proof: input.visitor.map(Into::into),
        })
    }
}

impl From<VisitorView> for SimulatedProof {
    fn from(view: VisitorView) -> Self {
        let visitor = match view {
            VisitorView::Basic(name) => return Self::Basic(name),
            VisitorView::ServiceToken(shown) => return Self::ServiceToken(shown.token.0.0),
            VisitorView::SignedIn(visitor) => visitor,
        };
        let principal = Principal::new(visitor.user.authority, visitor.user.subject);
        let mut identity = Identity::new(principal).with_strength(visitor.strength.into());
        if let Some(at) = &visitor.authenticated_at {
            identity = identity.with_authenticated(at.timestamp());
        }
        if let Some(roles) = visitor.roles {
            identity = identity.with_roles(untexts(roles));
        }
        if let Some(groups) = visitor.groups {
            identity = identity.with_groups(groups);
        }
        Self::SignedIn(identity)
    }
}

/// Reads a URL as a gateway reads the request for it.
fn request(method: &str, url: &str, headers: &BTreeMap<String, String>) -> Result<CanonicalRequest, Problem> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
        .ok_or_else(|| wrong("url", "a URL starts with `https://`"))?;
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let target = match target {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        target => target.to_owned(),
    };
    let mut request =
        CanonicalRequest::parse(method, authority, &target).map_err(|error| wrong("url", error))?;
    for (name, value) in headers {
        let name: HeaderName = name
            .parse()
            .map_err(|error| wrong(&format!("headers.{name}"), error))?;
        request = request.note(name, [value.as_bytes()]);
    }
    Ok(request)
}

fn view(simulated: &Simulated) -> SimulateView {
    let service = simulated.service.name.to_string();
    let Some(explanation) = &simulated.explanation else {
        return SimulateView {
            service,
            route: None,
            decision: DecisionView::NoRoute,
            reason: "the service has no route for this path".to_owned(),
            rule: None,
            trail: Vec::new(),
        };
    };
    let policy = |id| {
        let name = simulated.policies.iter().find(|policy| policy.id == id);
        name.map(|policy| policy.name.to_string())
    };
    let step = |step: &Step| StepView {
        rule: RuleRefView {
            name: step.rule.to_string(),
            policy: step.policy.and_then(policy),
        },
        effect: step.effect.into(),
        dry_run: step.dry_run,
        would_have_acted: step.would_have_acted(),
        holds: match step.truth {
            Truth::True => HoldsView::True,
            Truth::False => HoldsView::False,
            Truth::Unknown(_) => HoldsView::Unknown,
        },
        part: (&step.part).into(),
    };
    SimulateView {
        service,
        route: simulated.route.as_ref().map(|route| route.path.to_string()),
        decision: match explanation.outcome {
            Outcome::Permit { .. } => DecisionView::Permit,
            Outcome::Challenge(_) => DecisionView::Challenge,
            Outcome::Deny(_) => DecisionView::Deny,
        },
        reason: reason(explanation),
        rule: match &explanation.by {
            DecidedBy::Rule { policy: of, rule } => Some(RuleRefView {
                name: rule.to_string(),
                policy: of.and_then(policy),
            }),
            DecidedBy::Access | DecidedBy::Authorizer => None,
        },
        trail: explanation.trail.iter().map(step).collect(),
    }
}

/// How somebody has to sign in.
fn sign_in(challenge: &Challenge) -> String {
    let strength = match challenge.strength {
        Strength::OneFactor => "",
        Strength::TwoFactors => " with two factors",
        Strength::PhishingResistant => " with a passkey",
    };
    match challenge.max_age {
        None => format!("to sign in{strength}"),
        Some(age) => format!(
            "to sign in{strength}, no longer than {} minutes ago",
            age.as_secs() / 60
        ),
    }
}

fn reason(explanation: &Explanation) -> String {
    match (&explanation.outcome, &explanation.by) {
        (Outcome::Deny(denial), _) => denial.to_string(),
        (Outcome::Permit { .. }, DecidedBy::Rule { rule, .. }) => format!("the rule {rule} allows"),
        (Outcome::Permit { principal: Some(_) }, _) => {
            "no rule decides, and the visitor has proven what is asked for".to_owned()
        }
        (Outcome::Permit { principal: None }, _) => "no rule decides, and everybody passes".to_owned(),
        (Outcome::Challenge(challenge), by) => {
            let ways = [
                (challenge.basic, "to give a password".to_owned()),
                (challenge.service_token, "to show a service token".to_owned()),
                (challenge.signed_in, sign_in(challenge)),
            ];
            let ways = ways.into_iter().filter(|(asked, _)| *asked).map(|(_, way)| way);
            let ways = ways.collect::<Vec<_>>().join(" or ");
            match (&explanation.instead_of, by) {
                (Some(denial), _) => format!("the visitor is asked {ways}: as they signed in, {denial}"),
                (None, DecidedBy::Rule { rule, .. }) => {
                    format!("the visitor is asked {ways}: the rule {rule} wants to know")
                }
                (None, DecidedBy::Access | DecidedBy::Authorizer) => format!("the visitor is asked {ways}"),
            }
        }
    }
}
