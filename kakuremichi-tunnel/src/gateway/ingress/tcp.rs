//! Raw TCP services: ports that open and close with the plan.

#![expect(
    clippy::disallowed_methods,
    reason = "each port has a task, which its owner ends; a connection's duration is measured"
)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use kakuremichi_core::{
    code::Code,
    id::{GatewayId, TargetId},
    model::{TargetScheme, Transport},
    plan::PlannedTarget,
    policy::Permit,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{Admissions, BindError, Entry, bind, https::accept, metered};
use crate::gateway::{
    access::{Admission, Verdict},
    balance::Unavailable,
    drain::Drain,
    flows::Lease,
    http::{exchange::Decided, pages::Problem},
    serving::Serving,
    table::{Pool, RouteTable, ServiceEntry},
    upstream::{FlowError, FlowRequest, SpliceOutcome, Upstream, VisitorFacts},
};

/// A visitor that is silent for this long is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// The ports of TCP services.
#[derive(Debug)]
pub(crate) struct TcpPorts<U> {
    serving: Rc<Serving<U>>,
    admissions: Arc<Admissions>,
    drain: Drain,
    address: IpAddr,
    ports: BTreeMap<u16, Port>,
    listeners: JoinSet<()>,
}

/// A port of the plan.
#[derive(Debug)]
enum Port {
    /// It is listened on, until this is dropped.
    Open {
        /// Tells the listener.
        _close: watch::Sender<()>,
    },
    /// It could not be opened, and will be tried again.
    Failed(Arc<BindError>),
}

/// How the port of a TCP or UDP service is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PortStatus {
    /// What is spoken at it.
    pub transport: Transport,
    /// The port.
    pub port: u16,
    /// Why it is not open; it is tried again every few seconds.
    pub error: Option<Arc<BindError>>,
}

impl<U: Upstream> TcpPorts<U> {
    /// Opens ports on `address`.
    pub(crate) fn new(
        serving: Rc<Serving<U>>,
        admissions: Arc<Admissions>,
        drain: Drain,
        address: IpAddr,
    ) -> Self {
        Self {
            serving,
            admissions,
            drain,
            address,
            ports: BTreeMap::new(),
            listeners: JoinSet::new(),
        }
    }

    /// Opens the ports that the table has and that are not open, closes those that it no longer has.
    /// What is connected to a closed port is ended by its lease.
    pub(crate) fn reconcile(&mut self, table: &RouteTable) {
        while self.listeners.try_join_next().is_some() {}
        self.ports
            .retain(|port, _| table.port(Transport::Tcp, *port).is_some());
        if self.drain.has_begun() {
            return;
        }
        for port in table.ports(Transport::Tcp) {
            if matches!(self.ports.get(&port), Some(Port::Open { .. })) {
                continue;
            }
            let opened = self.open(port);
            let state = opened.unwrap_or_else(|error| {
                if !matches!(self.ports.get(&port), Some(Port::Failed(_))) {
                    tracing::warn!(port, error = %error.source, "cannot open the port of a service");
                }
                Port::Failed(Arc::new(error))
            });
            self.ports.insert(port, state);
        }
    }

    /// Whether a port waits to be tried again.
    pub(crate) fn has_failed(&self) -> bool {
        self.ports.values().any(|port| matches!(port, Port::Failed(_)))
    }

    /// How the ports are, ascending.
    pub(crate) fn status(&self) -> Vec<PortStatus> {
        let status = |(port, state): (&u16, &Port)| PortStatus {
            transport: Transport::Tcp,
            port: *port,
            error: match state {
                Port::Open { .. } => None,
                Port::Failed(error) => Some(Arc::clone(error)),
            },
        };
        self.ports.iter().map(status).collect()
    }

    /// Closes all ports. Each of what is returned ends with the last connection of its port; dropping
    /// it cuts what is open.
    pub(crate) fn close(&mut self) -> JoinSet<()> {
        self.ports.clear();
        std::mem::take(&mut self.listeners)
    }

