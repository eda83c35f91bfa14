//! What becomes of a flow that a gateway opens.

#![expect(clippy::disallowed_methods, reason = "each dial is a task of the shard")]

use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    collections::BTreeMap,
    future::Future,
    io,
    net::TcpStream,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use kakuremichi_core::{
    id::TargetId,
    model::{TargetAddress, Transport},
};
use kakuremichi_proto::{flow::FlowReply, preface::Preface};
use tokio::{
    io::copy_bidirectional,
    net::UnixStream,
    sync::{Notify, broadcast, mpsc},
};

use super::{
    check,
    exposure::{Door, Inlet},
    flows::{Flows, Ticket},
    table::{Admitted, FlowDenial, Grant, Opened, Opener, Table},
    visitor::{Visitor, VisitorStream},
};
use crate::{
    datagram::Buffers,
    engine::{IncomingFlow, Meter, PrefaceLength, SpliceEnd, proxy_v2_length},
    link::dial::{self, DialError},
    status::AgentEvent,
    stream::TunnelStream,
};

/// How long a target has to accept a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The connections that are being made at a time. A flow beyond is refused as overload.
const MAX_DIALS: usize = 1024;
/// How flows to the agent's targets begin.
pub(super) const PREFACE: PrefaceLength = proxy_v2_length;

/// A flow that a gateway opened, over whichever lane.
pub(super) trait Incoming: Sized + 'static {
    /// What was opened, and by whom.
    fn opened(&self) -> Opened;

    /// What it begins with.
    fn preface(&self) -> &[u8];

    /// Tells the gateway why not.
    fn refuse(self, reply: FlowReply);

    /// Takes the flow as a stream; the gateway is told that it is connected.
    fn accept_stream(self, meter: Arc<Meter>) -> TunnelStream;

    /// Serves a connected socket with the flow; the gateway is told that it is connected.
    fn accept_socket(self, socket: TcpStream, meter: Arc<Meter>) -> impl Future<Output = SpliceEnd>;
}

impl Incoming for IncomingFlow {
    fn opened(&self) -> Opened {
        Opened {
            transport: Transport::Tcp,
            by: Opener::Key(self.peer),
            local: self.local,
            remote: self.remote,
        }
    }

    fn preface(&self) -> &[u8] {
        &self.preface
    }

    fn refuse(self, reply: FlowReply) {
        self.refuse(reply);
    }

    fn accept_stream(self, meter: Arc<Meter>) -> TunnelStream {
        self.accept_stream(meter)
    }

    // Not async: nothing of the flow but the splice is kept then.
    fn accept_socket(self, socket: TcpStream, meter: Arc<Meter>) -> impl Future<Output = SpliceEnd> {
        self.accept_socket(socket, meter)
    }
}

/// What incoming flows are judged and served by. It lives on the shard's thread.
#[derive(Debug)]
pub(super) struct Shared {
    table: RefCell<Table>,
    inlets: RefCell<BTreeMap<TargetId, Inlet>>,
    flows: RefCell<Flows>,
    draining: Cell<bool>,
    dials: Cell<usize>,
    /// Sessions with targets.
    pub(super) relays: Cell<usize>,
    /// Where all of them receive.
    buffers: RefCell<Buffers>,
    events: broadcast::Sender<AgentEvent>,
    /// Listeners in this process came or went.
    pub(super) rebound: Notify,
}

impl Shared {
    pub(super) fn new(ended: mpsc::UnboundedSender<usize>, events: broadcast::Sender<AgentEvent>) -> Self {
        Self {
            table: RefCell::default(),
            inlets: RefCell::default(),
            flows: RefCell::new(Flows::new(ended)),
            draining: Cell::new(false),
            dials: Cell::new(0),
            relays: Cell::new(0),
            buffers: RefCell::new(Buffers::new()),
            events,
            rebound: Notify::new(),
        }
    }

