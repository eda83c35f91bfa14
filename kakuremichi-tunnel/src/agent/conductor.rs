//! What an agent does, as one task on its shard: it brings plan, wishes, lanes, checks and flows
//! together.

#![expect(
    clippy::disallowed_methods,
    reason = "the agent acts by the clock, as tasks of its shard"
)]

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_core::{
    model::Transport,
    name::Label,
    plan::{AgentPlan, AgentRecord},
};
use kakuremichi_proto::{
    declare::Declaration,
    report::{Incident, Severity, TargetState},
};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
    time,
};

use super::{
    check::CheckTls,
    checks::{Checks, OUTCOMES, Outcome},
    exposure::{Answer, Exposures, News},
    feed,
    incoming::{PREFACE, Shared},
    lanes::{FOUND, Found, Lanes, StreamSetup, Turn},
    table::Table,
    view,
};
use crate::{
    engine::{Listen, LocalShard, Network},
    error::{CloseReason, ExposeError},
    keys::Held,
    link::{LinkEnd, LinkStatus, NodeSide, Order},
    status::{AgentEvent, AgentStatus, Phase},
};

/// How often carried bytes are counted, and waiters that are gone are noticed.
const TICK: Duration = Duration::from_secs(1);
/// The part of a shutdown's time that is kept for the last words to Control.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a handle asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// Publish a service.
    Expose(Box<Declaration>, Answer),
    /// Stop. The answer comes when flows have ended, or most of the time is over.
    Shutdown(Duration, oneshot::Sender<()>),
}

pub(super) struct Conductor {
    local: LocalShard,
    node: NodeSide<AgentRecord>,
    source: JoinHandle<LinkEnd>,
    plan: Arc<AgentPlan>,
    shared: Rc<Shared>,
    exposures: Exposures,
    lanes: Lanes,
    keys: watch::Receiver<Held>,
    checks: Checks,
    phase: Phase,
    status: watch::Sender<Arc<AgentStatus>>,
    report: watch::Sender<feed::Report>,
    events: broadcast::Sender<AgentEvent>,
    requests: mpsc::Receiver<Request>,
    found: mpsc::Receiver<Found>,
    outcomes: mpsc::Receiver<Outcome>,
    ended: mpsc::UnboundedReceiver<usize>,
    dropped: mpsc::UnboundedReceiver<(Label, u64)>,
    drops: mpsc::UnboundedSender<(Label, u64)>,
    stopping: Option<Stopping>,
}

struct Stopping {
    until: time::Instant,
    /// How long Control has to hear the last words.
    talk: Duration,
    answers: Vec<oneshot::Sender<()>>,
}

/// What the conductor is given.
pub(super) struct Parts {
    pub(super) node: NodeSide<AgentRecord>,
    pub(super) source: JoinHandle<LinkEnd>,
    pub(super) status: watch::Sender<Arc<AgentStatus>>,
    pub(super) events: broadcast::Sender<AgentEvent>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) streams: StreamSetup,
}

impl Conductor {
    /// Takes the shard over.
    pub(super) fn new(local: LocalShard, parts: Parts) -> Self {
        let (ends, ended) = mpsc::unbounded_channel();
        let (drops, dropped) = mpsc::unbounded_channel();
        let (find, found) = mpsc::channel(FOUND);
        let (outcome, outcomes) = mpsc::channel(OUTCOMES);
        let (report, reports) = watch::channel(feed::Report::default());
        let shared = Rc::new(Shared::new(ends, parts.events.clone()));
        let handler = Rc::clone(&shared);
        local.on_incoming(move |flow| handler.incoming(flow));
        let handler = Rc::clone(&shared);
        local.on_session(move |session| handler.session(session));
        let checks = Checks::new(outcome, CheckTls::new(&parts.streams.dialling.provider));
        let mut keys = parts.streams.keys.watch();
        // The engine was made with one of them only.
        keys.mark_changed();
        let lanes = Lanes::new(
            find,
            local.watch_peers(),
            local.shard().clone(),
            reports,
            parts.streams,
            Rc::clone(&shared),
        );
        Self {
            local,
            node: parts.node,
            source: parts.source,
            plan: Arc::default(),
            shared,
            exposures: Exposures::default(),
            lanes,
            keys,
            checks,
            phase: Phase::Running,
            status: parts.status,
            report,
            events: parts.events,
            requests: parts.requests,
            found,
            outcomes,
            ended,
            dropped,
            drops,
            stopping: None,
        }
    }

