//! The life of one session at a UDP service: what is decided about it, and what it carries.

#![expect(clippy::disallowed_methods, reason = "a session's duration is measured")]

use std::{cell::Cell, future::poll_fn, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use kakuremichi_core::{
    code::Code,
    id::{GatewayId, TargetId},
    model::Transport,
    plan::PlannedTarget,
};
use tokio::time::{Instant, sleep};

use super::{Ends, Entry, Listener, State, admission::Place};
use crate::{
    engine::EndReason,
    gateway::{
        access::Verdict,
        balance::Unavailable,
        flows::Lease,
        http::{exchange::Decided, pages::Problem},
        table::{RouteTable, ServiceEntry},
        upstream::{FlowError, FlowRequest, OpenedSession, SessionWay, Upstream, VisitorFacts},
    },
};

/// A visitor that is denied is not decided about anew for so long, unless a plan comes: each of its
/// datagrams would begin a session otherwise.
const DENIED: Duration = Duration::from_secs(10);
/// The same for one whose target cannot be reached.
const FAILED: Duration = Duration::from_secs(1);

/// A session that another gateway passes on ends when it was refused so many times without an answer between:
/// once is how a gateway that was started again asks for the preface.
const REFUSALS: u64 = 2;

/// A session that began.
pub(super) struct Begun<U> {
    pub(super) listener: Rc<Listener<U>>,
    pub(super) table: Arc<RouteTable>,
    pub(super) service: Arc<ServiceEntry>,
    pub(super) ends: Ends,
    pub(super) entry: Rc<Entry>,
    pub(super) _place: Place,
}

/// What is logged about a session.
struct Outcome {
    decided: Decided,
    rule: Option<String>,
    code: Option<Code>,
    target: Option<TargetId>,
    /// The gateway that passes it on.
    relay: Option<GatewayId>,
    /// The lane that carried it does so no more: it begins anew with the next datagram.
    moves: bool,
    sent: u64,
    received: u64,
    refusals: u64,
}

impl<U: Upstream> Begun<U> {
    /// Serves it to its end, and says what came of it.
    pub(super) async fn run(self) {
        let started = Instant::now();
        let serving = &self.listener.serving;
        serving.counters.opened.one();
        serving.counters.udp_sessions.one();
        let mut outcome = Outcome {
            decided: Decided::Deny,
            rule: None,
            code: None,
            target: None,
            relay: None,
            moves: false,
            sent: 0,
            received: 0,
            refusals: 0,
        };
        outcome.code = self.serve(&mut outcome).await;
        serving.counters.ended.one();
        if outcome.code.is_some() && outcome.decided == Decided::Permit {
            serving.counters.failures.one();
        }
        tracing::info!(
            target: "kakuremichi::access",
            visitor = %self.ends.0.ip().to_canonical(),
            port = self.listener.local.port(),
            transport = "udp",
            service = %self.service.name,
            service_id = %self.service.id,
            organization = %self.service.organization,
            code = outcome.code.map(Code::as_str),
            bytes_in = outcome.sent,
            bytes_out = outcome.received,
            refusals = outcome.refusals,
            milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            upstream = outcome.target.map(tracing::field::display),
            relay = outcome.relay.map(tracing::field::display),
            decision = outcome.decided.as_str(),
            rule = outcome.rule,
        );
        let pause = match (outcome.decided, outcome.code) {
            (Decided::Permit, None) if outcome.moves => Duration::ZERO,
            // Who ends sessions as soon as they begin does not get one for each datagram.
            (Decided::Permit, _) if outcome.received == 0 && started.elapsed() < FAILED => FAILED,
            (Decided::Permit, Some(_)) if !outcome.moves => FAILED,
            (Decided::Permit, _) => Duration::ZERO,
            _ => DENIED,
        };
        let over = if outcome.code == Some(Code::DENIED) {
            State::Denied(serving.table.load_full())
        } else {
            State::Over
        };
        *self.entry.state.borrow_mut() = over;
        if !pause.is_zero() {
            let mut closed = self.listener.closed.clone();
            tokio::select! {
                () = sleep(pause) => {}
                _ = closed.changed() => {}
            }
        }
        self.listener.forget(&self.ends, &self.entry);
    }

    /// Decides, and carries datagrams for as long as that stands. Returns what went wrong.
    async fn serve(&self, outcome: &mut Outcome) -> Option<Code> {
        let serving = &self.listener.serving;
        let port = self.listener.local.port();
        let verdict = serving
            .access
            .decide_port(self.ends.0.ip(), Transport::Udp, port, &self.service)
            .await;
        let admission = match verdict {
            Verdict::Admitted(admission) => *admission,
            Verdict::Denied(denial) => {
                if let Some(rule) = denial.rule() {
                    outcome.rule = Some(rule.to_string());
                }
                return Some(Code::DENIED);
            }
            Verdict::Challenged(..) | Verdict::Throttled(_) | Verdict::Overloaded => {
                return Some(Code::DENIED);
            }
        };
        let lease = serving.flows.lease(admission.facts.clone());
        // A plan may have come while the visitor was being decided about.
        let newest = serving.table.load_full();
        if !Arc::ptr_eq(&self.table, &newest) && lease.decide_anew(&newest) {
            return Some(Code::DENIED);
        }
        outcome.decided = Decided::Permit;
        outcome.rule = admission.permit.rule().map(ToString::to_string);
        self.entry.usage.add_connection();
        let pool = self.service.pool()?;
        let candidates = match serving.candidates(pool) {
            Ok(candidates) => candidates,
            Err(Unavailable::Offline) => return Some(Problem::Offline.code()),
            Err(Unavailable::Unhealthy) => return Some(Problem::Unhealthy.code()),
        };
        let visitor = VisitorFacts {
            address: self.ends.0,
            local: SocketAddr::new(self.ends.1.unwrap_or_else(|| self.listener.local.ip()), port),
            connection: serving.numbers.connection(),
            tls: None,
        };
        let mut problem = Problem::Unhealthy;
        let relay = Cell::new(None);
        for target in candidates {
            outcome.target = Some(target.id);
            let request = FlowRequest {
                permit: &admission.permit,
                target: &target,
                visitor: &visitor,
                usage: &self.entry.usage,
                wait: false,
                relay: &relay,
            };
            let opened = serving.upstream.session(request, serving.timeouts.udp_idle).await;
            outcome.relay = relay.get();
            match opened {
                Ok(session) => {
                    serving.counters.flows.one();
                    return self.carry(session, target, &lease, outcome).await;
                }
                Err(error) => {
                    serving.counters.flows_failed.one();
                    problem = error.problem();
                }
            }
        }
        Some(problem.code())
    }

    /// Carries datagrams until the session idles, or is no longer permitted.
    async fn carry(
        &self,
        opened: OpenedSession,
        target: Arc<PlannedTarget>,
        lease: &Lease,
        outcome: &mut Outcome,
    ) -> Option<Code> {
        let OpenedSession { mut session, way } = opened;
        let counters = &self.listener.serving.counters;
        let sender = session.sender();
        let open = State::Open(sender.clone(), target, way);
        let waiting = self.entry.state.replace(open);
        if let State::Deciding(mut queue) = waiting {
            while let Some(data) = queue.front() {
                // Why it ended is said below.
                let _ = sender.send([data]);
                queue.advance(1);
            }
        }
        let mut closed = self.listener.closed.clone();
        let (mut refusals, mut in_a_row) = (0, 0);
        let end = loop {
            let ready = tokio::select! {
                ready = poll_fn(|cx| session.poll_news(cx, refusals)) => ready,
                () = lease.revoked() => break Some(Code::DENIED),
                _ = closed.changed() => break None,
                () = self.entry.moves.notified() => {
                    outcome.moves = true;
                    break None;
                }
            };
            if let Err(reason) = ready {
                outcome.moves = matches!(reason, EndReason::PeerGone | EndReason::Reset);
                break problem(reason).map(Problem::code);
            }
            let (sent, _) = self
                .listener
                .socket
                .send(session.queue(), self.ends.0, self.ends.1);
            self.entry.usage.add_out(sent.bytes);
            counters.bytes_out.add(sent.bytes);
            counters.udp_shed.add(sent.dropped);
            outcome.received += sent.bytes;
            let now = session.refusals();
            counters.udp_refusals.add(now - refusals);
            in_a_row = if sent.datagrams + sent.dropped > 0 {
                0
            } else {
                in_a_row + now - refusals
            };
            refusals = now;
            if in_a_row >= REFUSALS && matches!(way, SessionWay::Sibling(_)) {
                // The target may be what refuses, or the other gateway, which cannot say so.
                self.listener.serving.upstream.refused(way);
                break Some(Problem::Refused.code());
            }
        };
        counters.udp_refusals.add(session.refusals() - refusals);
        outcome.refusals = session.refusals();
        outcome.sent = session.meter_sent();
        end
    }
}

/// What is wrong with a session that ended; nothing when it idled, or the other end let go of it.
fn problem(end: EndReason) -> Option<Problem> {
    match end {
        EndReason::TimedOut | EndReason::Finished => None,
        EndReason::PeerGone => Some(Problem::Offline),
        EndReason::Refused(reply) => Some(FlowError::from(reply).problem()),
        _ => Some(Problem::Broken),
    }
}
