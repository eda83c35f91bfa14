//! What siblings open: their feeds, and the flows that this gateway passes on for them.

#![expect(clippy::disallowed_methods, reason = "each flow that is passed on is timed")]

mod sessions;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kakuremichi_core::{id::GatewayId, key::WireGuardKey, model::Transport};
use kakuremichi_proto::{
    flow::FlowReply,
    lane::{FEED_PORT, RELAY_PORT},
    preface::Preface,
};
use slab::Slab;
use tokio::{
    io::copy_bidirectional_with_sizes,
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{
    Siblings, feed,
    table::{RelayDenial, RelayGrant},
};
use crate::{
    engine::{IncomingFlow, LocalShard, Meter},
    gateway::{drain::Drain, http::TaskGuard, lanes::Lanes, upstream::FlowError},
};

/// What is read at once of a flow that is passed on, of each direction, in bytes: all that is kept of it
/// here beside the buffers of its two ends.
const PIECE: usize = 16 * 1024;

/// One shard's part of what siblings open.
#[derive(Debug)]
pub(crate) struct Relays {
    siblings: Siblings,
    lanes: Lanes,
    drain: Drain,
    connect: Duration,
    /// A session ends when no datagram passes for so long.
    idle: Duration,
    /// At most one of each sibling: a newer one replaces the older.
    feeds: RefCell<BTreeMap<GatewayId, TaskGuard>>,
    /// Bounded by [`Limits::relayed_flows`](crate::gateway::Limits::relayed_flows), with all shards together.
    open: RefCell<Slab<Open>>,
    /// Sessions, bounded by [`Limits::relayed_sessions`](crate::gateway::Limits::relayed_sessions).
    sessions: RefCell<Slab<Open>>,
    ended: Notify,
}

/// A flow, or a session, that is passed on.
#[derive(Debug)]
struct Open {
    grant: RelayGrant,
    /// Ends it when it is dropped. The place stays until then: nobody else is to have its number.
    revoke: Option<oneshot::Sender<()>>,
}

/// The place of one flow among all, for as long as it is there.
struct Place {
    relays: Rc<Relays>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.relays.open.borrow_mut().try_remove(self.key);
        self.relays.siblings.0.relayed.fetch_sub(1, Ordering::Relaxed);
        self.relays.ended.notify_waiters();
    }
}

impl Relays {
    /// An agent has `connect` to take a flow; a session ends when no datagram passes for `idle`.
    pub(crate) fn new(lanes: Lanes, drain: Drain, (connect, idle): (Duration, Duration)) -> Rc<Self> {
        Rc::new(Self {
            siblings: lanes.siblings().clone(),
            lanes,
            drain,
            connect,
            idle,
            feeds: RefCell::default(),
            open: RefCell::default(),
            sessions: RefCell::default(),
            ended: Notify::new(),
        })
    }

    /// Takes a flow that a peer opened, if it is a sibling's, or wants to be passed on. Others are given back.
    pub(crate) fn take(self: &Rc<Self>, flow: IncomingFlow, local: &LocalShard) -> Option<IncomingFlow> {
        match flow.local.port() {
            RELAY_PORT => self.pass_on(flow, local),
            FEED_PORT => {
                let sibling = self.siblings.0.table.load().sibling(&flow.peer, flow.remote.ip());
                let Some(sibling) = sibling else { return Some(flow) };
                self.hear(flow, sibling, local);
            }
            _ => return Some(flow),
        }
        None
    }

    fn hear(&self, flow: IncomingFlow, sibling: GatewayId, local: &LocalShard) {
        let stream = flow.accept_stream(Arc::default());
        let siblings = self.siblings.clone();
        let task = local.spawn(async move { feed::listen(stream, sibling, &siblings).await });
        let task = TaskGuard(task.abort_handle());
        self.feeds.borrow_mut().insert(sibling, task);
    }

    fn pass_on(self: &Rc<Self>, flow: IncomingFlow, local: &LocalShard) {
        let counters = &self.siblings.0.counters;
        let (grant, preface) = match self.judge(&flow) {
            Ok(good) => good,
            Err(denial) => {
                self.denied(&flow.peer, denial);
                return flow.refuse(FlowReply::Denied);
            }
        };
        if self.drain.has_begun() {
            return flow.refuse(FlowReply::Draining);
        }
        let shared = &self.siblings.0;
        if shared.relayed.fetch_add(1, Ordering::Relaxed) >= shared.limit {
            shared.relayed.fetch_sub(1, Ordering::Relaxed);
            counters.relays_refused.one();
            return flow.refuse(FlowReply::Overloaded);
        }
        counters.relays_taken.one();
        let (revoke, revoked) = oneshot::channel();
        let key = self.open.borrow_mut().insert(Open {
            grant: grant.clone(),
            revoke: Some(revoke),
        });
        let place = Place {
            relays: Rc::clone(self),
            key,
        };
        local.spawn(async move {
            // Whatever is dropped by the revocation resets both ends.
            tokio::select! {
                () = place.relays.serve(flow, &grant, preface) => {}
                _ = revoked => {
                    tracing::info!(service_id = %grant.service, "a flow that was passed on is no longer permitted");
                }
            }
            drop(place);
        });
    }

