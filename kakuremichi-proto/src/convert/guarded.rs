//! Shared policies, and the services to which they are attached.

use kakuremichi_core::{
    id::{PolicyId, RouteId},
    model::MAX_ROUTES,
    plan::{GatewayPolicy, GatewayService, PlannedKind, PlannedRoute},
    policy::{Access, MAX_ATTACHED, Rule},
};

use super::{Cause, Invalid, list};
use crate::{codec::List, plan::record};

type Policies = List<[u8; 16], MAX_ATTACHED>;
type RoutePolicies = List<record::GatewayRoutePolicies, MAX_ROUTES>;

/// Whether a policy is attached to the service, or to one of its routes.
pub(super) fn is_guarded(service: &GatewayService) -> bool {
    !service.policies.is_empty() || routes(service).iter().any(|route| !route.policies.is_empty())
}

fn routes(service: &GatewayService) -> &[PlannedRoute] {
    match &service.kind {
        PlannedKind::Http { routes, .. } => routes,
        PlannedKind::Tcp { .. } | PlannedKind::Udp { .. } => &[],
    }
}

fn write(policies: &[PolicyId]) -> Result<Policies, Invalid> {
    list(policies, "policies", |policy| Ok(*policy.as_bytes()))
}

fn read(policies: &Policies) -> Vec<PolicyId> {
    let policies = policies.as_slice().iter();
    policies.map(|policy| PolicyId::from_bytes(*policy)).collect()
}

/// The policies that are attached to a service, and those that are to its routes.
pub(super) fn attached(service: &GatewayService) -> Result<(Policies, RoutePolicies), Invalid> {
    let of_routes = routes(service).iter().filter(|route| !route.policies.is_empty());
    let of_routes: Vec<_> = of_routes.collect();
    let routes = list(&of_routes, "routes", |route| {
        Ok(record::GatewayRoutePolicies {
            route: *route.id.as_bytes(),
            policies: write(&route.policies)?,
        })
    })?;
    Ok((write(&service.policies)?, routes))
}

/// Attaches them.
pub(super) fn attach(
    service: &mut GatewayService,
    policies: &Policies,
    of_routes: &RoutePolicies,
) -> Result<(), Invalid> {
    service.policies = read(policies);
    for of_route in of_routes.as_slice() {
        let id = RouteId::from_bytes(of_route.route);
        // A policy of a route that is not there must not be forgotten: it may be a misnamed one.
        let route = match &mut service.kind {
            PlannedKind::Http { routes, .. } => routes.iter_mut().find(|route| route.id == id),
            PlannedKind::Tcp { .. } | PlannedKind::Udp { .. } => None,
        };
        let route = route.ok_or_else(|| Invalid::mismatch("routes"))?;
        route.policies = read(&of_route.policies);
    }
    Ok(())
}

impl TryFrom<&GatewayService> for record::GatewayGuardedService {
    type Error = Invalid;

    fn try_from(service: &GatewayService) -> Result<Self, Invalid> {
        let (policies, routes) = attached(service)?;
        Ok(Self {
            service: service.try_into()?,
            policies,
            routes,
        })
    }
}

impl TryFrom<record::GatewayGuardedService> for GatewayService {
    type Error = Invalid;

    fn try_from(guarded: record::GatewayGuardedService) -> Result<Self, Invalid> {
        let mut service = match guarded.service {
            record::GatewayAnyService::Stream(service) => Self::try_from(service)?,
            record::GatewayAnyService::Datagram(service) => Self::try_from(service)?,
        };
        attach(&mut service, &guarded.policies, &guarded.routes)?;
        if !is_guarded(&service) {
            return Err(Invalid::new("policies", Cause::Empty));
        }
        Ok(service)
    }
}

impl TryFrom<&GatewayPolicy> for record::GatewayPolicy {
    type Error = Invalid;

    fn try_from(policy: &GatewayPolicy) -> Result<Self, Invalid> {
        Ok(Self {
            id: *policy.id.as_bytes(),
            rules: list(&policy.rules, "rules", |rule| rule.try_into())?,
            access: policy.access.as_ref().map(TryInto::try_into).transpose()?,
        })
    }
}

impl TryFrom<record::GatewayPolicy> for GatewayPolicy {
    type Error = Invalid;

    fn try_from(policy: record::GatewayPolicy) -> Result<Self, Invalid> {
        let rules = policy.rules.into_vec().into_iter().map(Rule::try_from);
        Ok(Self {
            id: PolicyId::from_bytes(policy.id),
            rules: rules.collect::<Result<_, _>>()?,
            access: policy.access.map(Access::try_from).transpose()?,
        })
    }
}
