//! Which service, route and pool a visitor's request belongs to.
//!
//! A table is made once from a plan and never changes: a new plan makes a new table, which replaces
//! the old one whole while requests that started under the old one keep it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kakuremichi_core::{
    id::{OrganizationId, PolicyId, RouteId, ServiceId},
    model::{IdentityForm, Transport},
    name::{HostPattern, Hostname, Label, PathPattern},
    plan::{GatewayPlan, GatewayService, PlannedKind, PlannedPool, PlannedTarget, Revision},
    policy::{CompiledPolicy, PolicySet},
};
use rustc_hash::FxHashMap;

use super::sign_in::People;

/// All that a plan publishes, as it is looked up.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    revision: Revision,
    exact: FxHashMap<Hostname, Arc<ServiceEntry>>,
    wildcard: FxHashMap<String, Arc<ServiceEntry>>,
    ports: BTreeMap<(Transport, u16), Arc<ServiceEntry>>,
    conflicts: usize,
    depends_on_time: bool,
    people: People,
}

/// A service.
#[derive(Debug)]
pub(crate) struct ServiceEntry {
    /// Its identifier.
    pub(crate) id: ServiceId,
    /// The owner.
    pub(crate) organization: OrganizationId,
    /// Its name.
    pub(crate) name: Label,
    /// Who may reach it, where no route says otherwise.
    pub(crate) policy: Arc<CompiledPolicy>,
    /// A password of the service is asked for at one of its routes: visitors show it at all of them.
    pub(crate) has_passwords: bool,
    /// What its targets are told of who a visitor is.
    pub(crate) identity: IdentityForm,
    routes: Vec<RouteEntry>,
    pool: Option<Pool>,
}

/// A route of an HTTP service.
#[derive(Debug)]
pub(crate) struct RouteEntry {
    /// Its identifier.
    pub(crate) id: RouteId,
    path: PathPattern,
    /// Who may reach it.
    pub(crate) policy: Arc<CompiledPolicy>,
    /// Where its requests go.
    pub(crate) pool: Pool,
}

/// Targets that are taken in turn.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The targets.
    pub(crate) targets: Vec<Arc<PlannedTarget>>,
    turn: AtomicUsize,
}

/// A service and a route that match a request.
#[derive(Debug, Clone)]
pub(crate) struct Matched {
    /// The service.
    pub(crate) service: Arc<ServiceEntry>,
    route: usize,
}

/// Why nothing matches a request.
#[derive(Debug, Clone)]
pub(crate) enum NoMatch {
    /// No service has the host.
    Service,
    /// The service has no route for the path.
    Route(Arc<ServiceEntry>),
}

impl RouteTable {
    /// Makes the table of a plan. Of two services with one host or port the one with the smaller
    /// identifier keeps it, whatever the order; Control admits no such plan.
    pub(crate) fn new(plan: &GatewayPlan) -> Self {
        let mut table = Self {
            revision: plan.revision(),
            people: People::new(plan),
            ..Self::default()
        };
        let mut policies = PolicySet::default();
        for policy in plan.policies() {
            policies.insert(policy.id, &policy.rules, policy.access.as_ref());
        }
        for service in plan.services() {
            table.add(service, &policies);
        }
        // Sessions and tokens end, too.
        table.depends_on_time |= table.people.depends_on_time();
        table
    }

    /// Who people are.
    pub(crate) const fn people(&self) -> &People {
        &self.people
    }

    /// The plan's revision.
    pub(crate) const fn revision(&self) -> Revision {
        self.revision
    }

    /// How many hosts and ports two services claim.
    pub(crate) const fn conflicts(&self) -> usize {
        self.conflicts
    }

    /// Whether what is decided now can be decided otherwise later, without another plan.
    pub(crate) const fn depends_on_time(&self) -> bool {
        self.depends_on_time
    }

