//! The same decision, spelled out: each rule of each list is given a value, bit by bit and segment by
//! segment, nothing is skipped, and the decision is read off the table.

use std::time::Duration;

use super::*;
use crate::{
    auth::{Identity, Strength},
    name::PathPattern,
    net::Cidr,
};

/// How a method wants somebody to sign in: how strongly, and how long ago at most.
type Asked = (Strength, Option<Duration>);
/// The value of a condition: `Ok` where it is known.
type Value = Result<bool, Missing>;

pub(super) fn told(lists: &[&[Rule]], access: &Access, visitor: &Visitor) -> Told {
    let now = as_they_are(lists, access, visitor);
    let stronger = [Strength::TwoFactors, Strength::PhishingResistant]
        .into_iter()
        .filter(|strength| identities(visitor).any(|identity| identity.strength() < *strength))
        .map(|strength| (strength, as_they_are(lists, access, &raised(visitor, strength))));
    let mut stronger = stronger.filter(|_| visitor.request.is_some());
    match now {
        Told::Permit { .. } => now,
        Told::Deny(_) => {
            let further = stronger.find(|(_, then)| match then {
                Told::Permit { .. } => true,
                // A person has no service token to show then.
                Told::Challenge(then) => then.signed_in || then.basic,
                Told::Deny(_) => false,
            });
            further.map_or(now, |(strength, then)| {
                let (least, max_age) = match then {
                    Told::Challenge(then) if then.signed_in => (then.strength, then.max_age),
                    _ => (strength, None),
                };
                Told::Challenge(Challenge {
                    basic: false,
                    signed_in: true,
                    service_token: false,
                    strength: least.max(strength),
                    max_age,
                })
            })
        }
        Told::Challenge(asked) if !asked.signed_in => now,
        Told::Challenge(asked) => {
            let enough = stronger.find(|(_, then)| matches!(then, Told::Permit { .. }));
            let instead = enough.filter(|(strength, _)| *strength <= asked.strength);
            Told::Challenge(instead.map_or(asked, |(strength, _)| Challenge {
                strength,
                max_age: None,
                ..asked
            }))
        }
    }
}

fn raised(visitor: &Visitor, least: Strength) -> Visitor {
    let mut visitor = visitor.clone();
    for proof in &mut visitor.proofs {
        if let Proof::SignedIn(identity) = proof {
            *identity = identity.clone().with_strength(identity.strength().max(least));
        }
    }
    visitor
}

/// The decision about somebody who signs in no more strongly.
pub(super) fn as_they_are(lists: &[&[Rule]], access: &Access, visitor: &Visitor) -> Told {
    if visitor.objection {
        return Told::Deny(Denial::Authorizer);
    }
    let rules: Vec<(&Rule, Value)> = lists
        .iter()
        .flat_map(|rules| rules.iter())
        .filter(|rule| !rule.dry_run)
        .map(|rule| (rule, value(&rule.when, visitor)))
        .collect();
    let allowing = rules.iter().any(|(rule, _)| rule.effect == Effect::Allow);
    let hope = visitor.request.is_some() && (allowing || *access != Access::Deny);

    // Where the table ends: at the first rule that decides for certain, or denies for want of knowledge.
    let stop = rules.iter().position(|(rule, value)| match (rule.effect, value) {
        (_, Ok(holds)) => *holds,
        (Effect::Deny, Err(_)) => true,
        (Effect::Allow | Effect::Continue, Err(_)) => false,
    });
    let passed_over = &rules[..stop.unwrap_or(rules.len())];
    let mut wanted: Vec<Missing> = passed_over.iter().filter_map(|(_, value)| value.err()).collect();
    let undecided_whether_to_go_on = passed_over
        .iter()
        .any(|(rule, value)| rule.effect == Effect::Continue && value.is_err());
    if let Some((rule, value)) = stop.map(|place| &rules[place]) {
        match rule.effect {
            Effect::Deny => {
                wanted.extend(value.err());
                let name = rule.name.clone();
                let denial = if value.is_ok() {
                    Denial::Rule(name)
                } else {
                    Denial::Unknown(name)
                };
                let asked = asked_by_rules(&wanted, access).filter(|_| hope);
                return asked.map_or(Told::Deny(denial), Told::Challenge);
            }
            Effect::Allow if !undecided_whether_to_go_on => {
                return Told::Permit {
                    rule: Some(rule.name.to_string()),
                    principal: visitor.proofs.first().map(|proof| proof.principal().clone()),
                };
            }
            Effect::Allow | Effect::Continue => {}
        }
    }
    let by_rules = asked_by_rules(&wanted, access).filter(|_| hope);
    match access {
        Access::Deny => by_rules.map_or(Told::Deny(Denial::Default), Told::Challenge),
        Access::Public => Told::Permit {
            rule: None,
            principal: None,
        },
        Access::AnyOf(methods) => any_of(methods, visitor, by_rules),
        Access::AllOf(methods) => all_of(methods, visitor, by_rules),
    }
}

