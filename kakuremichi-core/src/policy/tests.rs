//! Decisions, by example and against an evaluator that was written another way.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    auth::Principal,
    id::{RouteId, ServiceId},
    name::PathPattern,
    net::Cidr,
    request::CanonicalRequest,
};

const SERVICE: ServiceId = ServiceId::from_bytes([1; 16]);
const OTHER: ServiceId = ServiceId::from_bytes([2; 16]);
const SUBJECT: Subject = Subject {
    service: SERVICE,
    route: Some(RouteId::from_bytes([3; 16])),
};

/// What a visitor brings, owned.
#[derive(Debug, Clone)]
struct Visitor {
    source: IpAddr,
    request: Option<CanonicalRequest>,
    proofs: Vec<Proof>,
    objection: bool,
}

impl Visitor {
    fn facts(&self) -> Facts<'_> {
        Facts {
            source: self.source,
            request: self.request.as_ref(),
            proofs: &self.proofs,
            objection: self.objection,
        }
    }
}

/// A decision as far as it can be told from outside.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Permit {
        rule: Option<String>,
        principal: Option<String>,
    },
    Challenge {
        basic: bool,
        signed_in: bool,
    },
    Deny(Denial),
}

fn outcome(policy: &Policy, visitor: &Visitor) -> Outcome {
    match evaluate(policy, SUBJECT, &visitor.facts()) {
        Decision::Permit(permit) => {
            assert_eq!(permit.subject(), SUBJECT);
            Outcome::Permit {
                rule: permit.rule().map(ToString::to_string),
                principal: permit.principal().map(ToString::to_string),
            }
        }
        Decision::Challenge(challenge) => Outcome::Challenge {
            basic: challenge.basic,
            signed_in: challenge.signed_in,
        },
        Decision::Deny(denial) => Outcome::Deny(denial),
    }
}

/// The same decision, spelled out: all conditions are looked at, bit by bit and segment by segment, and
/// the decision is read off a table of what was found.
fn naive(policy: &Policy, visitor: &Visitor) -> Outcome {
    if visitor.objection {
        return Outcome::Deny(Denial::Authorizer);
    }
    let held: Vec<&Rule> = policy
        .rules
        .iter()
        .filter(|rule| naive_holds(&rule.when, visitor))
        .collect();
    if !held.is_empty() {
        let first = held[0];
        return match first.effect {
            Effect::Deny => Outcome::Deny(Denial::Rule(first.name.clone())),
            Effect::Allow => Outcome::Permit {
                rule: Some(first.name.to_string()),
                principal: visitor.proofs.first().map(|proof| proof.principal().to_string()),
            },
        };
    }
    match &policy.access {
        Access::Deny => Outcome::Deny(Denial::Default),
        Access::Public => Outcome::Permit {
            rule: None,
            principal: None,
        },
        Access::AnyOf(methods) => {
            let mut basic = false;
            let mut signed_in = false;
            for method in methods {
                for proof in &visitor.proofs {
                    let accepted = match (method, proof) {
                        (Method::SignedIn, Proof::SignedIn(_)) => true,
                        (Method::Basic { users }, Proof::Basic { service, principal }) => {
                            let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
                            *service == SERVICE && names.contains(&principal.subject())
                        }
                        _ => false,
                    };
                    if accepted {
                        return Outcome::Permit {
                            rule: None,
                            principal: Some(proof.principal().to_string()),
                        };
                    }
                }
                match method {
                    Method::Basic { .. } => basic = true,
                    Method::SignedIn => signed_in = true,
                }
            }
            if visitor.request.is_some() {
                Outcome::Challenge { basic, signed_in }
            } else {
                Outcome::Deny(Denial::NoMethod)
            }
        }
    }
}

fn naive_holds(condition: &Condition, visitor: &Visitor) -> bool {
    match condition {
        Condition::All(parts) => parts.iter().filter(|part| !naive_holds(part, visitor)).count() == 0,
        Condition::Any(parts) => parts.iter().filter(|part| naive_holds(part, visitor)).count() > 0,
        Condition::Not(part) => naive_holds(part, visitor) ^ true,
        Condition::Method(method) => {
            matches!(&visitor.request, Some(request) if request.method() == method.as_str())
        }
        Condition::Path(pattern) => match (&visitor.request, pattern) {
            (None, _) => false,
            (Some(request), PathPattern::Exact(path)) => request.path() == path,
            (Some(request), PathPattern::Prefix(prefix)) => below(prefix, request.path()),
        },
        Condition::Source(network) => inside(network, visitor.source),
        Condition::Subject(name) => {
            let mut known = visitor.proofs.iter().map(|proof| proof.principal().subject());
            known.any(|subject| subject == name)
        }
    }
}

/// Whether `path` is `prefix` or below it, by segments. A prefix that ends in a slash has what is
/// below it only.
fn below(prefix: &str, path: &str) -> bool {
    let segments = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let (mut prefix, path) = (segments(prefix), segments(path));
    if prefix.last().is_some_and(String::is_empty) {
        prefix.pop();
        return path.len() > prefix.len() && path[..prefix.len()] == prefix[..];
    }
    path.len() >= prefix.len() && path[..prefix.len()] == prefix[..]
}

fn inside(network: &Cidr, address: IpAddr) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address.to_canonical() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        octets
            .iter()
            .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1))
            .collect()
    };
    let (network_bits, address_bits) = (bits(network.address()), bits(address));
    let length = usize::from(network.length());
    network_bits.len() == address_bits.len() && network_bits[..length] == address_bits[..length]
}

