//! One request from its head to the last byte of its answer, and what is logged about it.

#![expect(
    clippy::disallowed_methods,
    reason = "the clock is read here, for latencies and idle times"
)]

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use http::{Method, StatusCode};
use kakuremichi_core::{
    code::Code,
    id::{GatewayId, RouteId, TargetId},
    name::Label,
};
use tokio::time::Instant;

use super::load::OpenRequest;
use crate::gateway::{
    flows::Revocation, metrics::Counters, per_address::Share, table::ServiceEntry, usage::ServiceUsage,
};

/// What was decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    /// Nothing: it was refused before.
    Nothing,
    /// It may pass.
    Permit,
    /// A proof was asked for.
    Challenge,
    /// It may not pass.
    Deny,
}

impl Decided {
    /// How it stands in the log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Permit => "permit",
            Self::Challenge => "challenge",
            Self::Deny => "deny",
        }
    }
}

/// One exchange. Writes its line to the access log (target `kakuremichi::access`) when it ends,
/// however it ends.
#[derive(Debug)]
pub(crate) struct Exchange {
    counters: Arc<Counters>,
    usage: RefCell<Option<Arc<ServiceUsage>>>,
    started: Instant,
    active: Cell<Instant>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    request_done: Cell<bool>,
    response_done: Cell<bool>,
    record: RefCell<Record>,
    /// Keeps the connection from counting as quiet.
    open: Option<OpenRequest>,
    /// Since when there is something of the answer for the visitor to take; none while the target, or
    /// the gateway, is what is waited for.
    offered: Cell<Option<Instant>>,
    permit: RefCell<Option<Revocation>>,
    /// The visitor's address has one more request.
    share: RefCell<Option<Share>>,
}

/// What the log says.
#[derive(Debug)]
struct Record {
    id: String,
    visitor: IpAddr,
    /// None if it could not be read.
    method: Option<Method>,
    host: String,
    path: String,
    status: Option<StatusCode>,
    code: Option<Code>,
    service: Option<Arc<ServiceEntry>>,
    route: Option<RouteId>,
    target: Option<TargetId>,
    relay: Option<GatewayId>,
    decided: Decided,
    rule: Option<Label>,
    websocket: bool,
}

impl Exchange {
    /// Begins with a request whose head was just read.
    pub(crate) fn begin(
        counters: &Arc<Counters>,
        id: String,
        visitor: IpAddr,
        method: Option<Method>,
        open: Option<OpenRequest>,
    ) -> Self {
        let now = Instant::now();
        counters.opened.one();
        Self {
            counters: Arc::clone(counters),
            usage: RefCell::new(None),
            started: now,
            active: Cell::new(now),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            request_done: Cell::new(false),
            response_done: Cell::new(false),
            record: RefCell::new(Record {
                id,
                visitor,
                method,
                host: String::new(),
                path: String::new(),
                status: None,
                code: None,
                service: None,
                route: None,
                target: None,
                relay: None,
                decided: Decided::Nothing,
                rule: None,
                websocket: false,
            }),
            open,
            offered: Cell::new(None),
            permit: RefCell::new(None),
            share: RefCell::new(None),
        }
    }

    /// Counts as a request of the visitor's address until it ends.
    pub(crate) fn counts_as(&self, share: Share) {
        *self.share.borrow_mut() = Some(share);
    }

    /// The request was permitted, until the revocation.
    pub(crate) fn permitted_until(&self, revocation: Revocation) {
        *self.permit.borrow_mut() = Some(revocation);
    }

    /// Whether the permit was revoked.
    pub(crate) fn is_revoked(&self) -> bool {
        self.permit.borrow().as_ref().is_some_and(Revocation::has_come)
    }

    /// The request's identifier, as the visitor is told it.
    pub(crate) fn id(&self) -> String {
        self.record.borrow().id.clone()
    }

    /// The request was understood.
    pub(crate) fn asked(&self, host: &str, path: &str) {
        let mut record = self.record.borrow_mut();
        host.clone_into(&mut record.host);
        path.clone_into(&mut record.path);
    }

    /// The request belongs to a service.
    pub(crate) fn found(&self, service: &Arc<ServiceEntry>, route: Option<RouteId>) {
        let mut record = self.record.borrow_mut();
        record.service = Some(Arc::clone(service));
        record.route = route;
    }

