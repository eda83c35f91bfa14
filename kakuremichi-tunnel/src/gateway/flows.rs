//! What is open on behalf of visitors, so that it can be closed when it is no longer permitted.
//!
//! Each exchange holds a [`Lease`] from the moment it is permitted. A new plan decides about all of
//! them anew, by the same function and the same facts; whoever loses the permit is closed.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use kakuremichi_core::{
    id::{OrganizationId, ServiceId},
    model::Transport,
    policy::{
        CompiledPolicy, CountryCode, Decision, Denial, Explanation, Facts, Proof, Subject, evaluate, explain,
    },
    request::CanonicalRequest,
    secret::SecretHash,
};
use kakuremichi_proto::sign_in::GatewaySession;
use slab::Slab;

use super::{access::wall_clock, sign_in::People, table::RouteTable};

/// What a decision was made from.
#[derive(Debug, Clone)]
pub(crate) struct KnownFacts {
    /// What was asked for.
    pub(crate) subject: Subject,
    /// The visitor's address.
    pub(crate) source: IpAddr,
    /// The country of the address, if it is known.
    pub(crate) country: Option<CountryCode>,
    /// The autonomous system of the address, if it is known.
    pub(crate) asn: Option<u32>,
    /// The request, or the port of a TCP or UDP service.
    pub(crate) asked: AskedFor,
    /// What the visitor proved.
    pub(crate) proofs: Vec<Proof>,
    /// The hash that the visitor's password was verified by: the proof lasts as long as that.
    pub(crate) password_hash: Option<String>,
    /// The session that the visitor signed in with: who the visitor is now, the plan says.
    pub(crate) session: Option<Arc<GatewaySession>>,
    /// The hash of the service token that was shown: what it leads to now, the plan says.
    pub(crate) service_token: Option<SecretHash>,
}

/// What a visitor asked for.
#[derive(Debug, Clone)]
pub(crate) enum AskedFor {
    /// A request.
    Http(CanonicalRequest),
    /// A connection to a port, or a session at one.
    Port(Transport, u16),
}

impl KnownFacts {
    /// Looks up who the visitor is by their session, and by their service token, in the place of what was found before.
    /// Returns whether it is anybody.
    pub(crate) fn look_up(&mut self, people: &People, organization: OrganizationId) -> bool {
        let now = wall_clock();
        let (mut person, mut program) = (None, None);
        if let Some(session) = &self.session {
            self.proofs.retain(|proof| !matches!(proof, Proof::SignedIn(_)));
            person = people.identity(organization, session, now).map(Proof::SignedIn);
        }
        if let Some(hash) = &self.service_token {
            let is_token = |proof: &Proof| matches!(proof, Proof::ServiceToken { .. });
            self.proofs.retain(|proof| !is_token(proof));
            program = people
                .service_token(organization, hash, now)
                .map(Proof::service_token);
        }
        let found = person.is_some() || program.is_some();
        self.proofs.extend(person.into_iter().chain(program));
        found
    }

    /// Decides by a policy, from these facts and the time alone.
    pub(crate) fn decide(&self, policy: &CompiledPolicy, objection: bool) -> Decision {
        evaluate(policy, self.subject, &self.facts(objection))
    }

    /// Says how [`decide`](Self::decide) comes to what it decides.
    pub(crate) fn explain(&self, policy: &CompiledPolicy) -> Explanation {
        explain(policy, self.subject, &self.facts(false))
    }

    fn facts(&self, objection: bool) -> Facts<'_> {
        Facts {
            now: wall_clock(),
            source: self.source,
            country: self.country,
            asn: self.asn,
            request: match &self.asked {
                AskedFor::Http(request) => Some(request),
                AskedFor::Port(..) => None,
            },
            proofs: &self.proofs,
            objection,
        }
    }

    /// Why the exchange is no longer permitted under `table`; `None` while it is.
    fn lapsed(&self, table: &RouteTable) -> Option<Lapse> {
        let found = match &self.asked {
            AskedFor::Http(request) => {
                let found = table.find(request.host(), request.path()).ok();
                let found = found.filter(|found| Some(found.route().id) == self.subject.route);
                found.map(|found| {
                    let service = &found.service;
                    (
                        service.id,
                        service.organization,
                        Arc::clone(&found.route().policy),
                    )
                })
            }
            AskedFor::Port(transport, port) => {
                let service = table.port(*transport, *port);
                service.map(|service| (service.id, service.organization, Arc::clone(&service.policy)))
            }
        };
        let found = found.filter(|(service, ..)| *service == self.subject.service);
        let Some((_, organization, policy)) = found else {
            return Some(Lapse::Gone);
        };
        let mut facts = self.clone();
        facts.look_up(table.people(), organization);
        if !self.password_stands(&policy) {
            facts.proofs.retain(|proof| !matches!(proof, Proof::Basic { .. }));
        }
        match facts.decide(&policy, false) {
            Decision::Permit(_) => None,
            Decision::Challenge(_) => Some(Lapse::Unproven),
            Decision::Deny(denial) => Some(Lapse::Denied(denial)),
        }
    }

    fn password_stands(&self, policy: &CompiledPolicy) -> bool {
        let Some(hash) = &self.password_hash else {
            return true;
        };
        let access = policy.access();
        access.methods().is_empty() || access.basic_users().any(|user| user.password_hash == *hash)
    }
}

