//! Why a decision is as it is.

use super::{
    Challenge, CompiledPolicy, Condition, Denial, Effect, Facts, Subject, Truth,
    compiled::{CompiledRule, RuleList},
    condition::Found,
    judge::{By, Ruling, Watch, judge},
};
use crate::{auth::Principal, id::PolicyId, name::Label};

/// A decision, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What [`evaluate`](super::evaluate) decides of the same.
    pub outcome: Outcome,
    /// What decided.
    pub by: DecidedBy,
    /// What the visitor, who has signed in, is asked to sign in more strongly instead of: a rule looks at the strength.
    pub instead_of: Option<Denial>,
    /// Each rule that was looked at, in order. The last one decided, if a rule did.
    pub trail: Vec<Step>,
}

/// A decision as a statement: it opens nothing, as a [`Permit`](super::Permit) would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The visitor may pass.
    Permit {
        /// Who the visitor is, if anything was proven.
        principal: Option<Principal>,
    },
    /// The visitor has to prove something first.
    Challenge(Challenge),
    /// The visitor may not pass.
    Deny(Denial),
}

/// What decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecidedBy {
    /// The authorizer's objection.
    Authorizer,
    /// A rule.
    Rule {
        /// The shared policy that it is of; none when it is the service's own.
        policy: Option<PolicyId>,
        /// Its name.
        rule: Label,
    },
    /// No rule: what is asked of visitors for whom none decides.
    Access,
}

/// A rule that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The shared policy that it is of; none when it is the service's own.
    pub policy: Option<PolicyId>,
    /// Its name.
    pub rule: Label,
    /// What it does.
    pub effect: Effect,
    /// It decides nothing.
    pub dry_run: bool,
    /// Whether its condition holds.
    pub truth: Truth,
    /// The part of the condition that gave it this value: the one that is false where all must hold, the
    /// one that holds where any will do, what is unknown, or the whole.
    pub part: Condition,
}

impl Step {
    /// The rule is only tried out, and would have acted on this visitor.
    #[must_use]
    pub fn would_have_acted(&self) -> bool {
        let acts = match self.truth {
            Truth::True => true,
            Truth::Unknown(_) => self.effect == Effect::Deny,
            Truth::False => false,
        };
        self.dry_run && acts
    }
}

impl Explanation {
    /// The rules that are only tried out and would have acted, the first of which would have decided.
    pub fn dry_runs(&self) -> impl Iterator<Item = &Step> {
        self.trail.iter().filter(|step| step.would_have_acted())
    }
}

/// Decides as [`evaluate`](super::evaluate) does, by the same code, and says why. No [`Permit`](super::Permit)
/// is made.
#[must_use]
pub fn explain(policy: &CompiledPolicy, subject: Subject, facts: &Facts<'_>) -> Explanation {
    let mut trail = Trail(Vec::new());
    let judgement = judge(policy, subject, facts, &mut trail);
    Explanation {
        outcome: match judgement.ruling {
            Ruling::Permit { principal, .. } => Outcome::Permit {
                principal: principal.cloned(),
            },
            Ruling::Challenge(challenge) => Outcome::Challenge(challenge),
            Ruling::Deny(denial) => Outcome::Deny(denial),
        },
        by: match judgement.by {
            By::Authorizer => DecidedBy::Authorizer,
            By::Rule(list, rule) => DecidedBy::Rule {
                policy: list.policy,
                rule: rule.origin.name.clone(),
            },
            By::Access => DecidedBy::Access,
        },
        instead_of: judgement.instead_of,
        trail: trail.0,
    }
}

struct Trail(Vec<Step>);

impl Watch for Trail {
    fn rule(&mut self, list: &RuleList, rule: &CompiledRule, found: Found) {
        let whole = &rule.origin.when;
        self.0.push(Step {
            policy: list.policy,
            rule: rule.origin.name.clone(),
            effect: rule.effect,
            dry_run: rule.dry_run,
            truth: found.truth,
            part: whole.part(found.part.into()).unwrap_or(whole).clone(),
        });
    }
}