    /// Follows a new plan: flows that it does not allow any more are closed (DESIGN, invariant 5).
    pub(super) fn set_table(&self, table: Table) {
        let revoked = self.flows.borrow_mut().judge_anew(&table);
        if revoked > 0 {
            tracing::info!(flows = revoked, "closing what the plan does not allow any more");
        }
        *self.table.borrow_mut() = table;
    }

    pub(super) fn set_inlets(&self, inlets: BTreeMap<TargetId, Inlet>) {
        let changed = {
            let mut current = self.inlets.borrow_mut();
            let changed = !current.keys().eq(inlets.keys());
            *current = inlets;
            changed
        };
        if changed {
            self.rebound.notify_waiters();
        }
    }

    pub(super) fn set_draining(&self, draining: bool) {
        self.draining.set(draining);
    }

    pub(super) fn has_inlet(&self, target: TargetId) -> bool {
        self.inlets.borrow().contains_key(&target)
    }

    pub(super) fn table(&self) -> Ref<'_, Table> {
        self.table.borrow()
    }

    pub(super) fn flows(&self) -> RefMut<'_, Flows> {
        self.flows.borrow_mut()
    }

    pub(super) fn buffers(&self) -> RefMut<'_, Buffers> {
        self.buffers.borrow_mut()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(super) fn inlet(&self, target: TargetId) -> Option<Inlet> {
        self.inlets.borrow().get(&target).cloned()
    }

    pub(super) fn event(&self, event: AgentEvent) {
        // Nobody may listen.
        let _ = self.events.send(event);
    }

    /// Counts and tells that somebody was refused because too many wait.
    pub(super) fn overflowed(&self, inlet: &Inlet) {
        inlet.overflowed();
        let name = inlet.name.clone();
        tracing::warn!(service = %name, "too many connections wait to be accepted");
        self.event(AgentEvent::Overflowed { name });
    }

    /// Takes a flow: serves it, or refuses it with a reason.
    pub(super) fn incoming(self: &Rc<Self>, flow: impl Incoming) {
        let (admitted, preface) = match self.judge(&flow) {
            Ok(good) => good,
            Err(denial) => {
                let opened = flow.opened();
                let gateway = self.table.borrow().gateway(opened.by);
                tracing::warn!(?gateway, port = opened.local.port(), %denial, "a flow is denied");
                self.event(AgentEvent::Denied { denial, gateway });
                return flow.refuse(FlowReply::Denied);
            }
        };
        tracing::debug!(service = %admitted.service, connection = %preface.connection, source = %preface.source, "a flow comes");
        if self.draining.get() {
            return flow.refuse(FlowReply::Draining);
        }
        match admitted.target.address {
            TargetAddress::InProcess => self.hand_over(flow, &admitted, preface),
            TargetAddress::Tcp(_) | TargetAddress::Unix(_) => self.begin_dial(flow, admitted),
            // No other service than a UDP service has such a target.
            TargetAddress::Udp(_) => flow.refuse(FlowReply::Unknown),
        }
    }

    fn judge(&self, flow: &impl Incoming) -> Result<(Admitted, Preface), FlowDenial> {
        let (preface, _) = Preface::parse(flow.preface())
            .ok()
            .flatten()
            .ok_or(FlowDenial::Preface)?;
        let admitted = self.table.borrow().admit(flow.opened(), &preface)?;
        Ok((admitted, preface))
    }

    fn begin(&self, grant: Grant) -> Ticket {
        self.flows.borrow_mut().begin(grant)
    }

    fn connected(&self, key: usize) {
        self.flows.borrow_mut().connected(key);
    }

    /// Hands a flow to the listener in this process, without waiting for it (LESSONS: one slow listener
    /// stalls every tunnel).
    fn hand_over(&self, flow: impl Incoming, admitted: &Admitted, preface: Preface) {
        let Some(inlet) = self.inlet(admitted.target.id) else {
            return flow.refuse(FlowReply::Unknown);
        };
        let Door::Streams(door) = &inlet.door else {
            return flow.refuse(FlowReply::Unknown);
        };
        match door.try_reserve() {
            Ok(place) => {
                let ticket = self.begin(admitted.grant.clone());
                self.connected(ticket.key());
                let stream = flow.accept_stream(ticket.meter());
                place.send(VisitorStream::new(stream, Visitor::new(preface), ticket));
            }
            Err(mpsc::error::TrySendError::Full(())) => {
                self.overflowed(&inlet);
                flow.refuse(FlowReply::Overloaded);
            }
            Err(mpsc::error::TrySendError::Closed(())) => flow.refuse(FlowReply::Unknown),
        }
    }

    fn begin_dial(self: &Rc<Self>, flow: impl Incoming, admitted: Admitted) {
        if self.dials.get() >= MAX_DIALS {
            return flow.refuse(FlowReply::Overloaded);
        }
        let dialling = Dialling::new(Rc::clone(self));
        let ticket = self.begin(admitted.grant.clone());
        let (service, target) = (admitted.service, admitted.target.id);
        let (meter, key) = (ticket.meter(), ticket.key());
        // A flow may live for days: what dialling takes is not kept for as long.
        let dial = Box::pin(dial_target(admitted.target.address));
        let shared = Rc::clone(self);
        let serving = async move {
            let reached = dial.await;
            drop(dialling);
            match reached {
                Ok(Reached::Tcp(socket)) => {
                    shared.connected(key);
                    let end = flow.accept_socket(socket, meter).await;
                    tracing::debug!(%service, sent = end.sent, received = end.received, reason = ?end.reason, "a flow has ended");
                }
                Ok(Reached::Unix(socket)) => {
                    shared.connected(key);
                    let end = Box::pin(relay(flow, socket, meter)).await;
                    tracing::debug!(%service, ?end, "a flow has ended");
                }
                Err(error) => {
                    tracing::info!(%service, target_id = %target, %error, "a target cannot be reached");
                    flow.refuse(reply(&error));
                }
            }
        };
        let serving = Box::pin(serving);
        tokio::task::spawn_local(Served { ticket, serving });
    }
}