    fn open(&mut self, port: u16) -> Result<Port, BindError> {
        let address = SocketAddr::new(self.address, port);
        let bound = bind(address)?;
        let listener =
            TcpListener::from_std(bound.listener).map_err(|source| BindError { address, source })?;
        let (close, closed) = watch::channel(());
        let (serving, admissions) = (Rc::clone(&self.serving), Arc::clone(&self.admissions));
        let drain = self.drain.clone();
        self.listeners
            .spawn_local(listen(listener, port, serving, admissions, drain, closed));
        tracing::info!(port, "the port of a service is open");
        Ok(Port::Open { _close: close })
    }
}

async fn listen<U: Upstream>(
    listener: TcpListener,
    port: u16,
    serving: Rc<Serving<U>>,
    admissions: Arc<Admissions>,
    mut drain: Drain,
    mut closed: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(&listener, &admissions) => {
                if let Some((stream, peer, entry)) = accepted {
                    connections.spawn_local(connection(Rc::clone(&serving), stream, peer, port, entry));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = drain.begun() => break,
            _ = closed.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What is logged about a connection.
struct Outcome {
    decided: Decided,
    rule: Option<String>,
    code: Option<Code>,
    target: Option<TargetId>,
    relay: Option<GatewayId>,
    sent: u64,
    received: u64,
}

async fn connection<U: Upstream>(
    serving: Rc<Serving<U>>,
    stream: TcpStream,
    peer: SocketAddr,
    port: u16,
    entry: Entry,
) {
    let started = Instant::now();
    let table = serving.table.load_full();
    let Some(service) = table.port(Transport::Tcp, port).map(Arc::clone) else {
        return;
    };
    serving.counters.opened.one();
    serving.counters.tcp_connections.one();
    let outcome = serve(&serving, &table, &service, stream, peer, port).await;
    serving.counters.ended.one();
    if outcome.code.is_some() && outcome.decided == Decided::Permit {
        serving.counters.failures.one();
    }
    let elapsed = started.elapsed();
    tracing::info!(
        target: "kakuremichi::access",
        visitor = %peer.ip().to_canonical(),
        port,
        service = %service.name,
        service_id = %service.id,
        organization = %service.organization,
        code = outcome.code.map(Code::as_str),
        bytes_in = outcome.sent,
        bytes_out = outcome.received,
        milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        upstream = outcome.target.map(tracing::field::display),
        relay = outcome.relay.map(tracing::field::display),
        decision = outcome.decided.as_str(),
        rule = outcome.rule,
    );
    drop(entry);
}

async fn serve<U: Upstream>(
    serving: &Rc<Serving<U>>,
    table: &Arc<RouteTable>,
    service: &Arc<ServiceEntry>,
    stream: TcpStream,
    peer: SocketAddr,
    port: u16,
) -> Outcome {
    let mut outcome = Outcome {
        decided: Decided::Deny,
        rule: None,
        code: None,
        target: None,
        relay: None,
        sent: 0,
        received: 0,
    };
    let verdict = serving
        .access
        .decide_port(peer.ip(), Transport::Tcp, port, service)
        .await;
    let Admission { permit, facts, .. } = match verdict {
        Verdict::Admitted(admission) => *admission,
        Verdict::Denied(denial) => {
            if let Some(rule) = denial.rule() {
                outcome.rule = Some(rule.to_string());
            }
            outcome.code = Some(Code::DENIED);
            return outcome;
        }
        Verdict::Challenged(..) | Verdict::Throttled(_) | Verdict::Overloaded => {
            outcome.code = Some(Code::DENIED);
            return outcome;
        }
    };
    let lease = serving.flows.lease(facts);
    // A plan may have come while the visitor was being decided about.
    let newest = serving.table.load_full();
    if !Arc::ptr_eq(table, &newest) && lease.decide_anew(&newest) {
        outcome.code = Some(Code::DENIED);
        return outcome;
    }
    outcome.decided = Decided::Permit;
    outcome.rule = permit.rule().map(ToString::to_string);
    let problem = match (service.pool(), stream.local_addr()) {
        (Some(pool), Ok(local)) => {
            let visitor = VisitorFacts {
                address: peer,
                local,
                connection: serving.numbers.connection(),
                tls: None,
            };
            splice(
                serving,
                &permit,
                &lease,
                service,
                pool,
                &visitor,
                stream,
                &mut outcome,
            )
            .await
        }
        _ => None,
    };
    outcome.code = problem.map(Problem::code);
    outcome
}

/// Finds out about visitors that are gone.
fn keep_alive(stream: &TcpStream) {
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE / 4);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive);
}

/// Offers the connection to the targets of the pool, one after the other, until one takes it.
#[expect(
    clippy::too_many_arguments,
    reason = "each is another part of one connection's story"
)]
async fn splice<U: Upstream>(
    serving: &Rc<Serving<U>>,
    permit: &Permit,
    lease: &Lease,
    service: &ServiceEntry,
    pool: &Pool,
    visitor: &VisitorFacts,
    stream: TcpStream,
    outcome: &mut Outcome,
) -> Option<Problem> {
    keep_alive(&stream);
    let usage = serving.usage.of(service.id);
    usage.add_connection();
    let candidates: Vec<Arc<PlannedTarget>> = match serving.candidates(pool) {
        Ok(candidates) => candidates,
        Err(Unavailable::Offline) => return Some(Problem::Offline),
        Err(Unavailable::Unhealthy) => return Some(Problem::Unhealthy),
    };
    let Ok(mut socket) = stream.into_std() else {
        return Some(Problem::Broken);
    };
    let mut problem = Problem::Unhealthy;
    for target in candidates {
        outcome.target = Some(target.id);
        let relay = Cell::new(None);
        let request = FlowRequest {
            permit,
            target: &target,
            visitor,
            usage: &usage,
            wait: true,
            relay: &relay,
        };
        let spliced = async {
            match target.scheme {
                TargetScheme::Plain => serving.upstream.splice(socket, request).await,
                // In a box, as each connection has room for either way for as long as it lives.
                TargetScheme::Tls { .. } => Box::pin(through_tls(serving, socket, request)).await,
            }
        };
        let spliced = tokio::select! {
            spliced = spliced => spliced,
            () = lease.revoked() => return Some(Problem::Denied),
        };
        outcome.relay = relay.get();
        outcome.sent += spliced.sent;
        outcome.received += spliced.received;
        serving.counters.bytes_in.add(spliced.sent);
        serving.counters.bytes_out.add(spliced.received);
        let Some(error) = spliced.error else {
            serving.counters.flows.one();
            return None;
        };
        serving.counters.flows_failed.one();
        problem = error.problem();
        match spliced.returned {
            Some(returned) => socket = returned,
            None => return Some(problem),
        }
    }
    Some(problem)
}

/// Serves a socket with TLS to the target inside the flow.
async fn through_tls<U: Upstream>(
    serving: &Rc<Serving<U>>,
    socket: std::net::TcpStream,
    request: FlowRequest<'_>,
) -> SpliceOutcome {
    let failed = |error, returned| SpliceOutcome {
        sent: 0,
        received: 0,
        error: Some(error),
        returned,
    };
    let usage = Arc::clone(request.usage);
    let target = request.target;
    let opened = timeout(serving.timeouts.connect, async {
        let stream = serving.upstream.open(request).await?;
        serving.target_tls.wrap(target, stream).await
    });
    let stream = match opened.await.unwrap_or(Err(FlowError::TimedOut)) {
        Ok(stream) => stream,
        Err(error) => return failed(error, Some(socket)),
    };
    let Ok(visitor) = TcpStream::from_std(socket) else {
        return failed(FlowError::Broken, None);
    };
    metered::relay(visitor, stream, &usage, serving.timeouts.tcp_idle).await
}