    /// Finds service and route: the exact host before the wildcard, then the most specific path.
    pub(crate) fn find(&self, host: &Hostname, path: &str) -> Result<Matched, NoMatch> {
        let service = self.host(host).ok_or(NoMatch::Service)?;
        match service.routes.iter().position(|route| route.path.matches(path)) {
            Some(route) => Ok(Matched {
                service: Arc::clone(service),
                route,
            }),
            None => Err(NoMatch::Route(Arc::clone(service))),
        }
    }

    /// The pattern by which a service has the host.
    pub(crate) fn pattern(&self, host: &Hostname) -> Option<HostPattern> {
        if self.exact.contains_key(host) {
            return Some(HostPattern::Exact(host.clone()));
        }
        let (_, base) = host.as_str().split_once('.')?;
        let base = self.wildcard.contains_key(base).then_some(base)?;
        base.parse().ok().map(HostPattern::Wildcard)
    }

    /// The TCP or UDP service at a port.
    pub(crate) fn port(&self, transport: Transport, port: u16) -> Option<&Arc<ServiceEntry>> {
        self.ports.get(&(transport, port))
    }

    /// The ports of TCP or UDP services, ascending.
    pub(crate) fn ports(&self, transport: Transport) -> impl Iterator<Item = u16> {
        let all = self.ports.range((transport, 0)..=(transport, u16::MAX));
        all.map(|((_, port), _)| *port)
    }

    fn host(&self, host: &Hostname) -> Option<&Arc<ServiceEntry>> {
        self.exact.get(host).or_else(|| {
            let (_, base) = host.as_str().split_once('.')?;
            self.wildcard.get(base)
        })
    }

    fn add(&mut self, service: &GatewayService, policies: &PolicySet) {
        let entry = Arc::new(ServiceEntry::new(service, policies));
        let of_routes = entry.routes.iter().map(|route| &route.policy);
        self.depends_on_time |= of_routes.chain([&entry.policy]).any(|policy| policy.needs().time);
        match &service.kind {
            PlannedKind::Http { hosts, .. } => {
                for host in hosts {
                    let taken = match host {
                        HostPattern::Exact(name) => self.exact.contains_key(name),
                        HostPattern::Wildcard(base) => self.wildcard.contains_key(base.as_str()),
                    };
                    if taken {
                        self.conflicts += 1;
                        continue;
                    }
                    match host {
                        HostPattern::Exact(name) => self.exact.insert(name.clone(), Arc::clone(&entry)),
                        HostPattern::Wildcard(base) => {
                            self.wildcard.insert(base.as_str().to_owned(), Arc::clone(&entry))
                        }
                    };
                }
            }
            PlannedKind::Tcp { port, .. } => self.add_port(Transport::Tcp, *port, entry),
            PlannedKind::Udp { port, .. } => self.add_port(Transport::Udp, *port, entry),
        }
    }

    fn add_port(&mut self, transport: Transport, port: u16, service: Arc<ServiceEntry>) {
        match self.ports.entry((transport, port)) {
            Entry::Vacant(free) => {
                free.insert(service);
            }
            Entry::Occupied(_) => self.conflicts += 1,
        }
    }
}

impl ServiceEntry {
    fn new(service: &GatewayService, policies: &PolicySet) -> Self {
        let compose = |of_route: &[PolicyId]| {
            let composed = policies.compose(&service.policies, of_route, &service.policy);
            Arc::new(composed.unwrap_or_else(|error| {
                tracing::warn!(service = %service.id, %error, "the service is denied");
                CompiledPolicy::default()
            }))
        };
        let policy = compose(&[]);
        let mut form = IdentityForm::default();
        let (routes, pool) = match &service.kind {
            PlannedKind::Http { routes, identity, .. } => {
                form = *identity;
                let mut routes: Vec<RouteEntry> = routes
                    .iter()
                    .map(|route| RouteEntry {
                        id: route.id,
                        path: route.path.clone(),
                        policy: match route.policies.as_slice() {
                            [] => Arc::clone(&policy),
                            of_route => compose(of_route),
                        },
                        pool: Pool::new(&route.pool),
                    })
                    .collect();
                routes.sort_by_key(|route| std::cmp::Reverse(route.path.specificity()));
                (routes, None)
            }
            PlannedKind::Tcp { pool, .. } | PlannedKind::Udp { pool, .. } => {
                (Vec::new(), Some(Pool::new(pool)))
            }
        };
        Self {
            id: service.id,
            organization: service.organization,
            name: service.name.clone(),
            has_passwords: policy.needs().basic || routes.iter().any(|route| route.policy.needs().basic),
            policy,
            identity: form,
            routes,
            pool,
        }
    }

