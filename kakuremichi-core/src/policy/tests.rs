//! Decisions, by example and against an evaluator that was written another way.

mod arbitrary;
mod examples;
mod naive;
mod properties;

use std::net::IpAddr;

use super::*;
use crate::{
    auth::Principal,
    id::{RouteId, ServiceId},
    request::CanonicalRequest,
    time::Timestamp,
};

const SERVICE: ServiceId = ServiceId::from_bytes([1; 16]);
const OTHER: ServiceId = ServiceId::from_bytes([2; 16]);
const SUBJECT: Subject = Subject {
    service: SERVICE,
    route: Some(RouteId::from_bytes([3; 16])),
};
/// 2024-01-01 12:00 UTC, a Monday.
const NOON: Timestamp = Timestamp::from_millis(1_704_110_400_000);

/// What a visitor brings, owned.
#[derive(Debug, Clone)]
struct Visitor {
    now: Timestamp,
    source: IpAddr,
    country: Option<CountryCode>,
    asn: Option<u32>,
    request: Option<CanonicalRequest>,
    proofs: Vec<Proof>,
    objection: bool,
}

impl Visitor {
    fn facts(&self) -> Facts<'_> {
        Facts {
            now: self.now,
            source: self.source,
            country: self.country,
            asn: self.asn,
            request: self.request.as_ref(),
            proofs: &self.proofs,
            objection: self.objection,
        }
    }
}

/// A decision as far as it can be told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Permit {
        rule: Option<String>,
        principal: Option<Principal>,
    },
    Challenge(Challenge),
    Deny(Denial),
}

fn decide(policy: &CompiledPolicy, visitor: &Visitor) -> Told {
    match evaluate(policy, SUBJECT, &visitor.facts()) {
        Decision::Permit(permit) => {
            assert_eq!(permit.subject(), SUBJECT);
            Told::Permit {
                rule: permit.rule().map(ToString::to_string),
                principal: permit.principal().cloned(),
            }
        }
        Decision::Challenge(challenge) => Told::Challenge(challenge),
        Decision::Deny(denial) => Told::Deny(denial),
    }
}

fn told(policy: &Policy, visitor: &Visitor) -> Told {
    decide(&CompiledPolicy::new(policy), visitor)
}
