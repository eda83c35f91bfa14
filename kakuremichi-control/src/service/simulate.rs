//! Would this visitor reach that, and which rule decides?

use std::net::IpAddr;

use kakuremichi_core::{
    id::{ServiceId, ServiceTokenId},
    model::{Route, Service, ServiceKind},
    name::{HostPattern, Hostname, Label},
    policy::{CountryCode, Explanation, Facts, PolicySet, Proof, SharedPolicy, Subject, explain},
    request::CanonicalRequest,
    store::{Stored, UniqueKey},
    time::Timestamp,
};

use super::{Actor, Reference, UseCaseError, UseCases};

/// A visitor to try.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// The service; without one it is found by the host of the request.
    pub service: Option<Reference<ServiceId>>,
    /// The request; none at a TCP or UDP service. A header field that is not noted in it was not sent.
    pub request: Option<CanonicalRequest>,
    /// The time.
    pub now: Timestamp,
    /// The visitor's address.
    pub source: IpAddr,
    /// The country of the address, if it is known.
    pub country: Option<CountryCode>,
    /// The autonomous system of the address, if it is known.
    pub asn: Option<u32>,
    /// What the visitor proves; a password is of the service.
    pub proof: Option<SimulatedProof>,
}

/// What a visitor proves.
#[derive(Debug, Clone)]
pub enum SimulatedProof {
    /// The password of this user of the service.
    Basic(String),
    /// Who they are.
    SignedIn(kakuremichi_core::auth::Identity),
    /// A service token.
    ServiceToken(Reference<ServiceTokenId>),
}

/// What would happen to the visitor.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// The service.
    pub service: Service,
    /// The route, in an HTTP service. Without one nothing is decided: nothing is at the path.
    pub route: Option<Route>,
    /// What is decided, and why; none if an HTTP service has no route for the path.
    pub explanation: Option<Explanation>,
    /// The shared policies that are attached.
    pub policies: Vec<SharedPolicy>,
}

impl UseCases {
    /// Tries a visitor, with the function that gateways decide by.
    ///
    /// # Errors
    /// When the service is not there, the request is not one that it takes, or the storage fails.
    pub async fn simulate(&self, actor: &Actor, simulation: Simulation) -> Result<Simulated, UseCaseError> {
        let service = self.simulated_service(actor, &simulation).await?.value;
        let route = match (&service.kind, &simulation.request) {
            (ServiceKind::Http { routes, .. }, Some(request)) => {
                let matching = routes.iter().filter(|route| route.path.matches(request.path()));
                let nearest = matching.max_by_key(|route| route.path.specificity());
                let Some(route) = nearest else {
                    return Ok(Simulated {
                        service,
                        route: None,
                        explanation: None,
                        policies: Vec::new(),
                    });
                };
                Some(route.clone())
            }
            (ServiceKind::Http { .. }, None) => {
                return Err(UseCaseError::field("url", "an HTTP service is asked by a `url`"));
            }
            (ServiceKind::Tcp { .. } | ServiceKind::Udp { .. }, _) => None,
        };
        let (mut set, mut policies) = (PolicySet::default(), Vec::new());
        let of_route: &[_] = route.as_ref().map_or(&[], |route| &route.policies);
        for id in service.policies.iter().chain(of_route) {
            let policy = self.policy(actor, *id).await?.value;
            set.insert(policy.id, &policy.rules, policy.access.as_ref());
            policies.push(policy);
        }
        // Nothing is attached that was not just read.
        let compiled = set
            .compose(&service.policies, of_route, &service.policy)
            .unwrap_or_default();
        let mut request = simulation.request.filter(|_| route.is_some());
        for name in &compiled.needs().headers {
            request = request.map(|request| match request.noted(name) {
                Some(_) => request,
                None => request.note(name.clone(), []),
            });
        }
        let subject = Subject {
            service: service.id,
            route: route.as_ref().map(|route| route.id),
        };
        let proof = match simulation.proof {
            None => None,
            Some(SimulatedProof::Basic(name)) => Some(Proof::Basic {
                service: service.id,
                principal: kakuremichi_core::auth::Principal::new("basic", name),
            }),
            Some(SimulatedProof::SignedIn(identity)) => Some(Proof::SignedIn(identity)),
            Some(SimulatedProof::ServiceToken(token)) => {
                self.simulated_token(actor, &token, simulation.now).await?
            }
        };
        let proofs: Vec<_> = proof.into_iter().collect();
        let facts = Facts {
            now: simulation.now,
            source: simulation.source,
            country: simulation.country,
            asn: simulation.asn,
            request: request.as_ref(),
            proofs: &proofs,
            objection: false,
        };
        let explanation = explain(&compiled, subject, &facts);
        Ok(Simulated {
            service,
            route,
            explanation: Some(explanation),
            policies,
        })
    }

    /// What a service token proves; nothing once it is over.
    async fn simulated_token(
        &self,
        actor: &Actor,
        token: &Reference<ServiceTokenId>,
        now: Timestamp,
    ) -> Result<Option<Proof>, UseCaseError> {
        let found = self.find_service_token(actor, token).await?;
        let missing = || UseCaseError::field("visitor.service_token", "there is no such service token");
        let token = found.ok_or_else(missing)?;
        let good = token.expires.is_none_or(|expires| now < expires);
        Ok(good.then(|| Proof::service_token(token.id)))
    }

    async fn simulated_service(
        &self,
        actor: &Actor,
        simulation: &Simulation,
    ) -> Result<Stored<Service>, UseCaseError> {
        let host = simulation.request.as_ref().map(CanonicalRequest::host);
        let missing =
            |field: &str| UseCaseError::field(field, "there is no such service in this organization");
        match &simulation.service {
            Some(Reference::Id(id)) => self.service(actor, *id).await,
            Some(Reference::Name(name)) => {
                let key = UniqueKey::ServiceName(actor.organization, Label::clone(name));
                self.own_service(actor, &key)
                    .await?
                    .ok_or_else(|| missing("service"))
            }
            None => {
                let host = host.ok_or_else(|| UseCaseError::field("url", "give a `url` or a `service`"))?;
                for pattern in patterns(host) {
                    // As in a gateway: who has the host itself goes before who has a wildcard.
                    if let Some(found) = self.store().find(&UniqueKey::Host(pattern)).await? {
                        let found = found.narrow::<Service>();
                        return found
                            .filter(|stored| stored.value.organization == actor.organization)
                            .ok_or_else(|| missing("url"));
                    }
                }
                Err(missing("url"))
            }
        }
    }

    async fn own_service(
        &self,
        actor: &Actor,
        key: &UniqueKey,
    ) -> Result<Option<Stored<Service>>, UseCaseError> {
        let found = self.store().find(key).await?.and_then(Stored::narrow::<Service>);
        Ok(found.filter(|stored| stored.value.organization == actor.organization))
    }
}

/// The patterns by which a service can have a host, the exact one first.
fn patterns(host: &Hostname) -> impl Iterator<Item = HostPattern> {
    let base = host
        .as_str()
        .split_once('.')
        .and_then(|(_, base)| base.parse().ok());
    [HostPattern::Exact(host.clone())]
        .into_iter()
        .chain(base.map(HostPattern::Wildcard))
}
