//! The decision itself, which [`evaluate`](super::evaluate) and [`explain`](super::explain) share.

use std::{cmp::Reverse, time::Duration};

use super::{
    Access, Challenge, CompiledPolicy, Denial, Effect, Facts, Method, Missing, Proof, Requirement, Subject,
    Truth,
    compiled::{CompiledRule, Prepared, RuleList},
    condition::Found,
    step_up::or_step_up,
};
use crate::{
    auth::{Identity, Principal, Strength},
    name::Label,
};

/// Is told of each rule that is looked at.
pub(super) trait Watch {
    fn rule(&mut self, list: &RuleList, rule: &CompiledRule, found: Found);
}

impl Watch for () {
    fn rule(&mut self, _: &RuleList, _: &CompiledRule, _: Found) {}
}

/// The outcome, and what decided.
#[derive(Debug)]
pub(super) struct Judgement<'a> {
    pub(super) ruling: Ruling<'a>,
    pub(super) by: By<'a>,
    /// What the ruling would be if the visitor could not sign in more strongly.
    pub(super) instead_of: Option<Denial>,
}

impl<'a> Judgement<'a> {
    const fn new(ruling: Ruling<'a>, by: By<'a>) -> Self {
        Self {
            ruling,
            by,
            instead_of: None,
        }
    }
}

#[derive(Debug)]
pub(super) enum Ruling<'a> {
    Permit {
        principal: Option<&'a Principal>,
        rule: Option<&'a Label>,
    },
    Challenge(Challenge),
    Deny(Denial),
}

#[derive(Debug)]
pub(super) enum By<'a> {
    Authorizer,
    Rule(&'a RuleList, &'a CompiledRule),
    Access,
}

/// Decides.
pub(super) fn judge<'a>(
    policy: &'a CompiledPolicy,
    subject: Subject,
    facts: &'a Facts<'a>,
    watch: &mut impl Watch,
) -> Judgement<'a> {
    let judgement = judge_as_they_are(policy, subject, facts, watch);
    or_step_up(policy, subject, facts, judgement)
}

/// Decides about a visitor who signs in no more strongly.
pub(super) fn judge_as_they_are<'a>(
    policy: &'a CompiledPolicy,
    subject: Subject,
    facts: &'a Facts<'a>,
    watch: &mut impl Watch,
) -> Judgement<'a> {
    if facts.objection {
        return Judgement::new(Ruling::Deny(Denial::Authorizer), By::Authorizer);
    }
    let prepared = Prepared::new(facts);
    // What the visitor could say to get past by a rule that was passed over.
    let mut wanted = None;
    // A rule that is unknown would have had the visitor go on to the methods.
    let mut may_go_on = false;
    'rules: for list in &policy.lists {
        for rule in &list.rules {
            let found = list.value(rule, &prepared);
            watch.rule(list, rule, found);
            if rule.dry_run {
                continue;
            }
            let missing = match found.truth {
                Truth::False => continue,
                Truth::True => None,
                Truth::Unknown(missing) => Some(missing),
            };
            let ruling = match (rule.effect, missing) {
                (Effect::Allow, None) if may_go_on => break 'rules,
                (Effect::Allow, None) => Ruling::Permit {
                    principal: facts.proofs.first().map(Proof::principal),
                    rule: Some(&rule.origin.name),
                },
                (Effect::Continue, None) => break 'rules,
                (Effect::Allow, Some(_)) => {
                    wanted = wanted.max(missing);
                    continue;
                }
                (Effect::Continue, Some(_)) => {
                    wanted = wanted.max(missing);
                    may_go_on = true;
                    continue;
                }
                (Effect::Deny, _) => {
                    let denial = match missing {
                        None => Denial::Rule(rule.origin.name.clone()),
                        Some(_) => Denial::Unknown(rule.origin.name.clone()),
                    };
                    ask_or_deny(policy, facts, wanted.max(missing), denial)
                }
            };
            return Judgement::new(ruling, By::Rule(list, rule));
        }
    }
    Judgement::new(by_access(policy, subject, facts, wanted), By::Access)
}

/// Denies, unless the visitor can be asked for what is missing, and that can lead to a permit.
fn ask_or_deny<'a>(
    policy: &CompiledPolicy,
    facts: &Facts<'_>,
    missing: Option<Missing>,
    denial: Denial,
) -> Ruling<'a> {
    if facts.request.is_none() || !policy.can_permit {
        return Ruling::Deny(denial);
    }
    let offers = |wanted: fn(&Method) -> bool| policy.access.methods().iter().any(wanted);
    let basic = offers(|method| matches!(method, Method::Basic { .. }));
    let token = offers(|method| matches!(method, Method::ServiceToken { .. }));
    let (basic, service_token, signed_in) = match missing {
        None | Some(Missing::Fact) => return Ruling::Deny(denial),
        // What has a password, or a token, proves nothing to a rule about roles.
        Some(Missing::SignIn) => (false, false, true),
        Some(Missing::Proof) => {
            let signed_in = offers(|method| matches!(method, Method::SignedIn(_)));
            (basic, token, signed_in || !(basic || token))
        }
    };
    Ruling::Challenge(Challenge {
        basic,
        signed_in,
        service_token,
        strength: Strength::OneFactor,
        max_age: None,
    })
}