/// Why an exchange is no longer permitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lapse {
    /// The service, or the route, is no longer there.
    #[error("the service or its route is gone")]
    Gone,
    /// What the visitor proved no longer counts.
    #[error("the proof no longer counts")]
    Unproven,
    /// The policy denies.
    #[error(transparent)]
    Denied(Denial),
}

/// Everything that is open on one shard.
#[derive(Debug, Default)]
pub(crate) struct OpenFlows {
    leases: RefCell<Slab<Rc<Held>>>,
    total: Total,
}

/// How much is open on all shards.
#[derive(Debug, Clone, Default)]
pub(crate) struct Total(Arc<AtomicUsize>);

impl Total {
    /// The number.
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Held {
    facts: KnownFacts,
    revoked: Cell<bool>,
    /// Whoever waits for the revocation: the body, or the relay, of one exchange.
    waker: RefCell<Option<Waker>>,
}

impl OpenFlows {
    /// What is open is counted in `total`, too.
    pub(crate) fn new(total: Total) -> Self {
        Self {
            leases: RefCell::default(),
            total,
        }
    }

    /// Registers what was permitted.
    pub(crate) fn lease(self: &Rc<Self>, facts: KnownFacts) -> Lease {
        let held = Rc::new(Held {
            facts,
            revoked: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.total.0.fetch_add(1, Ordering::Relaxed);
        Lease {
            slot: self.leases.borrow_mut().insert(Rc::clone(&held)),
            held,
            flows: Rc::clone(self),
        }
    }

    /// How many are open on this shard.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.leases.borrow().len()
    }

    /// Decides anew about everything that is open. Returns how many lost their permit.
    pub(crate) fn decide_anew(&self, table: &RouteTable) -> usize {
        let leases = self.leases.borrow();
        let revoked: Vec<_> = leases
            .iter()
            .filter(|(_, held)| !held.revoked.get() && held.decide_anew(table))
            .map(|(_, held)| Rc::clone(held))
            .collect();
        drop(leases);
        // A waker may run code that drops a lease.
        for held in &revoked {
            if let Some(waker) = held.waker.take() {
                waker.wake();
            }
        }
        revoked.len()
    }
}

impl Held {
    /// Decides anew; whether the permit is lost.
    fn decide_anew(&self, table: &RouteTable) -> bool {
        let Some(lapse) = self.facts.lapsed(table) else {
            return false;
        };
        let service: ServiceId = self.facts.subject.service;
        tracing::info!(%service, reason = %lapse, "closing what is no longer permitted");
        self.revoked.set(true);
        true
    }
}

/// Tells whether a permit was revoked.
#[derive(Debug)]
pub(crate) struct Revocation(Rc<Held>);

impl Revocation {
    /// Whether it was.
    pub(crate) fn has_come(&self) -> bool {
        self.0.revoked.get()
    }
}

/// The permit of one exchange, for as long as it stands. Dropping it ends the registration.
#[derive(Debug)]
pub(crate) struct Lease {
    flows: Rc<OpenFlows>,
    slot: usize,
    held: Rc<Held>,
}

impl Lease {
    /// Decides anew about this one, by a table that came while it was being made. Returns whether the
    /// permit is lost.
    pub(crate) fn decide_anew(&self, table: &RouteTable) -> bool {
        self.held.decide_anew(table)
    }

    /// Tells of the revocation, beside whoever waits for it.
    pub(crate) fn revocation(&self) -> Revocation {
        Revocation(Rc::clone(&self.held))
    }

