//! The decision about one visitor.

use std::net::IpAddr;

use super::{Access, Effect, Method, Policy};
use crate::{
    auth::Principal,
    id::{RouteId, ServiceId},
    name::Label,
    request::CanonicalRequest,
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
    /// The visitor's address.
    pub source: IpAddr,
    /// The request; none at a TCP or UDP service.
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
    /// A principal that an [`Authenticator`](crate::auth::Authenticator) proved.
    SignedIn(Principal),
}

impl Proof {
    /// Who it is.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        match self {
            Self::Basic { principal, .. } | Self::SignedIn(principal) => principal,
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
    /// Signing in is one of the methods.
    pub signed_in: bool,
}

/// Why a visitor may not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The rule of this name denies.
    #[error("the rule {0:?} denies")]
    Rule(Label),
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

/// Decides whether a visitor may reach `subject`. The same facts always get the same decision.
#[must_use]
pub fn evaluate(policy: &Policy, subject: Subject, facts: &Facts<'_>) -> Decision {
    if facts.objection {
        return Decision::Deny(Denial::Authorizer);
    }
    let permit = |principal: Option<&Principal>, rule: Option<&Label>| {
        Decision::Permit(Permit {
            subject,
            principal: principal.cloned(),
            rule: rule.cloned(),
        })
    };
    if let Some(rule) = policy.rules.iter().find(|rule| rule.when.holds(facts)) {
        return match rule.effect {
            Effect::Allow => permit(facts.proofs.first().map(Proof::principal), Some(&rule.name)),
            Effect::Deny => Decision::Deny(Denial::Rule(rule.name.clone())),
        };
    }
    let methods = match &policy.access {
        Access::Deny => return Decision::Deny(Denial::Default),
        Access::Public => return permit(None, None),
        Access::AnyOf(methods) => methods,
    };
    let proven = methods
        .iter()
        .find_map(|method| facts.proofs.iter().find(|proof| accepts(method, subject, proof)));
    match proven {
        Some(proof) => permit(Some(proof.principal()), None),
        None if facts.request.is_none() => Decision::Deny(Denial::NoMethod),
        None => Decision::Challenge(Challenge {
            basic: methods
                .iter()
                .any(|method| matches!(method, Method::Basic { .. })),
            signed_in: methods.contains(&Method::SignedIn),
        }),
    }
}

fn accepts(method: &Method, subject: Subject, proof: &Proof) -> bool {
    match (method, proof) {
        (Method::Basic { users }, Proof::Basic { service, principal }) => {
            *service == subject.service && users.iter().any(|user| user.name == principal.subject())
        }
        (Method::SignedIn, Proof::SignedIn(_)) => true,
        (Method::Basic { .. }, Proof::SignedIn(_)) | (Method::SignedIn, Proof::Basic { .. }) => false,
    }
}