fn asked_by_rules(wanted: &[Missing], access: &Access) -> Option<Challenge> {
    let basic_offered = access.basic_users().next().is_some();
    let sign_in_offered = access
        .methods()
        .iter()
        .any(|method| matches!(method, Method::SignedIn(_)));
    let token_offered = access.methods().iter().any(is_token);
    let challenge = |basic, signed_in, service_token| Challenge {
        basic,
        signed_in,
        service_token,
        strength: Strength::OneFactor,
        max_age: None,
    };
    if wanted.contains(&Missing::SignIn) {
        Some(challenge(false, true, false))
    } else if wanted.contains(&Missing::Proof) {
        Some(match (basic_offered, token_offered, sign_in_offered) {
            (false, false, _) => challenge(false, true, false),
            (basic, token, offered) => challenge(basic, offered, token),
        })
    } else {
        None
    }
}

fn is_token(method: &Method) -> bool {
    matches!(method, Method::ServiceToken { .. })
}

/// The proof that answers a method, if there is one.
fn given<'a>(method: &Method, visitor: &'a Visitor) -> Option<&'a Proof> {
    visitor.proofs.iter().find(|proof| match (method, proof) {
        (Method::Basic { users }, Proof::Basic { service, principal }) => {
            let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
            *service == SERVICE && names.contains(&principal.subject())
        }
        (Method::SignedIn(requirement), Proof::SignedIn(identity)) => {
            let since = |at: Timestamp| visitor.now.as_millis() - at.as_millis();
            let recent = requirement.max_age.is_none_or(|age| {
                let age = i64::try_from(age.as_millis()).unwrap();
                identity.authenticated().is_some_and(|at| since(at) < age)
            });
            belongs(requirement, identity) && identity.strength() >= requirement.strength && recent
        }
        (Method::ServiceToken { tokens }, Proof::ServiceToken { token, .. }) => {
            tokens.is_empty() || tokens.iter().filter(|named| *named == token).count() > 0
        }
        _ => false,
    })
}

fn belongs(requirement: &Requirement, identity: &Identity) -> bool {
    let has_role = |role| identity.roles().unwrap_or_default().contains(role);
    let in_group = |group| identity.groups().unwrap_or_default().contains(group);
    let roles = requirement.roles.iter().filter(|role| has_role(role)).count();
    let groups = requirement.groups.iter().filter(|group| in_group(group)).count();
    (requirement.roles.is_empty() || roles > 0) && (requirement.groups.is_empty() || groups > 0)
}

/// Whether a visitor who has not answered a method still could.
fn could(method: &Method, visitor: &Visitor) -> bool {
    let requirement = match method {
        Method::Basic { .. } => return true,
        Method::ServiceToken { .. } => {
            let mut proofs = visitor.proofs.iter();
            return !proofs.any(|proof| matches!(proof, Proof::ServiceToken { .. }));
        }
        Method::SignedIn(requirement) => requirement,
    };
    let identities: Vec<_> = identities(visitor).collect();
    identities.is_empty() || identities.iter().any(|identity| belongs(requirement, identity))
}

fn identities(visitor: &Visitor) -> impl Iterator<Item = &Identity> {
    visitor.proofs.iter().filter_map(|proof| match proof {
        Proof::SignedIn(identity) => Some(identity),
        Proof::Basic { .. } | Proof::ServiceToken { .. } => None,
    })
}

fn any_of(methods: &[Method], visitor: &Visitor, by_rules: Option<Challenge>) -> Told {
    if let Some(proof) = methods.iter().find_map(|method| given(method, visitor)) {
        return Told::Permit {
            rule: None,
            principal: Some(proof.principal().clone()),
        };
    }
    let open: Vec<_> = methods.iter().filter(|method| could(method, visitor)).collect();
    // One of them, whole: of the weakest those that leave the most time.
    ask(&open, visitor, by_rules, |asked| {
        let weakest = asked.iter().map(|(strength, _)| *strength).min()?;
        let ages = asked.iter().filter(|(strength, _)| *strength == weakest);
        let ages: Vec<_> = ages.map(|(_, age)| *age).collect();
        let longest = ages.iter().copied().max().flatten();
        Some((weakest, longest.filter(|_| !ages.contains(&None))))
    })
}

fn all_of(methods: &[Method], visitor: &Visitor, by_rules: Option<Challenge>) -> Told {
    let (answered, lacking): (Vec<_>, Vec<_>) = methods
        .iter()
        .partition(|method| given(method, visitor).is_some());
    if lacking.is_empty() {
        let mut proofs: Vec<_> = answered
            .iter()
            .filter_map(|method| given(method, visitor))
            .collect();
        // The last of those who signed in; without one the first.
        let last = proofs
            .iter()
            .rposition(|proof| matches!(proof, Proof::SignedIn(_)));
        let principal = proofs.swap_remove(last.unwrap_or(0)).principal().clone();
        return Told::Permit {
            rule: None,
            principal: Some(principal),
        };
    }
    let open = if lacking.iter().all(|method| could(method, visitor)) {
        lacking
    } else {
        Vec::new()
    };
    ask(&open, visitor, by_rules, |asked| {
        let strongest = asked.iter().map(|(strength, _)| *strength).max()?;
        Some((strongest, asked.iter().filter_map(|(_, age)| *age).min()))
    })
}

