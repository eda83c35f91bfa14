//! Policies that services and routes share.

use std::{collections::BTreeMap, sync::Arc};

use super::{Access, CompiledPolicy, Policy, PolicyError, Rule, compiled::RuleList, validate_rules};
use crate::{
    id::{OrganizationId, PolicyId},
    name::Label,
    time::Timestamp,
};

/// The most policies that are attached to one service, or to one route.
pub const MAX_ATTACHED: usize = 16;

/// A policy with a name, for any number of services and routes of its organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPolicy {
    /// Its identifier.
    pub id: PolicyId,
    /// The owner.
    pub organization: OrganizationId,
    /// Its name, unique in the organization.
    pub name: Label,
    /// The rules.
    pub rules: Vec<Rule>,
    /// What is asked of visitors for whom no rule decides; none leaves that to whatever it is attached to.
    pub access: Option<Access>,
    /// When it was made.
    pub created: Timestamp,
}

impl SharedPolicy {
    /// Checks the bounds.
    ///
    /// # Errors
    /// As for [`Policy::validate`].
    pub fn validate(&self) -> Result<(), PolicyError> {
        validate_rules(&self.rules)?;
        self.access.iter().try_for_each(Access::validate)
    }
}

/// A policy is attached that nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the attached policy {0} is not there")]
pub struct UnknownPolicy(pub PolicyId);

/// Shared policies, compiled, of which the policies of services and routes are put together.
#[derive(Debug, Clone, Default)]
pub struct PolicySet(BTreeMap<PolicyId, Shared>);

#[derive(Debug, Clone)]
struct Shared {
    rules: Arc<RuleList>,
    access: Option<Arc<Access>>,
}

impl PolicySet {
    /// Adds a policy.
    pub fn insert(&mut self, id: PolicyId, rules: &[Rule], access: Option<&Access>) {
        let shared = Shared {
            rules: Arc::new(RuleList::new(Some(id), rules)),
            access: access.cloned().map(Arc::new),
        };
        self.0.insert(id, shared);
    }

    /// The policy of a route, or of a service that has none: `attached` to the service, `route` to the
    /// route, and the service's `own`.
    ///
    /// The rules are looked at in this order, so that no route and no rule of the service gets around
    /// what is attached to the service. The access is that of the nearest policy which has one: of the
    /// first of `route`, of the first of `attached`, and else `own`'s.
    ///
    /// # Errors
    /// When one of them is not there. Then nobody can tell what it denies, so nobody may pass.
    pub fn compose(
        &self,
        attached: &[PolicyId],
        route: &[PolicyId],
        own: &Policy,
    ) -> Result<CompiledPolicy, UnknownPolicy> {
        let find = |id: &PolicyId| self.0.get(id).ok_or(UnknownPolicy(*id));
        let attached: Vec<_> = attached.iter().map(find).collect::<Result<_, _>>()?;
        let route: Vec<_> = route.iter().map(find).collect::<Result<_, _>>()?;
        let nearest = route
            .iter()
            .chain(&attached)
            .find_map(|shared| shared.access.as_ref());
        let access = nearest.map_or_else(|| Arc::new(own.access.clone()), Arc::clone);
        let shared = attached
            .iter()
            .chain(&route)
            .map(|shared| Arc::clone(&shared.rules));
        let own = Arc::new(RuleList::new(None, &own.rules));
        Ok(CompiledPolicy::of_lists(shared.chain([own]).collect(), access))
    }
}