fn by_access<'a>(
    policy: &'a CompiledPolicy,
    subject: Subject,
    facts: &'a Facts<'a>,
    wanted: Option<Missing>,
) -> Ruling<'a> {
    let (methods, all) = match &*policy.access {
        Access::Deny => return ask_or_deny(policy, facts, wanted, Denial::Default),
        Access::Public => {
            return Ruling::Permit {
                principal: None,
                rule: None,
            };
        }
        Access::AnyOf(methods) => (methods, false),
        Access::AllOf(methods) => (methods, true),
    };
    let mut principal: Option<&Principal> = None;
    let mut open: Option<Challenge> = None;
    let mut hopeless = false;
    for method in methods {
        match answer(method, subject, facts) {
            // Of several, who signed in is who it is.
            Answer::Given(proof) if all => {
                if principal.is_none() || matches!(proof, Proof::SignedIn(_)) {
                    principal = Some(proof.principal());
                }
            }
            Answer::Given(proof) => {
                return Ruling::Permit {
                    principal: Some(proof.principal()),
                    rule: None,
                };
            }
            Answer::Open(challenge) => {
                open = Some(open.map_or(challenge, |so_far| join(so_far, challenge, all)))
            }
            Answer::Hopeless => hopeless = true,
        }
    }
    if all && open.is_none() && !hopeless {
        return Ruling::Permit {
            principal,
            rule: None,
        };
    }
    if facts.request.is_none() {
        return Ruling::Deny(Denial::NoMethod);
    }
    if all && hopeless {
        open = None;
    }
    match (open, ask_or_deny(policy, facts, wanted, Denial::Unqualified)) {
        (Some(open), Ruling::Challenge(rules)) => Ruling::Challenge(join(open, rules, false)),
        (Some(open), _) => Ruling::Challenge(open),
        (None, ruling) => ruling,
    }
}

/// What a visitor has, or can, answer to a method.
enum Answer<'a> {
    /// It is proven.
    Given(&'a Proof),
    /// It can be asked for.
    Open(Challenge),
    /// The visitor has signed in as somebody, or shows a token, whom the method does not take.
    Hopeless,
}

fn answer<'a>(method: &Method, subject: Subject, facts: &Facts<'a>) -> Answer<'a> {
    let proofs = facts.proofs;
    match method {
        Method::Basic { users } => {
            let accepts = |proof: &&Proof| match proof {
                Proof::Basic { service, principal } => {
                    *service == subject.service && users.iter().any(|user| user.name == principal.subject())
                }
                Proof::SignedIn(_) | Proof::ServiceToken { .. } => false,
            };
            proofs.iter().find(accepts).map_or(
                Answer::Open(Challenge {
                    basic: true,
                    signed_in: false,
                    service_token: false,
                    strength: Strength::OneFactor,
                    max_age: None,
                }),
                Answer::Given,
            )
        }
        Method::SignedIn(requirement) => {
            let (mut somebody, mut fits) = (false, false);
            for proof in proofs {
                let Proof::SignedIn(identity) = proof else {
                    continue;
                };
                somebody = true;
                if !qualifies(identity, requirement) {
                    continue;
                }
                if requirement.is_proven(identity, facts.now) {
                    return Answer::Given(proof);
                }
                fits = true;
            }
            if somebody && !fits {
                return Answer::Hopeless;
            }
            Answer::Open(Challenge {
                basic: false,
                signed_in: true,
                service_token: false,
                strength: requirement.strength,
                max_age: requirement.max_age,
            })
        }
        Method::ServiceToken { tokens } => {
            let mut shown = false;
            for proof in proofs {
                let Proof::ServiceToken { token, .. } = proof else {
                    continue;
                };
                if tokens.is_empty() || tokens.contains(token) {
                    return Answer::Given(proof);
                }
                shown = true;
            }
            if shown {
                return Answer::Hopeless;
            }
            Answer::Open(Challenge {
                basic: false,
                signed_in: false,
                service_token: true,
                strength: Strength::OneFactor,
                max_age: None,
            })
        }
    }
}

/// Whether somebody has the roles and the groups; what is not known of them, they have not.
fn qualifies(identity: &Identity, requirement: &Requirement) -> bool {
    fn one_of<T: PartialEq>(wanted: &[T], has: Option<&[T]>) -> bool {
        wanted.is_empty() || has.is_some_and(|has| wanted.iter().any(|item| has.contains(item)))
    }
    one_of(&requirement.roles, identity.roles()) && one_of(&requirement.groups, identity.groups())
}

/// Two challenges as one. Signing in is asked for as strongly and as recently as the strictest wants when `all` are to
/// be answered. Else it is asked for as one of the two wants it, the one that is content with less: whoever brings that
/// gets past, and is not asked again.
pub(super) fn join(a: Challenge, b: Challenge, all: bool) -> Challenge {
    let less = |challenge: &Challenge| {
        let age = challenge.max_age.unwrap_or(Duration::MAX);
        (challenge.strength, Reverse(age))
    };
    let (strength, max_age) = match (a.signed_in, b.signed_in) {
        (true, true) if all => {
            let ages = a.max_age.into_iter().chain(b.max_age);
            (a.strength.max(b.strength), ages.min())
        }
        (true, true) if less(&b) < less(&a) => (b.strength, b.max_age),
        (true, _) => (a.strength, a.max_age),
        (false, true) => (b.strength, b.max_age),
        (false, false) => (Strength::OneFactor, None),
    };
    Challenge {
        basic: a.basic || b.basic,
        signed_in: a.signed_in || b.signed_in,
        service_token: a.service_token || b.service_token,
        strength,
        max_age,
    }
}