/// A flow being served, until it ends or the plan does not allow it any more. Whatever is dropped by the
/// revocation closes: the dial, the flow and the socket.
struct Served {
    ticket: Ticket,
    serving: Pin<Box<dyn Future<Output = ()>>>,
}

impl Future for Served {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.ticket.poll_revoked(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => self.serving.as_mut().poll(cx),
        }
    }
}

/// A connected target.
enum Reached {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn dial_target(address: TargetAddress) -> Result<Reached, DialError> {
    match address {
        TargetAddress::Tcp(endpoint) => {
            let stream = dial::connect(&endpoint, DIAL_TIMEOUT, |_| true).await?;
            Ok(Reached::Tcp(stream.into_std()?))
        }
        TargetAddress::Unix(path) => Ok(Reached::Unix(check::connect_unix(&path, DIAL_TIMEOUT).await?)),
        TargetAddress::InProcess | TargetAddress::Udp(_) => Err(DialError::NoAddress),
    }
}

/// Serves a Unix socket, which the engine does not.
async fn relay(flow: impl Incoming, mut socket: UnixStream, meter: Arc<Meter>) -> io::Result<(u64, u64)> {
    let mut stream = flow.accept_stream(meter);
    copy_bidirectional(&mut stream, &mut socket).await
}

/// What the gateway is told.
pub(super) const fn reply(error: &DialError) -> FlowReply {
    match error {
        DialError::Refused => FlowReply::Refused,
        DialError::TimedOut => FlowReply::TimedOut,
        DialError::Resolve(_) | DialError::NoAddress | DialError::Proxy(_) | DialError::Unreachable(_) => {
            FlowReply::Unreachable
        }
    }
}

/// One dial, counted for as long as it is there.
struct Dialling(Rc<Shared>);

impl Dialling {
    fn new(shared: Rc<Shared>) -> Self {
        shared.dials.set(shared.dials.get() + 1);
        Self(shared)
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.dials.set(self.0.dials.get() - 1);
    }
}