    fn denied(&self, peer: &WireGuardKey, denial: RelayDenial) {
        self.siblings.0.counters.relays_denied.one();
        // Any agent may try; that a sibling is wrong is another matter.
        if matches!(denial, RelayDenial::Gateway | RelayDenial::Preface) {
            tracing::debug!(%peer, %denial, "a flow or a session is not passed on");
        } else {
            tracing::warn!(%peer, %denial, "a flow or a session is not passed on");
        }
    }

    fn judge(&self, flow: &IncomingFlow) -> Result<(RelayGrant, Preface), RelayDenial> {
        let (preface, _) = Preface::parse(&flow.preface)
            .ok()
            .flatten()
            .ok_or(RelayDenial::Preface)?;
        let table = self.siblings.0.table.load();
        let grant = table.admit(flow.peer, flow.remote.ip(), Transport::Tcp, &preface)?;
        Ok((grant, preface))
    }

    /// Opens the way to the agent, answers, and carries until both directions have ended.
    async fn serve(&self, flow: IncomingFlow, grant: &RelayGrant, preface: Preface) {
        let connection = preface.connection;
        let opened = timeout(self.connect, self.lanes.pass_on(grant, preface)).await;
        let mut target = match opened.unwrap_or(Err(FlowError::TimedOut)) {
            Ok(target) => target,
            Err(error) => {
                tracing::debug!(agent = %grant.agent, %error, "no way to pass a flow on");
                return flow.refuse(reply(error));
            }
        };
        let meter = Arc::<Meter>::default();
        let mut source = flow.accept_stream(Arc::clone(&meter));
        let end = copy_bidirectional_with_sizes(&mut source, &mut target, PIECE, PIECE).await;
        // Where both ends have been served, what was sent may not have left yet.
        let (bytes_in, bytes_out) = match &end {
            Ok(carried) => *carried,
            Err(_) => (meter.received(), meter.sent()),
        };
        self.siblings.0.counters.relayed_bytes.add(bytes_in + bytes_out);
        tracing::info!(
            target: "kakuremichi::relay",
            gateway = %grant.entry,
            agent = %grant.agent,
            service_id = %grant.service,
            %connection,
            bytes_in,
            bytes_out,
            complete = end.is_ok(),
        );
    }

    /// Follows the plan that was published: flows that it does not allow any more are closed (DESIGN,
    /// invariant 5), and siblings that it does not have are no longer heard.
    pub(crate) fn follow(&self) {
        let table = self.siblings.0.table.load();
        self.feeds
            .borrow_mut()
            .retain(|sibling, _| table.is_sibling(*sibling));
        self.revoke(|grant| !table.grants(grant));
    }

    /// Cuts everything.
    pub(crate) fn close(&self) {
        self.feeds.borrow_mut().clear();
        self.revoke(|_| true);
    }

    fn revoke(&self, which: impl Fn(&RelayGrant) -> bool) {
        for all in [&self.open, &self.sessions] {
            for (_, open) in all.borrow_mut().iter_mut() {
                open.revoke = open.revoke.take().filter(|_| !which(&open.grant));
            }
        }
    }

    /// Waits until the gateway drains and no flow is passed on any more. Sessions are not waited for: they
    /// have no end that anybody would tell.
    pub(crate) async fn drained(self: Rc<Self>) {
        self.drain.clone().begun().await;
        loop {
            let ended = self.ended.notified();
            if self.open.borrow().is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// What the sibling is told.
const fn reply(error: FlowError) -> FlowReply {
    match error {
        FlowError::Offline | FlowError::Broken => FlowReply::Offline,
        FlowError::Refused => FlowReply::Refused,
        FlowError::TimedOut => FlowReply::TimedOut,
        FlowError::Unreachable | FlowError::Certificate => FlowReply::Unreachable,
        FlowError::Denied => FlowReply::Denied,
        FlowError::Overloaded => FlowReply::Overloaded,
    }
}
