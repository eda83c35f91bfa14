//! Policies and visitors from a small world, in which they often have to do with each other.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    auth::{Identity, Strength},
    name::{Label, PathPattern},
    net::Cidr,
};

fn parsed<T>(options: &'static [&'static str]) -> impl Strategy<Value = T>
where
    T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug,
{
    prop::sample::select(options).prop_map(|text| text.parse().unwrap())
}

pub(super) fn text(options: &'static [&'static str]) -> impl Strategy<Value = String> {
    parsed(options)
}

fn address() -> impl Strategy<Value = IpAddr> {
    parsed(&[
        "192.0.2.1",
        "192.0.2.200",
        "198.51.100.1",
        "2001:db8::1",
        "2001:db9::1",
        "::ffff:192.0.2.1",
    ])
}

fn network() -> impl Strategy<Value = Cidr> {
    parsed(&[
        "192.0.2.0/25",
        "192.0.2.0/24",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::/31",
        "2001:db8::1",
    ])
}

fn path() -> impl Strategy<Value = PathPattern> {
    parsed(&["/", "/a", "/a/", "=/a", "=/a/", "/a/b", "/ab"])
}

fn country() -> impl Strategy<Value = CountryCode> {
    parsed(&["DE", "JP"])
}

fn role() -> impl Strategy<Value = Label> {
    parsed(&["admin", "staff"])
}

fn group() -> impl Strategy<Value = String> {
    text(&["ops", "Ops"])
}

fn user() -> impl Strategy<Value = Principal> {
    (text(&["sso", "ldap"]), text(&["ann", "eve"]))
        .prop_map(|(authority, subject)| Principal::new(authority, subject))
}

fn strength() -> impl Strategy<Value = Strength> {
    prop::sample::select(
        &[
            Strength::OneFactor,
            Strength::TwoFactors,
            Strength::PhishingResistant,
        ][..],
    )
}

/// How long ago something was, or may be.
fn age() -> impl Strategy<Value = Duration> {
    prop::sample::select(&[5, 10, 60][..]).prop_map(|minutes| Duration::from_secs(minutes * 60))
}

fn time() -> impl Strategy<Value = TimeWindow> {
    let days = (1..=0x7fu8).prop_map(|bits| Weekdays::from_bits(bits).unwrap());
    (days, 0..1440u16, 0..=1440u16, -720..=840i16)
        .prop_filter_map("a window of no time", |(days, from, to, offset)| {
            TimeWindow::new(days, from, to, offset).ok()
        })
}

fn header() -> impl Strategy<Value = Condition> {
    let text = || text(&["curl", "CURL/8", "l/", ""]);
    let is = prop_oneof![
        Just(HeaderTest::Present),
        text().prop_map(HeaderTest::Equal),
        text().prop_map(HeaderTest::Prefix),
        text().prop_map(HeaderTest::Contains),
    ];
    (parsed(&["user-agent", "x-other"]), is).prop_map(|(name, is)| Condition::Header { name, is })
}

pub(super) fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        path().prop_map(Condition::Path),
        text(&["GET", "POST", "get"]).prop_map(Condition::Method),
        network().prop_map(Condition::Source),
        text(&["ann", "bob"]).prop_map(Condition::Subject),
        header(),
        country().prop_map(Condition::Country),
        (1..3u32).prop_map(Condition::Asn),
        time().prop_map(Condition::Time),
        user().prop_map(Condition::User),
        role().prop_map(Condition::Role),
        group().prop_map(Condition::Group),
        strength().prop_map(Condition::Strength),
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
    let effect = prop::sample::select(&[Effect::Allow, Effect::Deny, Effect::Continue][..]);
    (
        parsed(&["one", "two", "three"]),
        condition(),
        effect,
        prop::bool::weighted(0.15),
    )
        .prop_map(|(name, when, effect, dry_run)| Rule {
            name,
            when,
            effect,
            dry_run,
        })
}

pub(super) fn rules() -> impl Strategy<Value = Vec<Rule>> {
    prop::collection::vec(rule(), 0..5)
}

