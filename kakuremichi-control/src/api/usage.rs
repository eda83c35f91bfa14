//! Usage over time.

use std::{collections::BTreeMap, time::Duration};

use axum::{Extension, Json, extract::State};
use kakuremichi_core::{
    id::ServiceId,
    store::{UsageCounts, UsageGroup, UsageLevel, UsageOf},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{App, audit::Asked, problem::Problem, schema, text::TimeText};
use crate::{
    service::{Actor, UsageWish, now},
    text::Text,
};

/// How far an answer goes back if the caller does not say.
const USUAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Which usage.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageFilter {
    /// What it is told apart by: `service`, `gateway` or `agent`; all together when left out.
    #[param(inline)]
    group_by: Option<GroupBy>,
    /// The length of a step: `minute` (kept for 2 days), `hour` (usual; 62 days) or `day` (UTC; 800 days).
    #[serde(default)]
    #[param(inline)]
    step: Step,
    /// From the step of this time on; usually a day before `to`.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<TimeText>,
    /// To before this time; usually now.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<TimeText>,
    /// Only of this service.
    #[param(inline, value_type = Option<schema::ServiceId>)]
    service: Option<Text<ServiceId>>,
}

/// What usage is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GroupBy {
    /// By service.
    Service,
    /// By gateway.
    Gateway,
    /// By agent, as the agents count what comes to them: the other end of the same traffic.
    Agent,
}

/// The length of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// A minute.
    Minute,
    /// An hour.
    #[default]
    Hour,
    /// A day (UTC).
    Day,
}

/// Usage over time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageSeriesView {
    /// The sums of the points, one for each service, gateway or agent.
    totals: Vec<UsageTotalView>,
    /// What was used in each step, in the order of the steps. Steps in which nothing was have no point.
    points: Vec<UsagePointView>,
}

/// What was used in a step.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsagePointView {
    /// When the step begins.
    #[schema(value_type = String, format = DateTime)]
    start: TimeText,
    /// What was used.
    #[serde(flatten)]
    total: UsageTotalView,
}

/// What was used.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct UsageTotalView {
    /// The service, the gateway or the agent. Absent for all together, and for services that were gone when it
    /// was reported, or that a node could not tell apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Connections of visitors.
    connections: u64,
    /// HTTP requests.
    requests: u64,
    /// Bytes from visitors to targets.
    bytes_in: u64,
    /// Bytes from targets to visitors.
    bytes_out: u64,
}

/// Reads what was used over time.
#[utoipa::path(get, path = "/api/v1/usage", tag = "usage", params(UsageFilter),
    responses((status = 200, body = UsageSeriesView), (status = 400, body = Problem),
              (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Extension(actor): Extension<Actor>,
    Asked(filter): Asked<UsageFilter>,
) -> Result<Json<UsageSeriesView>, Problem> {
    let points = app.use_cases.usage_over_time(&actor, filter.into()).await?;
    let mut totals: BTreeMap<UsageOf, UsageCounts> = BTreeMap::new();
    for point in &points {
        let total = totals.entry(point.of).or_default();
        *total = total.plus(point.counts);
    }
    let points = points.into_iter().map(|point| UsagePointView {
        start: point.start.into(),
        total: view(point.of, point.counts),
    });
    Ok(Json(UsageSeriesView {
        totals: totals.into_iter().map(|(of, counts)| view(of, counts)).collect(),
        points: points.collect(),
    }))
}

fn view(of: UsageOf, counts: UsageCounts) -> UsageTotalView {
    UsageTotalView {
        id: match of {
            UsageOf::Whole | UsageOf::Service(None) => None,
            UsageOf::Service(Some(service)) => Some(service.to_string()),
            UsageOf::Node(node) => Some(node.to_string()),
        },
        connections: counts.connections,
        requests: counts.requests,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
    }
}

impl From<UsageFilter> for UsageWish {
    fn from(filter: UsageFilter) -> Self {
        let to = filter.to.map_or_else(now, |to| to.timestamp());
        let usual = || {
            Timestamp::from_millis(
                to.as_millis()
                    .saturating_sub(USUAL.as_secs().cast_signed() * 1000),
            )
        };
        Self {
            level: match filter.step {
                Step::Minute => UsageLevel::Minute,
                Step::Hour => UsageLevel::Hour,
                Step::Day => UsageLevel::Day,
            },
            from: filter.from.map_or_else(usual, |from| from.timestamp()),
            to,
            group: match filter.group_by {
                None => UsageGroup::Whole,
                Some(GroupBy::Service) => UsageGroup::Service,
                Some(GroupBy::Gateway) => UsageGroup::Gateway,
                Some(GroupBy::Agent) => UsageGroup::Agent,
            },
            service: filter.service.map(|service| service.0),
        }
    }
}