fn ask(
    open: &[&Method],
    visitor: &Visitor,
    by_rules: Option<Challenge>,
    pick: fn(&[Asked]) -> Option<Asked>,
) -> Told {
    if visitor.request.is_none() {
        return Told::Deny(Denial::NoMethod);
    }
    let asked = open.iter().filter_map(|method| match method {
        Method::SignedIn(requirement) => Some((requirement.strength, requirement.max_age)),
        Method::Basic { .. } | Method::ServiceToken { .. } => None,
    });
    let strength = pick(&asked.collect::<Vec<_>>());
    let by_methods = (!open.is_empty()).then(|| Challenge {
        basic: open.iter().any(|method| matches!(method, Method::Basic { .. })),
        signed_in: strength.is_some(),
        service_token: open.iter().any(|method| is_token(method)),
        strength: strength.unwrap_or_default().0,
        max_age: strength.unwrap_or_default().1,
    });
    match (by_methods, by_rules) {
        (None, None) => Told::Deny(Denial::Unqualified),
        (Some(one), None) | (None, Some(one)) => Told::Challenge(one),
        (Some(methods), Some(rules)) => Told::Challenge(Challenge {
            basic: methods.basic || rules.basic,
            signed_in: methods.signed_in || rules.signed_in,
            service_token: methods.service_token || rules.service_token,
            // A rule asks for no strength, and for no time.
            strength: if rules.signed_in {
                Strength::OneFactor
            } else {
                methods.strength
            },
            max_age: methods.max_age.filter(|_| !rules.signed_in),
        }),
    }
}

pub(super) fn value(condition: &Condition, visitor: &Visitor) -> Value {
    let fact = |known: Option<bool>| known.ok_or(Missing::Fact);
    let signed_in = |holds: &dyn Fn(&Identity) -> Option<bool>| {
        let answers: Vec<_> = identities(visitor).map(holds).collect();
        match answers {
            answers if answers.is_empty() => Err(Missing::SignIn),
            answers if answers.contains(&Some(true)) => Ok(true),
            answers if answers.contains(&None) => Err(Missing::Fact),
            _ => Ok(false),
        }
    };
    match condition {
        Condition::All(parts) => {
            let values: Vec<Value> = parts.iter().map(|part| value(part, visitor)).collect();
            if values.contains(&Ok(false)) {
                Ok(false)
            } else {
                most_missing(&values).map_or(Ok(true), Err)
            }
        }
        Condition::Any(parts) => {
            let values: Vec<Value> = parts.iter().map(|part| value(part, visitor)).collect();
            if values.contains(&Ok(true)) {
                Ok(true)
            } else {
                most_missing(&values).map_or(Ok(false), Err)
            }
        }
        Condition::Not(part) => value(part, visitor).map(|holds| holds ^ true),
        Condition::Method(method) => fact(visitor.request.as_ref().map(|request| request.method() == method)),
        Condition::Path(pattern) => fact(visitor.request.as_ref().map(|request| match pattern {
            PathPattern::Exact(path) => request.path() == path,
            PathPattern::Prefix(prefix) => below(prefix, request.path()),
        })),
        Condition::Source(network) => Ok(inside(network, visitor.source)),
        Condition::Subject(name) => {
            let mut known = visitor.proofs.iter().map(|proof| proof.principal().subject());
            if visitor.proofs.is_empty() {
                Err(Missing::Proof)
            } else {
                Ok(known.any(|subject| subject == name))
            }
        }
        Condition::Header { name, is } => fact(visitor.request.as_ref().and_then(|request| {
            let lines = request.noted(name)?;
            let mut texts = lines
                .iter()
                .map(|line| String::from_utf8_lossy(line).to_lowercase());
            Some(match is {
                HeaderTest::Present => texts.next().is_some(),
                HeaderTest::Equal(text) => texts.any(|line| line == text.to_lowercase()),
                HeaderTest::Prefix(text) => texts.any(|line| line.starts_with(&text.to_lowercase())),
                HeaderTest::Contains(text) => texts.any(|line| line.contains(&text.to_lowercase())),
            })
        })),
        Condition::Country(country) => fact(visitor.country.map(|known| known == *country)),
        Condition::Asn(asn) => fact(visitor.asn.map(|known| known == *asn)),
        Condition::Time(window) => Ok(window.contains(visitor.now)),
        Condition::User(user) => signed_in(&|identity| Some(identity.principal() == user)),
        Condition::Role(role) => signed_in(&|identity| identity.roles().map(|roles| roles.contains(role))),
        Condition::Group(group) => {
            signed_in(&|identity| identity.groups().map(|groups| groups.contains(group)))
        }
        Condition::Strength(least) => signed_in(&|identity| Some(identity.strength() >= *least)),
    }
}

fn most_missing(values: &[Value]) -> Option<Missing> {
    values.iter().filter_map(|value| value.err()).max()
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
