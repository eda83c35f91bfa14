//! Policies in the form in which they are evaluated.

mod program;

use std::{collections::BTreeSet, sync::Arc};

pub(super) use program::Prepared;
use program::{Node, write};

use super::{Access, Condition, Effect, Method, Policy, Rule, condition::Found};
use crate::{id::PolicyId, request::HeaderName};

/// A policy ready to be evaluated: conditions lie flat in memory, and lists of rules that several
/// services share are there once.
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    pub(super) lists: Vec<Arc<RuleList>>,
    pub(super) access: Arc<Access>,
    /// Somebody may pass. Where nobody may, nobody is asked who they are.
    pub(super) can_permit: bool,
    /// How strongly somebody signed in makes a difference to a rule.
    pub(super) looks_at_strength: bool,
    needs: Needs,
}

/// What makes a difference to a policy: nothing else has to be found out about a visitor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// A password of the service.
    pub basic: bool,
    /// That the visitor signs in: a method asks for it.
    pub signed_in: bool,
    /// A service token: a method asks for it.
    pub service_token: bool,
    /// Who the visitor is: a rule looks at it.
    pub identity: bool,
    /// The country of the visitor's address.
    pub country: bool,
    /// The autonomous system of the visitor's address.
    pub asn: bool,
    /// These header fields, to be [noted](crate::request::CanonicalRequest::note).
    pub headers: Vec<HeaderName>,
    /// The time: the decision is another one later.
    pub time: bool,
    /// A rule is only tried out: [`explain`](super::explain) tells what it would do.
    pub dry_run: bool,
}

impl CompiledPolicy {
    /// Compiles a policy to which none is attached.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let own = Arc::new(RuleList::new(None, &policy.rules));
        Self::of_lists(vec![own], Arc::new(policy.access.clone()))
    }

    pub(super) fn of_lists(lists: Vec<Arc<RuleList>>, access: Arc<Access>) -> Self {
        let lists: Vec<_> = lists.into_iter().filter(|list| !list.rules.is_empty()).collect();
        let mut needs = Needs::default();
        for list in &lists {
            needs.add(&list.needs);
        }
        needs.add_methods(&access);
        Self {
            can_permit: *access != Access::Deny || lists.iter().any(|list| list.allows),
            looks_at_strength: lists.iter().any(|list| list.looks_at_strength),
            lists,
            access,
            needs,
        }
    }

    /// What is asked of visitors for whom no rule decides.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// What has to be found out about a visitor.
    #[must_use]
    pub const fn needs(&self) -> &Needs {
        &self.needs
    }
}

impl Default for CompiledPolicy {
    /// Denies everybody.
    fn default() -> Self {
        Self::new(&Policy::deny())
    }
}

impl Needs {
    /// What makes a difference to rules, and to an access.
    #[must_use]
    pub fn of(rules: &[Rule], access: Option<&Access>) -> Self {
        let mut needs = Self::of_rules(rules);
        if let Some(access) = access {
            needs.add_methods(access);
        }
        needs
    }

    /// Whether it matters who somebody is that can sign in.
    #[must_use]
    pub const fn people(&self) -> bool {
        self.signed_in || self.identity
    }

    fn add_methods(&mut self, access: &Access) {
        for method in access.methods() {
            match method {
                Method::Basic { .. } => self.basic = true,
                Method::SignedIn(requirement) => {
                    self.signed_in = true;
                    self.time |= requirement.max_age.is_some();
                }
                Method::ServiceToken { .. } => self.service_token = true,
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.basic |= other.basic;
        self.signed_in |= other.signed_in;
        self.service_token |= other.service_token;
        self.identity |= other.identity;
        self.country |= other.country;
        self.asn |= other.asn;
        self.time |= other.time;
        self.dry_run |= other.dry_run;
        let headers: BTreeSet<_> = self
            .headers
            .drain(..)
            .chain(other.headers.iter().cloned())
            .collect();
        self.headers = headers.into_iter().collect();
    }

    fn of_rules(rules: &[Rule]) -> Self {
        let mut needs = Self::default();
        let mut headers = BTreeSet::new();
        for rule in rules {
            needs.dry_run |= rule.dry_run;
            rule.when.walk(&mut |part| match part {
                Condition::Subject(_)
                | Condition::User(_)
                | Condition::Role(_)
                | Condition::Group(_)
                | Condition::Strength(_) => {
                    // A trial changes nothing, not even what visitors are asked for.
                    needs.identity |= !rule.dry_run;
                }
                Condition::Country(_) => needs.country = true,
                Condition::Asn(_) => needs.asn = true,
                Condition::Time(_) => needs.time = true,
                Condition::Header { name, .. } => {
                    headers.insert(name.clone());
                }
                Condition::All(_)
                | Condition::Any(_)
                | Condition::Not(_)
                | Condition::Path(_)
                | Condition::Method(_)
                | Condition::Source(_) => {}
            });
        }
        needs.headers = headers.into_iter().collect();
        needs
    }
}

/// The rules of one policy.
#[derive(Debug)]
pub(super) struct RuleList {
    /// The policy, if it is a shared one.
    pub(super) policy: Option<PolicyId>,
    pub(super) rules: Box<[CompiledRule]>,
    nodes: Box<[Node]>,
    needs: Needs,
    allows: bool,
    looks_at_strength: bool,
}

/// A rule, of which the condition stands in the list.
#[derive(Debug)]
pub(super) struct CompiledRule {
    pub(super) effect: Effect,
    pub(super) dry_run: bool,
    /// Where its condition begins.
    start: usize,
    /// What it was made of.
    pub(super) origin: Rule,
}

impl RuleList {
    pub(super) fn new(policy: Option<PolicyId>, rules: &[Rule]) -> Self {
        let mut nodes = Vec::new();
        let compiled = rules.iter().map(|rule| {
            let start = nodes.len();
            write(&rule.when, &mut nodes);
            CompiledRule {
                effect: rule.effect,
                dry_run: rule.dry_run,
                start,
                origin: rule.clone(),
            }
        });
        Self {
            policy,
            rules: compiled.collect(),
            nodes: nodes.into(),
            needs: Needs::of_rules(rules),
            allows: rules
                .iter()
                .any(|rule| rule.effect == Effect::Allow && !rule.dry_run),
            looks_at_strength: rules
                .iter()
                .any(|rule| rule.when.looks_at_strength() && !rule.dry_run),
        }
    }

    /// The value of the condition of one of the rules.
    pub(super) fn value(&self, rule: &CompiledRule, facts: &Prepared<'_>) -> Found {
        facts.value(&self.nodes, rule.start, rule.start)
    }
}