    /// Runs until the agent has stopped.
    pub(super) async fn run(mut self) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        self.take_plan();
        loop {
            tokio::select! {
                Some(request) = self.requests.recv() => self.request(request),
                Ok(()) = self.node.plan.changed() => self.take_plan(),
                Ok(()) = self.node.status.changed() => self.link_changed(),
                Ok(()) = self.node.answers.changed() => self.take_answers(),
                Ok(()) = self.keys.changed() => self.take_keys(),
                Some(order) = self.node.orders.recv() => self.obey(order),
                () = self.lanes.changed() => self.observe_lanes(),
                Some(found) = self.found.recv() => if self.lanes.found(found) {
                    self.configure();
                },
                Some(outcome) = self.outcomes.recv() => self.checked(outcome),
                Some(key) = self.ended.recv() => self.flow_ended(key),
                Some((name, number)) = self.dropped.recv() => if self.exposures.remove(&name, number) {
                    self.wishes_changed();
                },
                _ = tick.tick() => self.count(),
                () = stop_time(self.stopping.as_ref()) => {}
            }
            if self.is_drained() {
                return self.finish().await;
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Expose(declaration, answer) => self.expose(*declaration, answer),
            Request::Shutdown(grace, answer) => self.shutdown(grace, answer),
        }
    }

    fn expose(&mut self, declaration: Declaration, answer: Answer) {
        let closed = match &self.phase {
            Phase::Running => None,
            Phase::Draining => Some(CloseReason::Shutdown),
            Phase::Closed(reason) => Some(reason.clone()),
        };
        if let Some(reason) = closed {
            let _ = answer.send(Err(ExposeError::Closed(reason)));
            return;
        }
        let name = declaration.name.clone();
        let Some((number, leased)) = self.exposures.add(declaration, answer) else {
            return;
        };
        let drops = self.drops.clone();
        self.local.spawn(async move {
            // It ends when the handle is dropped.
            let _ = leased.await;
            // Nobody listens when the agent is gone.
            let _ = drops.send((name, number));
        });
        self.wishes_changed();
        self.give_up_on_wishes();
    }

    /// Ends the wait for what nobody will answer: there is no Control, or it has refused this node.
    fn give_up_on_wishes(&mut self) {
        let end = match &*self.node.status.borrow() {
            LinkStatus::Fixed => None,
            LinkStatus::Ended(end) => Some(end.clone()),
            LinkStatus::Idle
            | LinkStatus::Connecting
            | LinkStatus::Up { .. }
            | LinkStatus::Waiting { .. } => {
                return;
            }
        };
        let given_up = self.exposures.give_up(|| match &end {
            None => ExposeError::NotPlanned,
            Some(end) => ExposeError::Closed(CloseReason::Link(end.clone())),
        });
        if given_up {
            self.wishes_changed();
        }
    }

    fn wishes_changed(&mut self) {
        self.node.wishes.send_replace(self.exposures.wishes());
        self.bind();
        self.publish();
    }

    fn take_plan(&mut self) {
        self.plan = Arc::clone(&self.node.plan.borrow_and_update());
        self.lanes.plan(&self.plan);
        let table = Table::new(&self.plan);
        self.checks
            .plan(table.targets().map(|(_, target)| target), &self.shared);
        self.shared.set_table(table);
        self.bind();
        self.configure();
        if self.plan.node().is_some() {
            let revision = self.plan.revision();
            tracing::info!(revision = revision.0, "serving a plan");
            self.event(AgentEvent::PlanApplied(revision));
        }
        self.node.serves(&self.plan);
        self.publish();
    }

    fn take_keys(&mut self) {
        self.keys.borrow_and_update().give(self.local.shard());
    }

    fn configure(&self) {
        let Some(node) = self.plan.node() else { return };
        let table = self.shared.table();
        let listen = |transport| {
            let listen = |port| Listen {
                port,
                preface: Some(PREFACE),
            };
            table.ports(transport).map(listen).collect()
        };
        self.local.configure(Network {
            addresses: vec![node.address.into()],
            peers: self.lanes.peers(),
            listen: listen(Transport::Tcp),
            listen_udp: listen(Transport::Udp),
        });
    }

    fn bind(&mut self) {
        let linked = matches!(*self.node.status.borrow(), LinkStatus::Up { .. });
        let (inlets, news) = self.exposures.bind(&self.plan, linked);
        self.shared.set_inlets(inlets);
        self.tell(news);
    }

    fn take_answers(&mut self) {
        let answers = Arc::clone(&self.node.answers.borrow_and_update());
        let news = self.exposures.answered(&answers);
        let refused = news.iter().any(|news| matches!(news, News::Refused(..)));
        self.tell(news);
        if refused {
            self.wishes_changed();
        } else {
            self.publish();
        }
    }

    fn tell(&self, news: Vec<News>) {
        for news in news {
            self.event(match news {
                News::Published(name, urls) => {
                    tracing::info!(service = %name, ?urls, "a service is published");
                    AgentEvent::Published { name, urls }
                }
                News::Refused(name, refusal) => {
                    tracing::warn!(service = %name, %refusal, "a service is refused");
                    AgentEvent::Refused { name, refusal }
                }
            });
        }
    }

    fn link_changed(&mut self) {
        let status = self.node.status.borrow_and_update().clone();
        match &status {
            LinkStatus::Up { .. } => self.event(AgentEvent::LinkUp),
            LinkStatus::Waiting { attempts: 1, .. } => self.event(AgentEvent::LinkLost),
            LinkStatus::Ended(end) if *end != LinkEnd::Stopped => {
                self.event(AgentEvent::LinkEnded(end.clone()));
            }
            _ => {}
        }
        self.give_up_on_wishes();
        // Who waited for Control's answer has what the plan says, now that none may come.
        self.bind();
        self.publish();
    }