pub(super) fn method() -> impl Strategy<Value = Method> {
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
    let requirement = (
        prop::collection::vec(role(), 0..2),
        prop::collection::vec(group(), 0..2),
        strength(),
        prop::option::of(age()),
    );
    let signed_in = requirement.prop_map(|(roles, groups, strength, max_age)| {
        Method::SignedIn(Requirement {
            roles,
            groups,
            strength,
            max_age,
        })
    });
    let tokens = prop::collection::vec(service_token(), 0..3);
    let tokens = tokens.prop_map(|tokens| Method::ServiceToken { tokens });
    prop_oneof![basic, Just(Method::signed_in()), signed_in, tokens]
}

pub(super) fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        Just(Access::Deny),
        Just(Access::Public),
        prop::collection::vec(method(), 1..3).prop_map(Access::AnyOf),
        prop::collection::vec(method(), 1..3).prop_map(Access::AllOf),
    ]
}

pub(super) fn policy() -> impl Strategy<Value = Policy> {
    (rules(), access()).prop_map(|(rules, access)| Policy { rules, access })
}

fn proof() -> impl Strategy<Value = Proof> {
    let basic = (any::<bool>(), text(&["ann", "bob"])).prop_map(|(here, name)| Proof::Basic {
        service: if here { SERVICE } else { OTHER },
        principal: Principal::new("basic", name),
    });
    let token = service_token().prop_map(Proof::service_token);
    prop_oneof![basic, identity().prop_map(Proof::SignedIn), token]
}

fn service_token() -> impl Strategy<Value = ServiceTokenId> {
    (1..3u8).prop_map(|n| ServiceTokenId::from_bytes([n; 16]))
}

pub(super) fn identity() -> impl Strategy<Value = Identity> {
    (
        user(),
        prop::option::of(prop::collection::vec(role(), 0..2)),
        prop::option::of(prop::collection::vec(group(), 0..2)),
        strength(),
        prop::option::of(age()),
    )
        .prop_map(|(user, roles, groups, strength, ago)| {
            let mut identity = Identity::new(user).with_strength(strength);
            if let Some(ago) = ago {
                let ago = i64::try_from(ago.as_millis()).unwrap();
                identity = identity.with_authenticated(Timestamp::from_millis(NOON.as_millis() - ago));
            }
            if let Some(roles) = roles {
                identity = identity.with_roles(roles);
            }
            match groups {
                Some(groups) => identity.with_groups(groups),
                None => identity,
            }
        })
}

/// A request that has, for each field, noted that it was sent, noted that it was not, or nothing.
fn request() -> impl Strategy<Value = CanonicalRequest> {
    let lines = || {
        prop::option::of(prop::collection::vec(
            text(&["curl", "curl/8", "x curl/8 y"]),
            0..3,
        ))
    };
    (
        text(&["GET", "POST"]),
        text(&["/", "/a", "/a/", "/a/b", "/ab", "/b?x=/a"]),
        lines(),
        lines(),
    )
        .prop_map(|(method, target, agent, other)| {
            let mut request = CanonicalRequest::parse(&method, "h.example", &target).unwrap();
            for (name, lines) in [("user-agent", agent), ("x-other", other)] {
                if let Some(lines) = lines {
                    request = request.note(name.parse().unwrap(), lines.iter().map(|line| line.as_bytes()));
                }
            }
            request
        })
}

pub(super) fn visitor() -> impl Strategy<Value = Visitor> {
    (
        (0..7 * 24 * 60i64).prop_map(|minutes| Timestamp::from_millis(NOON.as_millis() + minutes * 60_000)),
        address(),
        prop::option::of(country()),
        prop::option::of(1..3u32),
        prop::option::weighted(0.85, request()),
        prop::collection::vec(proof(), 0..3),
        prop::bool::weighted(0.05),
    )
        .prop_map(
            |(now, source, country, asn, request, proofs, objection)| Visitor {
                now,
                source,
                country,
                asn,
                request,
                proofs,
                objection,
            },
        )
}
