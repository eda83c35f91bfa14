//! What tests of the gateway share: plans, a local runtime, and targets over plain TCP.

#![expect(clippy::disallowed_methods, reason = "tests run tasks and wait for deadlines")]

use std::{
    cell::RefCell, collections::BTreeMap, future::Future, net::SocketAddr, rc::Rc, sync::Arc, time::Duration,
};

use arc_swap::ArcSwap;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version};
use kakuremichi_core::{
    id::{AgentId, OrganizationId, RouteId, ServiceId, TargetId},
    model::{IdentityForm, TargetScheme, VirtualPort},
    plan::{
        GatewayPlan, GatewayRecord, GatewayService, PlannedKind, PlannedPool, PlannedRoute, PlannedTarget,
        Revision, Via,
    },
    policy::{Access, BasicUser, Method, Policy, Subject},
    request::CanonicalRequest,
};
use rustls::RootCertStore;
use tokio::{io::copy_bidirectional, net::TcpStream, task::LocalSet};

use super::{
    access::{AccessControl, Hooks, wall_clock},
    balance::{Health, Reach},
    flows::{AskedFor, KnownFacts, Lease, OpenFlows},
    health::SharedHealth,
    http::TargetTls,
    metrics::Counters,
    per_address::PerAddress,
    serving::{Numbers, Serving},
    settings::{Limits, Timeouts},
    sign_in::{SignInDesk, SigningKeys},
    table::{Matched, RouteTable},
    upstream::{FlowError, FlowRequest, OpenedSession, SessionWay, SpliceOutcome, Upstream},
    usage::UsageBook,
};
use crate::state::StateDir;

/// Runs a test on one thread, as a shard does. A test that hangs fails.
pub(crate) fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let guarded = async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test hangs")
    };
    LocalSet::new().block_on(&runtime, guarded)
}

/// A cheap Argon2id hash.
pub(crate) fn argon2id(password: &str) -> String {
    let params = Params::new(8, 1, 1, None).unwrap();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_with_salt(password.as_bytes(), b"some salt")
        .unwrap()
        .to_string()
}

/// A policy that asks one user for a password.
pub(crate) fn basic_policy(user: &str, hash: &str) -> Policy {
    let users = vec![BasicUser {
        name: user.to_owned(),
        password_hash: hash.to_owned(),
    }];
    Policy {
        rules: Vec::new(),
        access: Access::AnyOf(vec![Method::Basic { users }]),
    }
}

/// A plain target behind an agent.
pub(crate) fn target(id: u8) -> PlannedTarget {
    PlannedTarget {
        id: TargetId::from_bytes([id; 16]),
        via: Via::Agent {
            agent: AgentId::from_bytes([id; 16]),
            port: VirtualPort::FIRST,
        },
        scheme: TargetScheme::Plain,
        server_name: None,
        checked: false,
    }
}

/// An HTTP service with one route, `/`.
pub(crate) fn http_service(id: u8, host: &str, policy: Policy, targets: Vec<PlannedTarget>) -> GatewayRecord {
    service(
        id,
        PlannedKind::Http {
            hosts: vec![host.parse().unwrap()],
            routes: vec![PlannedRoute {
                id: RouteId::from_bytes([id; 16]),
                path: "/".parse().unwrap(),
                pool: PlannedPool { targets },
                policies: Vec::new(),
            }],
            identity: IdentityForm::default(),
        },
        policy,
    )
}

/// A TCP service.
pub(crate) fn tcp_service(id: u8, port: u16, policy: Policy, targets: Vec<PlannedTarget>) -> GatewayRecord {
    let pool = PlannedPool { targets };
    service(id, PlannedKind::Tcp { port, pool }, policy)
}

/// A UDP service.
pub(crate) fn udp_service(id: u8, port: u16, policy: Policy, targets: Vec<PlannedTarget>) -> GatewayRecord {
    let pool = PlannedPool { targets };
    service(id, PlannedKind::Udp { port, pool }, policy)
}

fn service(id: u8, kind: PlannedKind, policy: Policy) -> GatewayRecord {
    GatewayRecord::Service(GatewayService {
        id: ServiceId::from_bytes([id; 16]),
        organization: OrganizationId::from_bytes([9; 16]),
        name: format!("service-{id}").parse().unwrap(),
        kind,
        policy,
        policies: Vec::new(),
    })
}

/// A plan.
pub(crate) fn plan(revision: u64, records: impl IntoIterator<Item = GatewayRecord>) -> GatewayPlan {
    GatewayPlan::new(Revision(revision), records)
}

