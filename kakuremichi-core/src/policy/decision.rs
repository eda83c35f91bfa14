//! The decision about one visitor.

use std::{net::IpAddr, time::Duration};

use super::{
    CompiledPolicy, CountryCode,
    judge::{Ruling, judge},
};
use crate::{
    auth::{Identity, Principal, Strength},
    id::{RouteId, ServiceId, ServiceTokenId},
    name::Label,
    request::CanonicalRequest,
    time::Timestamp,
};

/// What is asked for: the service and, in an HTTP service, the route that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The service.
    pub service: ServiceId,
    /// The route.
    pub route: Option<RouteId>,
}

/// What is known about a visitor.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The time.
    pub now: Timestamp,
    /// The visitor's address.
    pub source: IpAddr,
    /// The country of the address. `None` when it is not known: without a database, and for addresses
    /// that are in none, such as private ones (behind a proxy that is not listed, everybody has one).
    pub country: Option<CountryCode>,
    /// The autonomous system of the address; `None` when it is not known.
    pub asn: Option<u32>,
    /// The request, in which the header fields are [noted](CanonicalRequest::note) that the policy looks
    /// at; none at a TCP or UDP service.
    pub request: Option<&'a CanonicalRequest>,
    /// What the visitor has proven.
    pub proofs: &'a [Proof],
    /// An [`Authorizer`](crate::auth::Authorizer) objects.
    pub objection: bool,
}

/// Something that a visitor has proven, and by which kind of method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A password of the service that was asked for.
    Basic {
        /// The service whose password it was: it proves nothing to another.
        service: ServiceId,
        /// Who it is.
        principal: Principal,
    },
    /// What an [`Authenticator`](crate::auth::Authenticator) proved.
    SignedIn(Identity),
    /// A service token of the organization of the service.
    ServiceToken {
        /// Which.
        token: ServiceTokenId,
        /// Whoever holds it.
        principal: Principal,
    },
}

impl Proof {
    /// The authority of whoever holds a service token.
    pub const SERVICE_TOKEN: &'static str = "service-token";

    /// A service token was shown.
    #[must_use]
    pub fn service_token(token: ServiceTokenId) -> Self {
        Self::ServiceToken {
            token,
            principal: Principal::new(Self::SERVICE_TOKEN, token.to_string()),
        }
    }

    /// Who it is.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        match self {
            Self::Basic { principal, .. } | Self::ServiceToken { principal, .. } => principal,
            Self::SignedIn(identity) => identity.principal(),
        }
    }
}

/// The outcome of [`evaluate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The visitor may pass.
    Permit(Permit),
    /// The visitor has to prove something first.
    Challenge(Challenge),
    /// The visitor may not pass.
    Deny(Denial),
}

/// The right to open one upstream connection. Only [`evaluate`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    subject: Subject,
    principal: Option<Principal>,
    rule: Option<Label>,
}

impl Permit {
    /// What was permitted.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        self.subject
    }

    /// Who the visitor is, if a method was asked for.
    #[must_use]
    pub const fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The rule that decided; none when the policy's access did.
    #[must_use]
    pub const fn rule(&self) -> Option<&Label> {
        self.rule.as_ref()
    }
}

/// What a visitor may do to prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// HTTP Basic is one of the methods.
    pub basic: bool,
    /// Signing in is one of the methods, or what a rule wants to know.
    pub signed_in: bool,
    /// A service token is one of the methods.
    pub service_token: bool,
    /// How strongly, when it is by signing in.
    pub strength: Strength,
    /// How long ago the sign-in, or what confirmed it, may be.
    pub max_age: Option<Duration>,
}

/// Why a visitor may not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The rule of this name denies.
    #[error("the rule {0:?} denies")]
    Rule(Label),
    /// The rule of this name would deny if something held that is not known.
    #[error("the rule {0:?} denies, since what it looks at is not known")]
    Unknown(Label),
    /// The visitor has signed in, or shows a service token, as nobody whom a method takes.
    #[error("the visitor has not the role, the group, or the service token, that the policy asks for")]
    Unqualified,
    /// The policy lets nobody in.
    #[error("the policy lets nobody in")]
    Default,
    /// The authorizer objects, or could not find out.
    #[error("the authorizer objects")]
    Authorizer,
    /// The policy needs a proof that this kind of service cannot ask for.
    #[error("the policy asks for a proof that cannot be given over this protocol")]
    NoMethod,
}

impl Denial {
    /// The rule that decided, if it was one.
    #[must_use]
    pub const fn rule(&self) -> Option<&Label> {
        match self {
            Self::Rule(rule) | Self::Unknown(rule) => Some(rule),
            Self::Unqualified | Self::Default | Self::Authorizer | Self::NoMethod => None,
        }
    }
}

/// Decides whether a visitor may reach `subject`. The same facts always get the same decision.
#[must_use]
pub fn evaluate(policy: &CompiledPolicy, subject: Subject, facts: &Facts<'_>) -> Decision {
    match judge(policy, subject, facts, &mut ()).ruling {
        Ruling::Permit { principal, rule } => Decision::Permit(Permit {
            subject,
            principal: principal.cloned(),
            rule: rule.cloned(),
        }),
        Ruling::Challenge(challenge) => Decision::Challenge(challenge),
        Ruling::Deny(denial) => Decision::Deny(denial),
    }
}