    /// It was decided about the request, by a rule or by the policy's access.
    pub(crate) fn decided(&self, decided: Decided, rule: Option<&Label>) {
        let mut record = self.record.borrow_mut();
        record.decided = decided;
        record.rule = rule.cloned();
    }

    /// The service is charged from now on.
    pub(crate) fn charge(&self, usage: &Arc<ServiceUsage>) {
        usage.add_request();
        *self.usage.borrow_mut() = Some(Arc::clone(usage));
    }

    /// The request goes to a target.
    pub(crate) fn sent_to(&self, target: TargetId) {
        self.record.borrow_mut().target = Some(target);
    }

    /// The way to the target leads through another gateway, or through none.
    pub(crate) fn relayed_by(&self, relay: Option<GatewayId>) {
        self.record.borrow_mut().relay = relay;
    }

    /// The gateway through which the way to the target leads.
    pub(crate) fn relay(&self) -> Option<GatewayId> {
        self.record.borrow().relay
    }

    /// The request begins to be sent: how long it was decided about, and a way looked for, is not the
    /// target's doing.
    pub(crate) fn sent(&self) {
        self.active.set(Instant::now());
    }

    /// The answer's head is known.
    pub(crate) fn answered(&self, status: StatusCode, code: Option<Code>) {
        self.counters.requests.one();
        self.offered.set(Some(Instant::now()));
        let mut record = self.record.borrow_mut();
        record.status = Some(status);
        record.code = code;
        record.websocket = status == StatusCode::SWITCHING_PROTOCOLS;
    }

    /// Bytes of the visitor moved.
    pub(crate) fn moved_in(&self, bytes: usize) {
        self.active.set(Instant::now());
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
        self.counters.bytes_in.add(bytes as u64);
        if let Some(usage) = &*self.usage.borrow() {
            usage.add_in(bytes as u64);
        }
    }

    /// Bytes toward the visitor moved.
    pub(crate) fn moved_out(&self, bytes: usize) {
        let now = Instant::now();
        self.active.set(now);
        self.offered.set(Some(now));
        if let Some(open) = &self.open {
            open.takes(now);
        }
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
        self.counters.bytes_out.add(bytes as u64);
        if let Some(usage) = &*self.usage.borrow() {
            usage.add_out(bytes as u64);
        }
    }

    /// The visitor took everything there was; more is to come from the target.
    pub(crate) fn awaits_target(&self) {
        self.offered.set(None);
    }

    /// Since when the visitor has been offered something of the answer; none if nothing is there.
    pub(crate) fn offered_since(&self) -> Option<Instant> {
        self.offered.get()
    }

    /// When `patience` will have passed without anything moving.
    pub(crate) fn idle_at(&self, patience: Duration) -> Instant {
        self.active.get() + patience
    }

    /// The request's last byte was taken.
    pub(crate) fn end_request(&self) {
        self.request_done.set(true);
    }

    /// Whether the request's last byte was taken.
    pub(crate) fn request_ended(&self) -> bool {
        self.request_done.get()
    }

    /// The answer's last byte was handed over.
    pub(crate) fn end_response(&self) {
        self.response_done.set(true);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.counters.ended.one();
        if let Some(open) = &self.open {
            open.ended(self.response_done.get());
        }
        let record = self.record.borrow();
        let elapsed = self.started.elapsed();
        let service = record.service.as_deref();
        tracing::info!(
            target: "kakuremichi::access",
            request = record.id,
            visitor = %record.visitor,
            method = record.method.as_ref().map(Method::as_str),
            host = record.host,
            path = record.path,
            service = service.map(|service| tracing::field::display(&service.name)),
            service_id = service.map(|service| tracing::field::display(service.id)),
            organization = service.map(|service| tracing::field::display(service.organization)),
            route = record.route.map(tracing::field::display),
            status = record.status.map(|status| status.as_u16()),
            code = record.code.map(Code::as_str),
            bytes_in = self.bytes_in.get(),
            bytes_out = self.bytes_out.get(),
            milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            upstream = record.target.map(tracing::field::display),
            relay = record.relay.map(tracing::field::display),
            decision = record.decided.as_str(),
            rule = record.rule.as_ref().map(tracing::field::display),
            websocket = record.websocket,
            complete = self.response_done.get(),
        );
    }
}