    /// Whether the permit was revoked; wakes the task when it is. One task may wait at a time.
    pub(crate) fn poll_revoked(&self, cx: &Context<'_>) -> Poll<()> {
        if self.held.revoked.get() {
            return Poll::Ready(());
        }
        let mut waker = self.held.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until the permit is revoked.
    pub(crate) async fn revoked(&self) {
        poll_fn(|cx| self.poll_revoked(cx)).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.flows.leases.borrow_mut().try_remove(self.slot);
        self.flows.total.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        auth::Principal,
        id::RouteId,
        model::IdentityForm,
        plan::{
            GatewayPlan, GatewayRecord, GatewayService, PlannedKind, PlannedPool, PlannedRoute, Revision,
        },
        policy::{Access, BasicUser, Condition, Effect, Method, Policy, Rule, TimeWindow, Weekdays},
    };

    use super::*;

    const SERVICE: ServiceId = ServiceId::from_bytes([1; 16]);
    const ROUTE: RouteId = RouteId::from_bytes([2; 16]);

    fn table(host: &str, route: RouteId, policy: Policy) -> RouteTable {
        let service = GatewayService {
            id: SERVICE,
            organization: OrganizationId::from_bytes([9; 16]),
            name: "web".parse().unwrap(),
            kind: PlannedKind::Http {
                hosts: vec![host.parse().unwrap()],
                routes: vec![PlannedRoute {
                    id: route,
                    path: "/".parse().unwrap(),
                    pool: PlannedPool::default(),
                    policies: Vec::new(),
                }],
                identity: IdentityForm::default(),
            },
            policy,
            policies: Vec::new(),
        };
        RouteTable::new(&GatewayPlan::new(Revision(1), [GatewayRecord::Service(service)]))
    }

    fn basic(hash: &str) -> Policy {
        let user = BasicUser {
            name: "ann".to_owned(),
            password_hash: hash.to_owned(),
        };
        Policy {
            rules: Vec::new(),
            access: Access::AnyOf(vec![Method::Basic { users: vec![user] }]),
        }
    }

    fn facts(proofs: Vec<Proof>, hash: Option<&str>) -> KnownFacts {
        KnownFacts {
            subject: Subject {
                service: SERVICE,
                route: Some(ROUTE),
            },
            source: "192.0.2.1".parse().unwrap(),
            country: None,
            asn: None,
            asked: AskedFor::Http(CanonicalRequest::parse("GET", "h.example", "/x").unwrap()),
            proofs,
            password_hash: hash.map(str::to_owned),
            session: None,
            service_token: None,
        }
    }

    fn revoked_by(facts: KnownFacts, table: &RouteTable) -> bool {
        let flows = Rc::new(OpenFlows::default());
        let lease = flows.lease(facts);
        let count = flows.decide_anew(table);
        let revoked = lease.held.revoked.get();
        assert_eq!(count, usize::from(revoked));
        drop(lease);
        assert_eq!(flows.len(), 0);
        revoked
    }

    /// A revoked visitor's open flow is closed, and only that.
    #[test]
    fn what_is_no_longer_permitted_is_revoked() {
        let open = || facts(Vec::new(), None);
        assert!(!revoked_by(open(), &table("h.example", ROUTE, Policy::public())));
        assert!(revoked_by(open(), &table("h.example", ROUTE, Policy::deny())));
        assert!(revoked_by(
            open(),
            &table("other.example", ROUTE, Policy::public())
        ));
        assert!(revoked_by(
            open(),
            &table("h.example", RouteId::from_bytes([3; 16]), Policy::public())
        ));
        assert!(revoked_by(open(), &RouteTable::default()));
        let mut banned = Policy::public();
        banned.rules.push(Rule::new(
            "banned".parse().unwrap(),
            Condition::Source("192.0.2.0/24".parse().unwrap()),
            Effect::Deny,
        ));
        assert!(revoked_by(open(), &table("h.example", ROUTE, banned)));
    }

    /// What was opened in the hours of a rule ends with them, without another plan.
    #[test]
    fn what_is_permitted_at_one_time_is_revoked_at_another() {
        let now = wall_clock().as_millis() / 60_000;
        let minute = u16::try_from(now.rem_euclid(1440)).unwrap();
        let hours = |from: u16, to: u16| {
            let window = TimeWindow::new(Weekdays::ALL, from % 1440, to % 1440, 0).unwrap();
            Policy {
                rules: vec![Rule::new(
                    "hours".parse().unwrap(),
                    Condition::Time(window),
                    Effect::Allow,
                )],
                access: Access::Deny,
            }
        };
        let open = table("h.example", ROUTE, hours(minute + 1438, minute + 2));
        let over = table("h.example", ROUTE, hours(minute + 2, minute + 1438));
        assert!(open.depends_on_time() && !table("h.example", ROUTE, Policy::public()).depends_on_time());
        assert!(!revoked_by(facts(Vec::new(), None), &open));
        assert!(revoked_by(facts(Vec::new(), None), &over));
    }

    #[test]
    fn a_password_proves_as_long_as_its_hash_stands() {
        let proof = Proof::Basic {
            service: SERVICE,
            principal: Principal::new("basic", "ann"),
        };
        let proven = || facts(vec![proof.clone()], Some("hash"));
        assert!(!revoked_by(proven(), &table("h.example", ROUTE, basic("hash"))));
        assert!(revoked_by(proven(), &table("h.example", ROUTE, basic("changed"))));
        assert!(!revoked_by(
            proven(),
            &table("h.example", ROUTE, Policy::public())
        ));
    }
}
