//! The flows that an agent serves now, and what they carry.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use kakuremichi_core::id::ServiceId;
use kakuremichi_proto::report::Amount;
use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use super::table::{Grant, Table};
use crate::engine::Meter;

/// All flows and sessions that were admitted and have not ended, those whose target is being dialled
/// included. The engine bounds them.
#[derive(Debug)]
pub(super) struct Flows {
    open: Slab<Flow>,
    /// How many of them are sessions.
    sessions: usize,
    ended: mpsc::UnboundedSender<usize>,
}

#[derive(Debug)]
struct Flow {
    grant: Grant,
    /// Its target is there: it counts as a connection.
    connected: bool,
    /// Sends the revocation, once.
    revoke: Option<oneshot::Sender<()>>,
    meter: Arc<Meter>,
    /// It is a UDP session.
    session: bool,
    /// What was counted of it before.
    counted: Amount,
}

/// Held by whoever uses a flow: when it is dropped, the flow has ended.
#[derive(Debug)]
pub(super) struct Ticket {
    key: usize,
    meter: Arc<Meter>,
    /// Not bounded by itself: each flow sends one message.
    ended: mpsc::UnboundedSender<usize>,
    revoked: Revoked,
}

#[derive(Debug)]
enum Revoked {
    Not(oneshot::Receiver<()>),
    Yes,
    /// Nobody is left who could.
    Never,
}

impl Ticket {
    /// Counts the flow's bytes.
    pub(super) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Names the flow.
    pub(super) const fn key(&self) -> usize {
        self.key
    }

    /// Ready when the plan does not allow the flow any more: it is to be closed.
    pub(super) fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Revoked::Not(receiver) = &mut self.revoked
            && let Poll::Ready(revoked) = Pin::new(receiver).poll(cx)
        {
            self.revoked = revoked.map_or(Revoked::Never, |()| Revoked::Yes);
        }
        match self.revoked {
            Revoked::Yes => Poll::Ready(()),
            Revoked::Not(_) | Revoked::Never => Poll::Pending,
        }
    }

    /// Waits until the plan does not allow the flow any more.
    pub(super) async fn revoked(&mut self) {
        poll_fn(|cx| self.poll_revoked(cx)).await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Nobody listens when the agent is gone.
        let _ = self.ended.send(self.key);
    }
}

impl Flows {
    pub(super) const fn new(ended: mpsc::UnboundedSender<usize>) -> Self {
        Self {
            open: Slab::new(),
            sessions: 0,
            ended,
        }
    }

    /// How many flows there are. Sessions do not count: they have no end that could be waited for.
    pub(super) fn len(&self) -> usize {
        self.open.len() - self.sessions
    }

    /// A flow that the plan grants begins; its target is to be found.
    pub(super) fn begin(&mut self, grant: Grant) -> Ticket {
        self.add(grant, false)
    }

    /// A session that the plan grants begins; its target is there.
    pub(super) fn begin_session(&mut self, grant: Grant) -> Ticket {
        self.sessions += 1;
        self.add(grant, true)
    }

    fn add(&mut self, grant: Grant, session: bool) -> Ticket {
        let meter = Arc::<Meter>::default();
        let (revoke, revoked) = oneshot::channel();
        let key = self.open.insert(Flow {
            grant,
            connected: session,
            revoke: Some(revoke),
            meter: Arc::clone(&meter),
            session,
            counted: Amount::default(),
        });
        Ticket {
            key,
            meter,
            ended: self.ended.clone(),
            revoked: Revoked::Not(revoked),
        }
    }

    /// A flow has reached its target.
    pub(super) fn connected(&mut self, key: usize) {
        if let Some(flow) = self.open.get_mut(key) {
            flow.connected = true;
        }
    }

    /// Judges all flows anew (DESIGN, invariant 5); those that the table does not grant any more are
    /// told. Returns how many.
    pub(super) fn judge_anew(&mut self, table: &Table) -> usize {
        let lapsed = self
            .open
            .iter_mut()
            .filter(|(_, flow)| !table.grants(&flow.grant));
        lapsed
            .filter_map(|(_, flow)| flow.revoke.take()?.send(()).ok())
            .count()
    }

    /// A flow has ended; returns what of it was not counted.
    pub(super) fn end(&mut self, key: usize) -> Option<(ServiceId, Amount)> {
        let mut flow = self.open.try_remove(key)?;
        self.sessions -= usize::from(flow.session);
        let amount = flow.uncounted();
        Some((flow.grant.service, amount))
    }

    /// What the flows carried since the last call.
    pub(super) fn count(&mut self) -> impl Iterator<Item = (ServiceId, Amount)> {
        self.open
            .iter_mut()
            .map(|(_, flow)| (flow.grant.service, flow.uncounted()))
            .filter(|(_, amount)| *amount != Amount::default())
    }
}

impl Flow {
    fn uncounted(&mut self) -> Amount {
        let total = Amount {
            connections: u64::from(self.connected),
            requests: 0,
            received: self.meter.received(),
            sent: self.meter.sent(),
        };
        let before = std::mem::replace(&mut self.counted, total);
        Amount {
            connections: total.connections - before.connections,
            requests: 0,
            received: total.received - before.received,
            sent: total.sent - before.sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_is_counted_once_however_often_it_is_asked_about() {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let mut flows = Flows::new(ended);
        let service = ServiceId::from_bytes([1; 16]);
        let ticket = flows.begin(Grant::of(service));
        assert_eq!(flows.count().count(), 0, "its target is being dialled");
        flows.connected(ticket.key());
        let counted: Vec<_> = flows.count().collect();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].1.connections, 1);
        assert_eq!(flows.count().count(), 0);
        drop(ticket);
        let key = ends.try_recv().unwrap();
        assert_eq!(flows.end(key), Some((service, Amount::default())));
        assert_eq!((flows.end(key), flows.len()), (None, 0));
        let session = flows.begin_session(Grant::of(service));
        assert_eq!((flows.len(), flows.count().count()), (0, 1));
        drop(session);
        flows.end(ends.try_recv().unwrap());
        assert_eq!((flows.len(), flows.sessions), (0, 0));
    }
}