fn text(options: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(options).prop_map(str::to_owned)
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(
        &[
            "192.0.2.1",
            "192.0.2.200",
            "198.51.100.1",
            "2001:db8::1",
            "2001:db9::1",
            "::ffff:192.0.2.1",
        ][..],
    )
    .prop_map(|address| address.parse().unwrap())
}

fn network() -> impl Strategy<Value = Cidr> {
    prop::sample::select(
        &[
            "192.0.2.0/25",
            "192.0.2.0/24",
            "0.0.0.0/0",
            "::/0",
            "2001:db8::/31",
            "2001:db8::1",
        ][..],
    )
    .prop_map(|network| network.parse().unwrap())
}

fn path() -> impl Strategy<Value = PathPattern> {
    prop::sample::select(&["/", "/a", "/a/", "=/a", "=/a/", "/a/b", "/ab"][..])
        .prop_map(|path| path.parse().unwrap())
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        path().prop_map(Condition::Path),
        text(&["GET", "POST", "get"]).prop_map(Condition::Method),
        network().prop_map(Condition::Source),
        text(&["ann", "bob"]).prop_map(Condition::Subject),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::All),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::Any),
            inner.prop_map(|part| Condition::Not(Box::new(part))),
        ]
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let effect = prop_oneof![Just(Effect::Allow), Just(Effect::Deny)];
    (text(&["one", "two", "three"]), condition(), effect).prop_map(|(name, when, effect)| Rule {
        name: name.parse().unwrap(),
        when,
        effect,
    })
}

fn method() -> impl Strategy<Value = Method> {
    let users = prop::collection::vec(text(&["ann", "bob", "Ann"]), 1..3);
    let basic = users.prop_map(|names| Method::Basic {
        users: names
            .into_iter()
            .map(|name| BasicUser {
                name,
                password_hash: "hash".to_owned(),
            })
            .collect(),
    });
    prop_oneof![basic, Just(Method::SignedIn)]
}

fn policy() -> impl Strategy<Value = Policy> {
    let access = prop_oneof![
        Just(Access::Deny),
        Just(Access::Public),
        prop::collection::vec(method(), 1..3).prop_map(Access::AnyOf),
    ];
    (prop::collection::vec(rule(), 0..4), access).prop_map(|(rules, access)| Policy { rules, access })
}

fn proof() -> impl Strategy<Value = Proof> {
    let basic = (any::<bool>(), text(&["ann", "bob"])).prop_map(|(here, name)| Proof::Basic {
        service: if here { SERVICE } else { OTHER },
        principal: Principal::new("basic", name),
    });
    prop_oneof![
        basic,
        text(&["ann", "eve"]).prop_map(|name| Proof::SignedIn(Principal::new("sso", name))),
    ]
}

fn visitor() -> impl Strategy<Value = Visitor> {
    let request = (
        text(&["GET", "POST"]),
        text(&["/", "/a", "/a/", "/a/b", "/ab", "/b?x=/a"]),
    );
    let request = prop::option::of(
        request.prop_map(|(method, target)| CanonicalRequest::parse(&method, "h.example", &target).unwrap()),
    );
    let proofs = prop::collection::vec(proof(), 0..3);
    (address(), request, proofs, prop::bool::weighted(0.1)).prop_map(
        |(source, request, proofs, objection)| Visitor {
            source,
            request,
            proofs,
            objection,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn it_decides_as_a_naive_evaluator_does(policy in policy(), visitor in visitor()) {
        prop_assert_eq!(outcome(&policy, &visitor), naive(&policy, &visitor));
    }

    /// An authorizer can only take away.
    #[test]
    fn an_objection_never_lets_anybody_in(policy in policy(), visitor in visitor()) {
        let objected = Visitor { objection: true, ..visitor };
        prop_assert_eq!(outcome(&policy, &objected), Outcome::Deny(Denial::Authorizer));
    }

    /// Deny by default: without a rule that allows, and without a method or public access, nobody passes,
    /// whatever they bring.
    #[test]
    fn who_is_not_let_in_stays_out(mut policy in policy(), visitor in visitor()) {
        policy.rules.retain(|rule| rule.effect == Effect::Deny);
        policy.access = Access::Deny;
        prop_assert!(matches!(outcome(&policy, &visitor), Outcome::Deny(_)));
    }

    /// What one service's password proves, it proves to that service only.
    #[test]
    fn a_password_of_another_service_opens_nothing(
        methods in prop::collection::vec(method(), 1..3), visitor in visitor(), name in text(&["ann", "bob"]),
    ) {
        let policy = Policy { rules: Vec::new(), access: Access::AnyOf(methods) };
        let principal = Principal::new("basic", name);
        let foreign = Visitor { proofs: vec![Proof::Basic { service: OTHER, principal }], ..visitor };
        let passes = matches!(outcome(&policy, &foreign), Outcome::Permit { .. });
        prop_assert!(!passes);
    }
}

#[test]
fn the_default_policy_denies() {
    let visitor = Visitor {
        source: "192.0.2.1".parse().unwrap(),
        request: None,
        proofs: vec![Proof::SignedIn(Principal::new("sso", "ann"))],
        objection: false,
    };
    assert_eq!(
        outcome(&Policy::default(), &visitor),
        Outcome::Deny(Denial::Default)
    );
    assert!(matches!(
        outcome(&Policy::public(), &visitor),
        Outcome::Permit { rule: None, .. }
    ));
}
