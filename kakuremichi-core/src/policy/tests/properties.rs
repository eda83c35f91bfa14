//! What holds for any policy and any visitor.

use proptest::prelude::*;

use super::{arbitrary::*, *};
use crate::{auth::Identity, id::PolicyId};

fn permits(told: &Told) -> bool {
    matches!(told, Told::Permit { .. })
}

/// Effects in the order of how far they let a visitor.
fn reach(told: &Told) -> u8 {
    match told {
        Told::Deny(_) => 0,
        Told::Challenge(_) => 1,
        Told::Permit { .. } => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8192) })]

    #[test]
    fn it_decides_as_a_naive_evaluator_does(policy in policy(), visitor in visitor()) {
        prop_assert_eq!(told(&policy, &visitor), naive::told(&[&policy.rules], &policy.access, &visitor));
    }

    /// What is attached to the service goes first, then what is attached to the route; the nearest access
    /// counts.
    #[test]
    fn attached_policies_go_before_the_services_own(
        attached in prop::collection::vec((rules(), prop::option::of(access())), 0..3),
        of_route in 0..3usize, own in policy(), visitor in visitor(),
    ) {
        let id = |n: usize| PolicyId::from_bytes([u8::try_from(n).unwrap(); 16]);
        let mut set = PolicySet::default();
        for (n, (rules, access)) in attached.iter().enumerate() {
            set.insert(id(n), rules, access.as_ref());
        }
        let ids: Vec<_> = (0..attached.len()).map(id).collect();
        let (service, route) = ids.split_at(ids.len().saturating_sub(of_route));
        let composed = set.compose(service, route, &own).unwrap();
        let mut lists: Vec<&[Rule]> = attached.iter().map(|(rules, _)| rules.as_slice()).collect();
        lists.push(&own.rules);
        let nearest = attached[service.len()..].iter().chain(&attached[..service.len()]);
        let access = nearest.filter_map(|(_, access)| access.as_ref()).next().unwrap_or(&own.access);
        prop_assert_eq!(decide(&composed, &visitor), naive::told(&lists, access, &visitor));
        prop_assert!(set.compose(&[id(9)], &[], &own).is_err());
        prop_assert!(set.compose(&[], &[id(9)], &own).is_err());
    }

    /// The simulator and the gateway cannot disagree.
    #[test]
    fn an_explanation_is_of_the_decision_that_is_made(policy in policy(), visitor in visitor()) {
        let compiled = CompiledPolicy::new(&policy);
        let explanation = explain(&compiled, SUBJECT, &visitor.facts());
        let decision = decide(&compiled, &visitor);
        let decider = match &explanation.by {
            DecidedBy::Rule { rule, policy: None } => Some(rule),
            DecidedBy::Rule { .. } | DecidedBy::Authorizer | DecidedBy::Access => None,
        };
        match (&explanation.outcome, &decision) {
            (Outcome::Permit { principal }, Told::Permit { rule, principal: permitted }) => {
                prop_assert_eq!(principal, permitted);
                prop_assert_eq!(&decider.map(ToString::to_string), rule);
            }
            (Outcome::Challenge(explained), Told::Challenge(challenge)) => prop_assert_eq!(explained, challenge),
            (Outcome::Deny(explained), Told::Deny(denial)) => {
                prop_assert_eq!(explained, denial);
                if let Some(rule) = denial.rule() {
                    prop_assert_eq!(decider, Some(rule));
                }
            }
            other => prop_assert!(false, "{:?}", other),
        }
        if explanation.instead_of.is_some() {
            let asks = matches!(decision, Told::Challenge(Challenge { signed_in: true, .. }));
            prop_assert!(asks);
        }
        // Each step has the value that its condition has, and so has the part which gave it.
        for step in &explanation.trail {
            let rule = policy.rules.iter().find(|rule| {
                rule.name == step.rule && rule.effect == step.effect && rule.dry_run == step.dry_run
                    && truth(naive::value(&rule.when, &visitor)) == step.truth
            });
            prop_assert!(rule.is_some());
            let part = truth(naive::value(&step.part, &visitor));
            prop_assert!(part == step.truth || part == step.truth.negated());
        }
    }

    /// A rule that is only tried out changes nothing.
    #[test]
    fn a_dry_run_changes_nothing(mut policy in policy(), visitor in visitor()) {
        let tried = told(&policy, &visitor);
        policy.rules.retain(|rule| !rule.dry_run);
        prop_assert_eq!(tried, told(&policy, &visitor));
    }

    /// An authorizer can only take away.
    #[test]
    fn an_objection_never_lets_anybody_in(policy in policy(), visitor in visitor()) {
        let objected = Visitor { objection: true, ..visitor };
        prop_assert_eq!(told(&policy, &objected), Told::Deny(Denial::Authorizer));
    }

    /// Deny by default: without a rule that allows, and without a method or public access, nobody passes
    /// and nobody is asked for anything, whatever they bring.
    #[test]
    fn who_is_not_let_in_stays_out(mut policy in policy(), visitor in visitor()) {
        policy.rules.retain(|rule| rule.effect != Effect::Allow);
        policy.access = Access::Deny;
        prop_assert!(matches!(told(&policy, &visitor), Told::Deny(_)));
    }

    /// LESSONS, advisory 5: what is not known opens nothing. Whoever passes while something is unknown
    /// passes whatever it turns out to be.
    #[test]
    fn what_is_not_known_opens_nothing(
        policy in policy(), known in visitor(), forget in any::<[bool; 4]>(),
    ) {
        let mut less = known.clone();
        if forget[0] {
            less.country = None;
        }
        if forget[1] {
            less.asn = None;
        }
        if forget[2] {
            less.proofs.clear();
        }
        if forget[3] && let Some(request) = &known.request {
            less.request = CanonicalRequest::parse(request.method(), "h.example", request.path()).ok();
        }
        if permits(&told(&policy, &less)) {
            prop_assert!(permits(&told(&policy, &known)));
        }
    }

    /// An authority that says nothing about roles and groups opens no more than any answer would.
    #[test]
    fn silence_about_roles_opens_nothing(policy in policy(), visitor in visitor(), identity in identity()) {
        let silent = Identity::new(identity.principal().clone()).with_strength(identity.strength());
        let with = |identity| Visitor { proofs: vec![Proof::SignedIn(identity)], ..visitor.clone() };
        prop_assert!(reach(&told(&policy, &with(silent))) <= reach(&told(&policy, &with(identity))).max(1));
    }

    /// That more could be proven lets nobody past, and keeps nobody out, before it is.
    #[test]
    fn a_step_up_opens_nothing_before_it_is_taken(policy in policy(), visitor in visitor()) {
        let as_they_are = naive::as_they_are(&[&policy.rules], &policy.access, &visitor);
        let told = told(&policy, &visitor);
        prop_assert_eq!(permits(&told), permits(&as_they_are));
        prop_assert!(reach(&told) >= reach(&as_they_are));
    }

    /// No loop: who signs in as they were asked to is not asked for that again.
    #[test]
    fn who_signs_in_as_asked_is_not_asked_again(policy in policy(), visitor in visitor(), identity in identity()) {
        let mut visitor = visitor;
        visitor.proofs.push(Proof::SignedIn(identity));
        if let Told::Challenge(asked @ Challenge { signed_in: true, .. }) = told(&policy, &visitor) {
            let now = visitor.now;
            for proof in &mut visitor.proofs {
                if let Proof::SignedIn(identity) = proof {
                    let strength = identity.strength().max(asked.strength);
                    *identity = identity.clone().with_strength(strength).with_authenticated(now);
                }
            }
            if let Told::Challenge(again) = told(&policy, &visitor) {
                prop_assert!(!again.signed_in || again.strength > asked.strength, "{:?}, then {:?}", asked, again);
            }
        }
    }

    /// What one service's password proves, it proves to that service only.
    #[test]
    fn a_password_of_another_service_opens_nothing(
        methods in prop::collection::vec(method(), 1..3), all in any::<bool>(),
        visitor in visitor(), name in text(&["ann", "bob"]),
    ) {
        let access = if all { Access::AllOf(methods) } else { Access::AnyOf(methods) };
        let principal = Principal::new("basic", name);
        let foreign = Visitor { proofs: vec![Proof::Basic { service: OTHER, principal }], ..visitor };
        let passes = permits(&told(&Policy { rules: Vec::new(), access }, &foreign));
        prop_assert!(!passes);
    }
}

fn truth(value: Result<bool, Missing>) -> Truth {
    value.map_or_else(Truth::Unknown, Into::into)
}