/// What a request matches in a plan of one service.
pub(crate) fn matched(service: GatewayRecord, host: &str, path: &str) -> Matched {
    let table = RouteTable::new(&plan(1, [service]));
    table.find(&host.parse().unwrap(), path).unwrap()
}

/// A lease, and what holds it.
pub(crate) fn lease() -> (Lease, Rc<OpenFlows>) {
    let flows = Rc::new(OpenFlows::default());
    let facts = KnownFacts {
        subject: Subject {
            service: ServiceId::from_bytes([1; 16]),
            route: Some(RouteId::from_bytes([1; 16])),
        },
        source: "192.0.2.1".parse().unwrap(),
        country: None,
        asn: None,
        asked: AskedFor::Http(CanonicalRequest::parse("GET", "h.example", "/").unwrap()),
        proofs: Vec::new(),
        password_hash: None,
        session: None,
        service_token: None,
    };
    (flows.lease(facts), flows)
}

/// Reaches targets by plain TCP.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlainTcp {
    /// Where each target is; those that are not here are offline.
    pub(crate) addresses: Rc<RefCell<BTreeMap<TargetId, SocketAddr>>>,
    /// How many flows were opened.
    pub(crate) opened: Rc<RefCell<Vec<TargetId>>>,
}

impl Upstream for PlainTcp {
    type Stream = TcpStream;

    async fn open(&self, request: FlowRequest<'_>) -> Result<TcpStream, FlowError> {
        let address = self.addresses.borrow().get(&request.target.id).copied();
        let address = address.ok_or(FlowError::Offline)?;
        assert_eq!(request.permit.subject().service, request.permit.subject().service);
        let stream = TcpStream::connect(address)
            .await
            .map_err(|_| FlowError::Refused)?;
        self.opened.borrow_mut().push(request.target.id);
        Ok(stream)
    }

    async fn splice(&self, socket: std::net::TcpStream, request: FlowRequest<'_>) -> SpliceOutcome {
        let outcome = |sent, received, error, returned| SpliceOutcome {
            sent,
            received,
            error,
            returned,
        };
        let usage = Arc::clone(request.usage);
        match self.open(request).await {
            Err(error) => outcome(0, 0, Some(error), Some(socket)),
            Ok(mut target) => {
                let mut visitor = TcpStream::from_std(socket).unwrap();
                match copy_bidirectional(&mut visitor, &mut target).await {
                    Ok((sent, received)) => {
                        usage.add_in(sent);
                        usage.add_out(received);
                        outcome(sent, received, None, None)
                    }
                    Err(_) => outcome(0, 0, Some(FlowError::Broken), None),
                }
            }
        }
    }

    /// There is no tunnel, and so there are no sessions.
    async fn session(&self, _: FlowRequest<'_>, _: Duration) -> Result<OpenedSession, FlowError> {
        Err(FlowError::Offline)
    }

    fn stays(&self, _: &PlannedTarget, _: SessionWay) -> bool {
        true
    }

    fn refused(&self, _: SessionWay) {}

    fn reach(&self, via: &Via) -> Reach {
        let Via::Agent { agent, .. } = via else {
            return Reach::Unknown;
        };
        let target = TargetId::from_bytes(*agent.as_bytes());
        if self.addresses.borrow().contains_key(&target) {
            Reach::Online
        } else {
            Reach::Offline
        }
    }

    fn relayed_health(&self, _: &PlannedTarget) -> Health {
        Health::Unknown
    }
}

/// Serves a plan to targets over plain TCP.
pub(crate) fn serving(
    plan: &GatewayPlan,
    upstream: PlainTcp,
    timeouts: Timeouts,
    roots: RootCertStore,
) -> Rc<Serving<PlainTcp>> {
    let counters: Arc<Counters> = Arc::default();
    let limits = Limits::default();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let serving = Serving {
        upstream,
        table: Arc::new(ArcSwap::from_pointee(RouteTable::default())),
        access: Arc::new(AccessControl::new(
            &limits,
            &timeouts,
            Hooks::default(),
            &[5; 32],
            Arc::clone(&counters),
        )),
        sign_in: Arc::new(SignInDesk::new(
            SigningKeys::open(&StateDir::memory(), wall_clock()).unwrap(),
            443,
        )),
        requests: PerAddress::new(limits.requests_per_address),
        flows: Rc::default(),
        draining: Rc::default(),
        health: SharedHealth::default(),
        target_tls: Arc::new(TargetTls::new(provider, roots).unwrap()),
        timeouts,
        limits,
        counters,
        usage: Arc::new(UsageBook::default()),
        numbers: Numbers::new(0),
    };
    serving.apply(plan);
    Rc::new(serving)
}
