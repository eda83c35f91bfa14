//! Which services of a list are wanted.

use kakuremichi_core::{
    id::{AgentId, PolicyId, SiteId},
    model::{Service, ServiceKind, TargetPlace},
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    api::{
        filter::{Filter, Parameters, Search, holds},
        schema,
    },
    text::Text,
};

/// What a service publishes.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KindName {
    /// HTTP.
    Http,
    /// Raw TCP.
    Tcp,
    /// Datagrams.
    Udp,
}

impl KindName {
    const fn is_of(self, kind: &ServiceKind) -> bool {
        matches!(
            (self, kind),
            (Self::Http, ServiceKind::Http { .. })
                | (Self::Tcp, ServiceKind::Tcp { .. })
                | (Self::Udp, ServiceKind::Udp { .. })
        )
    }
}

/// Which services are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ServiceFilter {
    /// Only those of which the name or a host contains this, whatever its case: 1 to 100 characters.
    #[param(inline, value_type = Option<schema::Search>)]
    search: Option<Text<Search>>,
    /// Only those of this kind: `http`, `tcp` or `udp`.
    #[param(inline)]
    kind: Option<KindName>,
    /// Only those with a target that this agent reaches, by its identifier.
    #[param(inline, value_type = Option<schema::AgentId>)]
    agent: Option<Text<AgentId>>,
    /// Only those with a target behind this site, by its identifier.
    #[param(inline, value_type = Option<schema::SiteId>)]
    site: Option<Text<SiteId>>,
    /// Only those that have this shared policy attached, by its identifier.
    #[param(inline, value_type = Option<schema::PolicyId>)]
    policy: Option<Text<PolicyId>>,
}

impl Parameters for ServiceFilter {
    const NAMES: &'static [&'static str] = &["search", "kind", "agent", "site", "policy"];
}

impl Filter<Service> for ServiceFilter {
    fn admits(&self, service: &Service) -> bool {
        let places = || service.targets().map(|target| &target.place);
        holds(self.search.as_ref(), |search| {
            let hosts = match &service.kind {
                ServiceKind::Http { hosts, .. } => hosts.iter().map(ToString::to_string).collect(),
                ServiceKind::Tcp { .. } | ServiceKind::Udp { .. } => Vec::new(),
            };
            search
                .0
                .finds(hosts.iter().map(String::as_str).chain([service.name.as_str()]))
        }) && holds(self.kind.as_ref(), |kind| kind.is_of(&service.kind))
            && holds(self.agent.as_ref(), |wanted| {
                places().any(|place| matches!(place, TargetPlace::Agent { agent, .. } if *agent == wanted.0))
            })
            && holds(self.site.as_ref(), |wanted| {
                places().any(|place| matches!(place, TargetPlace::Site { site, .. } if *site == wanted.0))
            })
            && holds(self.policy.as_ref(), |wanted| {
                service.attached().contains(&wanted.0)
            })
    }
}
