//! Conditions, flat: each node before its parts, with the place behind its last one.

use std::net::IpAddr;

use crate::{
    auth::{Identity, Principal, Strength},
    name::{Label, PathPattern},
    net::Cidr,
    policy::{
        Condition, CountryCode, Facts, HeaderTest, Missing, Proof, TimeWindow, Truth, condition::Found,
    },
    request::{CanonicalRequest, HeaderName},
};

/// A node of a condition.
#[derive(Debug)]
pub(super) struct Node {
    test: Test,
    /// Where the next one beside it begins.
    end: usize,
}

#[derive(Debug)]
enum Test {
    All,
    Any,
    Not,
    Path(PathPattern),
    Method(String),
    Source { v4: bool, bits: u128, mask: u128 },
    Subject(String),
    Header(HeaderName, HeaderTest),
    Country(CountryCode),
    Asn(u32),
    Time(TimeWindow),
    User(Principal),
    Role(Label),
    Group(String),
    Strength(Strength),
}

/// Appends a condition.
pub(super) fn write(condition: &Condition, nodes: &mut Vec<Node>) {
    let test = match condition {
        Condition::All(_) => Test::All,
        Condition::Any(_) => Test::Any,
        Condition::Not(_) => Test::Not,
        Condition::Path(pattern) => Test::Path(pattern.clone()),
        Condition::Method(method) => Test::Method(method.clone()),
        Condition::Source(network) => source(network),
        Condition::Subject(subject) => Test::Subject(subject.clone()),
        Condition::Header { name, is } => Test::Header(name.clone(), is.clone()),
        Condition::Country(country) => Test::Country(*country),
        Condition::Asn(asn) => Test::Asn(*asn),
        Condition::Time(window) => Test::Time(*window),
        Condition::User(principal) => Test::User(principal.clone()),
        Condition::Role(role) => Test::Role(role.clone()),
        Condition::Group(group) => Test::Group(group.clone()),
        Condition::Strength(strength) => Test::Strength(*strength),
    };
    let place = nodes.len();
    nodes.push(Node { test, end: 0 });
    for part in condition.parts() {
        write(part, nodes);
    }
    nodes[place].end = nodes.len();
}

fn source(network: &Cidr) -> Test {
    let (v4, bits) = bits(network.address());
    let host_bits = if v4 { 32 } else { 128 } - u32::from(network.length());
    Test::Source {
        v4,
        bits,
        mask: u128::MAX.checked_shl(host_bits).unwrap_or(0),
    }
}

/// Families never match each other: an IPv4-mapped address was made an IPv4 address before.
const fn bits(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (true, v4.to_bits() as u128),
        IpAddr::V6(v6) => (false, v6.to_bits()),
    }
}

/// The facts, with what many conditions ask for made ready.
#[derive(Debug)]
pub(in crate::policy) struct Prepared<'a> {
    pub(in crate::policy) facts: &'a Facts<'a>,
    v4: bool,
    source: u128,
}

impl<'a> Prepared<'a> {
    pub(in crate::policy) fn new(facts: &'a Facts<'a>) -> Self {
        let (v4, source) = bits(facts.source.to_canonical());
        Self { facts, v4, source }
    }

    /// The value of the condition at `place`, of a rule whose condition begins at `start`.
    pub(super) fn value(&self, nodes: &[Node], start: usize, place: usize) -> Found {
        let node = &nodes[place];
        let here = |truth| Found {
            truth,
            // A condition has no more nodes than MAX_CONDITION_NODES.
            part: (place - start) as u16,
        };
        match &node.test {
            Test::All => self
                .first(nodes, start, place, Truth::False)
                .unwrap_or_else(|| here(Truth::True)),
            Test::Any => self
                .first(nodes, start, place, Truth::True)
                .unwrap_or_else(|| here(Truth::False)),
            Test::Not => {
                let found = self.value(nodes, start, place + 1);
                Found {
                    truth: found.truth.negated(),
                    ..found
                }
            }
            test => here(self.holds(test)),
        }
    }

    /// The first of the parts of `place` that has the value `decisive`, or else the first of those that are
    /// unknown for want of what counts most.
    fn first(&self, nodes: &[Node], start: usize, place: usize, decisive: Truth) -> Option<Found> {
        let (end, mut next) = (nodes[place].end, place + 1);
        let mut unknown: Option<(Missing, Found)> = None;
        while next < end {
            let found = self.value(nodes, start, next);
            if found.truth == decisive {
                return Some(found);
            }
            if let Truth::Unknown(missing) = found.truth
                && unknown.is_none_or(|(most, _)| most < missing)
            {
                unknown = Some((missing, found));
            }
            next = nodes[next].end;
        }
        unknown.map(|(_, found)| found)
    }

    /// What a condition without parts is.
    fn holds(&self, test: &Test) -> Truth {
        match test {
            Test::Path(pattern) => self.request(|request| pattern.matches(request.path())),
            Test::Method(method) => self.request(|request| request.method() == method),
            Test::Source { v4, bits, mask } => (*v4 == self.v4 && self.source & mask == *bits).into(),
            Test::Country(country) => known(self.facts.country.map(|known| known == *country)),
            Test::Asn(asn) => known(self.facts.asn.map(|known| known == *asn)),
            Test::Time(window) => window.contains(self.facts.now).into(),
            Test::Header(name, is) => {
                let lines = self.facts.request.and_then(|request| request.noted(name));
                known(lines.map(|lines| is.matches(lines)))
            }
            Test::Subject(name) => match self.facts.proofs {
                [] => Truth::Unknown(Missing::Proof),
                proofs => proofs
                    .iter()
                    .any(|proof| proof.principal().subject() == name)
                    .into(),
            },
            Test::User(user) => self.identity(|identity| Some(identity.principal() == user)),
            Test::Role(role) => self.identity(|identity| Some(identity.roles()?.contains(role))),
            Test::Group(group) => self.identity(|identity| Some(identity.groups()?.contains(group))),
            Test::Strength(least) => self.identity(|identity| Some(identity.strength() >= *least)),
            // These have parts.
            Test::All | Test::Any | Test::Not => Truth::Unknown(Missing::Fact),
        }
    }

    fn request(&self, holds: impl FnOnce(&CanonicalRequest) -> bool) -> Truth {
        known(self.facts.request.map(holds))
    }

    /// Whether it holds of somebody whom the visitor signed in as.
    fn identity(&self, holds: impl Fn(&Identity) -> Option<bool>) -> Truth {
        let mut all = Truth::Unknown(Missing::SignIn);
        for proof in self.facts.proofs {
            let Proof::SignedIn(identity) = proof else {
                continue;
            };
            match known(holds(identity)) {
                Truth::True => return Truth::True,
                Truth::False if all == Truth::Unknown(Missing::SignIn) => all = Truth::False,
                Truth::False => {}
                Truth::Unknown(missing) => all = Truth::Unknown(missing),
            }
        }
        all
    }
}

fn known(holds: Option<bool>) -> Truth {
    holds.map_or(Truth::Unknown(Missing::Fact), Into::into)
}