    fn obey(&mut self, order: Order) {
        let phase = match order {
            Order::Drain => Phase::Draining,
            Order::Undrain => Phase::Running,
        };
        if self.stopping.is_none() {
            tracing::info!(?order, "Control asks for this");
            self.set_phase(phase);
        }
    }

    fn set_phase(&mut self, phase: Phase) {
        self.shared.set_draining(phase != Phase::Running);
        self.phase = phase;
        self.publish();
    }

    fn observe_lanes(&mut self) {
        let (turns, changed) = self.lanes.observe();
        if changed {
            self.publish();
        }
        for turn in turns {
            match turn {
                Turn::Up(gateway, rtt) => {
                    tracing::info!(%gateway, ?rtt, "a lane is up");
                    self.event(AgentEvent::LaneUp { gateway, rtt });
                }
                Turn::Down(gateway) => {
                    tracing::warn!(%gateway, "a lane is down");
                    self.event(AgentEvent::LaneDown { gateway });
                    self.incident(format!("the lane to {gateway} is down"));
                }
            }
        }
    }

    fn checked(&mut self, outcome: Outcome) {
        let Some(checked) = self.checks.record(outcome) else {
            return;
        };
        self.publish();
        let error = checked.last_error.clone();
        tracing::info!(target_id = %checked.target, state = ?checked.state, ?error, "a target's health changed");
        if checked.state == TargetState::Failing {
            let why = error.as_deref().unwrap_or_default();
            self.incident(format!("the target {} fails its check: {why}", checked.target));
        }
        self.event(AgentEvent::Target {
            target: checked.target,
            state: checked.state,
            error,
        });
    }

    fn flow_ended(&self, key: usize) {
        if let Some((service, amount)) = self.shared.flows().end(key) {
            self.node.record_usage(service, amount);
        }
    }

    fn count(&mut self) {
        for (service, amount) in self.shared.flows().count() {
            self.node.record_usage(service, amount);
        }
        if self.exposures.forget_abandoned() {
            self.wishes_changed();
        }
    }

    /// Says everything that is known: to handles, to Control, to the gateways.
    fn publish(&self) {
        let status = view::status(
            self.phase.clone(),
            &self.node.status.borrow(),
            &self.plan,
            &self.lanes,
            &self.checks,
            &self.exposures,
            |target| self.shared.has_inlet(target),
        );
        let report = view::report(&status, &self.checks);
        self.node.report.send_if_modified(|told| {
            let changed = **told != report;
            if changed {
                *told = Arc::new(report);
            }
            changed
        });
        self.report
            .send_if_modified(|report| report.update(self.phase != Phase::Running, self.checks.all()));
        self.status.send_replace(Arc::new(status));
    }

    /// Tells Control, as soon as there is a link and as long as there is room.
    fn incident(&self, message: String) {
        let _ = self.node.incidents.try_send(Incident {
            at: SystemTime::now().into(),
            severity: Severity::Warning,
            code: None,
            message,
        });
    }

    fn event(&self, event: AgentEvent) {
        // Nobody may listen.
        let _ = self.events.send(event);
    }

    fn shutdown(&mut self, grace: Duration, answer: oneshot::Sender<()>) {
        let talk = LAST_WORDS.min(grace / 4);
        let until = time::Instant::now() + grace.saturating_sub(talk);
        if let Some(stopping) = &mut self.stopping {
            // Whoever has the least time decides.
            stopping.until = stopping.until.min(until);
            stopping.answers.push(answer);
            return;
        }
        self.stopping = Some(Stopping {
            until,
            talk,
            answers: vec![answer],
        });
        self.exposures.close(&CloseReason::Shutdown);
        self.wishes_changed();
        self.set_phase(Phase::Draining);
    }

    /// Whether there is nothing left to wait for, or no time to.
    fn is_drained(&self) -> bool {
        self.stopping
            .as_ref()
            .is_some_and(|stopping| self.shared.flows().len() == 0 || time::Instant::now() >= stopping.until)
    }

    /// Says the last words and goes.
    async fn finish(mut self) {
        while let Ok(key) = self.ended.try_recv() {
            self.flow_ended(key);
        }
        self.count();
        self.lanes.close_feeds();
        self.node.stop();
        if let Some(Stopping { talk, answers, .. }) = self.stopping.take() {
            let _ = time::timeout(talk, &mut self.source).await;
            self.set_phase(Phase::Closed(CloseReason::Shutdown));
            for answer in answers {
                let _ = answer.send(());
            }
        }
    }
}

async fn stop_time(stopping: Option<&Stopping>) {
    match stopping {
        Some(stopping) => time::sleep_until(stopping.until).await,
        None => std::future::pending().await,
    }
}