    /// Where the connections of a TCP service, or the sessions of a UDP service, go.
    pub(crate) const fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }
}

impl Matched {
    /// The route.
    pub(crate) fn route(&self) -> &RouteEntry {
        &self.service.routes[self.route]
    }
}

impl Pool {
    fn new(pool: &PlannedPool) -> Self {
        Self {
            targets: pool.targets.iter().cloned().map(Arc::new).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes the next turn.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use kakuremichi_core::{
        plan::{GatewayPolicy, GatewayRecord, PlannedRoute},
        policy::{Access, Policy},
    };
    use proptest::prelude::*;

    use super::*;

    fn http(id: u8, hosts: &[&str], paths: &[&str]) -> GatewayRecord {
        let route = |(number, path): (usize, &&str)| PlannedRoute {
            id: RouteId::from_bytes([u8::try_from(number).unwrap(); 16]),
            path: path.parse().unwrap(),
            pool: PlannedPool::default(),
            policies: Vec::new(),
        };
        GatewayRecord::Service(GatewayService {
            id: ServiceId::from_bytes([id; 16]),
            organization: OrganizationId::from_bytes([9; 16]),
            name: "web".parse().unwrap(),
            kind: PlannedKind::Http {
                hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
                routes: paths.iter().enumerate().map(route).collect(),
                identity: IdentityForm::default(),
            },
            policy: Policy::public(),
            policies: Vec::new(),
        })
    }

    fn table(records: Vec<GatewayRecord>) -> RouteTable {
        RouteTable::new(&GatewayPlan::new(Revision(1), records))
    }

    fn service(table: &RouteTable, host: &str) -> Option<u8> {
        let found = table.find(&host.parse().unwrap(), "/").ok()?;
        Some(found.service.id.as_bytes()[0])
    }

    #[test]
    fn an_exact_host_goes_before_a_wildcard() {
        let table = table(vec![
            http(1, &["*.example.net"], &["/"]),
            http(2, &["a.example.net"], &["/"]),
        ]);
        assert_eq!(service(&table, "a.example.net"), Some(2));
        assert_eq!(service(&table, "b.example.net"), Some(1));
        assert_eq!(service(&table, "b.a.example.net"), None);
        assert_eq!(service(&table, "example.net"), None);
        let pattern = |host: &str| {
            table
                .pattern(&host.parse().unwrap())
                .map(|pattern| pattern.to_string())
        };
        assert_eq!(pattern("x.example.net").as_deref(), Some("*.example.net"));
        assert_eq!(pattern("a.example.net").as_deref(), Some("a.example.net"));
        assert_eq!(pattern("example.net"), None);
    }

    #[test]
    fn an_exact_host_without_the_path_does_not_fall_through() {
        let table = table(vec![
            http(1, &["*.example.net"], &["/"]),
            http(2, &["a.example.net"], &["/api"]),
        ]);
        let missed = table.find(&"a.example.net".parse().unwrap(), "/other");
        assert!(matches!(missed, Err(NoMatch::Route(entry)) if entry.id.as_bytes()[0] == 2));
    }

    #[test]
    fn the_most_specific_path_wins() {
        let table = table(vec![http(
            1,
            &["h.example"],
            &["/", "/api", "=/api", "/api/v1/", "/apix"],
        )]);
        let route = |path| {
            let found = table.find(&"h.example".parse().unwrap(), path).unwrap();
            found.route().path.to_string()
        };
        assert_eq!(route("/api"), "=/api");
        assert_eq!(route("/api/"), "/api");
        assert_eq!(route("/api/v1/x"), "/api/v1/");
        assert_eq!(route("/apix"), "/apix");
        assert_eq!(route("/z"), "/");
    }

    /// LESSONS, advisory 5: what an attached policy would deny is not known without it.
    #[test]
    fn a_service_is_denied_without_a_policy_that_is_attached_to_it() {
        let [of_service, of_route] = [1, 2].map(|id| PolicyId::from_bytes([id; 16]));
        let GatewayRecord::Service(mut service) = http(1, &["h.example"], &["/", "/open"]) else {
            panic!("it is a service");
        };
        service.policies = vec![of_service];
        if let PlannedKind::Http { routes, .. } = &mut service.kind {
            routes[1].policies = vec![of_route];
        }
        let policy = |id, access| {
            let rules = Vec::new();
            GatewayRecord::Policy(GatewayPolicy { id, rules, access })
        };
        let access = |records: Vec<GatewayRecord>| {
            let table = table([records, vec![GatewayRecord::Service(service.clone())]].concat());
            ["/", "/open"].map(|path| {
                let found = table.find(&"h.example".parse().unwrap(), path).unwrap();
                found.route().policy.access().clone()
            })
        };
        let denies = policy(of_service, Some(Access::Deny));
        let opens = policy(of_route, Some(Access::Public));
        assert_eq!(access(vec![]), [Access::Deny, Access::Deny]);
        assert_eq!(access(vec![opens.clone()]), [Access::Deny, Access::Deny]);
        assert_eq!(
            access(vec![denies.clone(), opens]),
            [Access::Deny, Access::Public]
        );
        assert_eq!(
            access(vec![policy(of_service, None)]),
            [Access::Public, Access::Deny]
        );
        assert_eq!(
            access(vec![denies, policy(of_route, None)]),
            [Access::Deny, Access::Deny]
        );
    }

    #[test]
    fn a_contested_host_stays_with_the_smaller_identifier() {
        let one = table(vec![
            http(2, &["h.example"], &["/"]),
            http(1, &["h.example"], &["/"]),
        ]);
        assert_eq!(service(&one, "h.example"), Some(1));
        assert_eq!(one.conflicts(), 1);
    }

    proptest! {
        /// The table finds what a search through all routes finds.
        #[test]
        fn it_agrees_with_a_naive_search(
            hosts in prop::collection::btree_set("(\\*\\.)?[ab](\\.[ab]){1,2}\\.x", 1..6),
            paths in prop::collection::btree_set("=?(/[ab]){0,3}/?", 1..8),
            host in "[ab](\\.[ab]){0,3}\\.x",
            path in "(/[ab]){1,4}/?",
        ) {
            let hosts: Vec<HostPattern> = hosts.iter().filter_map(|host| host.parse().ok()).collect();
            let paths: Vec<PathPattern> = paths.iter().filter_map(|path| path.parse().ok()).collect();
            let texts: Vec<String> = paths.iter().map(ToString::to_string).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let records = hosts.iter().enumerate().map(|(id, host)| {
                http(u8::try_from(id).unwrap(), &[host.to_string().as_str()], &texts)
            });
            let table = table(records.collect());
            let host: Hostname = host.parse().unwrap();
            let expected_host = hosts
                .iter()
                .find(|pattern| matches!(pattern, HostPattern::Exact(name) if *name == host))
                .or_else(|| hosts.iter().find(|pattern| pattern.matches(&host)));
            let expected_path = paths
                .iter()
                .filter(|pattern| pattern.matches(&path))
                .max_by_key(|pattern| pattern.specificity());
            let found = table.find(&host, &path);
            match (expected_host, expected_path, found) {
                (None, _, Err(NoMatch::Service)) | (Some(_), None, Err(NoMatch::Route(_))) => {}
                (Some(pattern), Some(expected), Ok(found)) => {
                    prop_assert_eq!(&found.route().path, expected);
                    prop_assert_eq!(&hosts[usize::from(found.service.id.as_bytes()[0])], pattern);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
