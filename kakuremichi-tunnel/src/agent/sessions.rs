//! What becomes of a UDP session that a gateway opens.

#![expect(clippy::disallowed_methods, reason = "each session is a task of the shard")]

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    rc::Rc,
    sync::Arc,
};

use kakuremichi_core::{
    model::{TargetAddress, Transport},
    net::Endpoint,
};
use kakuremichi_proto::{flow::FlowReply, preface::Preface};
use tokio::sync::mpsc;

use super::{
    exposure::Door,
    incoming::{Shared, reply},
    table::{Admitted, FlowDenial, Opened, Opener},
    visitor::{Visitor, VisitorSession},
};
use crate::{
    datagram::DatagramSocket,
    engine::{IncomingSession, Meter},
    link::dial::{self, DialError},
    session::TunnelSession,
    status::AgentEvent,
};

/// The sessions with targets at a time: each has a socket. One beyond is refused and counted as overload.
const MAX_RELAYS: usize = 8_192;

/// A session that a gateway opened, over whichever lane.
pub(super) trait IncomingDatagrams: Sized + 'static {
    /// What was opened, and by whom.
    fn opened(&self) -> Opened;

    /// What it begins with.
    fn preface(&self) -> &[u8];

    /// Tells the gateway that nobody takes its datagrams, and, where the lane can say it, why.
    fn refuse(self, reply: FlowReply);

    /// Takes the session.
    fn accept(self, meter: Arc<Meter>) -> TunnelSession;
}

impl IncomingDatagrams for IncomingSession {
    fn opened(&self) -> Opened {
        Opened {
            transport: Transport::Udp,
            by: Opener::Key(self.peer),
            local: self.local,
            remote: self.remote,
        }
    }

    fn preface(&self) -> &[u8] {
        &self.preface
    }

    fn refuse(self, _: FlowReply) {
        self.refuse();
    }

    fn accept(self, meter: Arc<Meter>) -> TunnelSession {
        self.accept(meter)
    }
}

impl Shared {
    /// Takes a session: serves it, or refuses it.
    pub(super) fn session(self: &Rc<Self>, session: impl IncomingDatagrams) {
        let (admitted, preface) = match self.judge_session(&session) {
            Ok(good) => good,
            Err(denial) => {
                let opened = session.opened();
                let gateway = self.table().gateway(opened.by);
                tracing::warn!(?gateway, port = opened.local.port(), %denial, "a session is denied");
                self.event(AgentEvent::Denied { denial, gateway });
                return session.refuse(FlowReply::Denied);
            }
        };
        tracing::debug!(service = %admitted.service, connection = %preface.connection, source = %preface.source, "a session comes");
        if self.is_draining() {
            return session.refuse(FlowReply::Draining);
        }
        match admitted.target.address.clone() {
            TargetAddress::InProcess => self.hand_session_over(session, &admitted, preface),
            TargetAddress::Udp(endpoint) => self.begin_relay(session, admitted, endpoint),
            // No UDP service of a plan has such a target.
            TargetAddress::Tcp(_) | TargetAddress::Unix(_) => session.refuse(FlowReply::Unknown),
        }
    }

    fn judge_session(&self, session: &impl IncomingDatagrams) -> Result<(Admitted, Preface), FlowDenial> {
        let (preface, _) = Preface::parse_datagram(session.preface()).map_err(|_| FlowDenial::Preface)?;
        let admitted = self.table().admit(session.opened(), &preface)?;
        Ok((admitted, preface))
    }

    fn hand_session_over(&self, session: impl IncomingDatagrams, admitted: &Admitted, preface: Preface) {
        let Some(inlet) = self.inlet(admitted.target.id) else {
            return session.refuse(FlowReply::Unknown);
        };
        let Door::Sessions(door) = &inlet.door else {
            return session.refuse(FlowReply::Unknown);
        };
        match door.try_reserve() {
            Ok(place) => {
                let ticket = self.flows().begin_session(admitted.grant.clone());
                let session = session.accept(ticket.meter());
                place.send(VisitorSession::new(session, Visitor::new(preface), ticket));
            }
            Err(mpsc::error::TrySendError::Full(())) => {
                self.overflowed(&inlet);
                session.refuse(FlowReply::Overloaded);
            }
            Err(mpsc::error::TrySendError::Closed(())) => session.refuse(FlowReply::Unknown),
        }
    }

    fn begin_relay(self: &Rc<Self>, session: impl IncomingDatagrams, admitted: Admitted, endpoint: Endpoint) {
        if self.relays.get() >= MAX_RELAYS {
            tracing::debug!(service = %admitted.service, "there are too many sessions");
            return session.refuse(FlowReply::Overloaded);
        }
        let relay = Relay::new(Rc::clone(self));
        tokio::task::spawn_local(async move { relay.run(session, &admitted, &endpoint).await });
    }
}

/// One session with a target, counted for as long as it is there.
struct Relay(Rc<Shared>);

impl Relay {
    fn new(shared: Rc<Shared>) -> Self {
        shared.relays.set(shared.relays.get() + 1);
        Self(shared)
    }

    async fn run(self, session: impl IncomingDatagrams, admitted: &Admitted, endpoint: &Endpoint) {
        let (socket, target) = match connect(endpoint).await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::info!(service = %admitted.service, target_id = %admitted.target.id, %error, "a target cannot be reached");
                return session.refuse(reply(&error));
            }
        };
        let mut ticket = self.0.flows().begin_session(admitted.grant.clone());
        let session = session.accept(ticket.meter());
        let end = tokio::select! {
            end = self.carry(session, &socket, target) => end,
            // What the plan does not allow any more ends (DESIGN, invariant 5).
            () = ticket.revoked() => Ok(()),
        };
        tracing::debug!(service = %admitted.service, ?end, "a session has ended");
    }

    /// Carries datagrams until the session ends or the target refuses.
    async fn carry(
        &self,
        mut session: TunnelSession,
        socket: &DatagramSocket,
        target: SocketAddr,
    ) -> io::Result<()> {
        loop {
            tokio::select! {
                ready = poll_fn(|cx| session.poll_ready(cx)) => {
                    if ready.is_err() {
                        return Ok(());
                    }
                    let (_, result) = socket.send(session.queue(), target, None);
                    if let Err(error) = result {
                        session.refuse();
                        return Err(error);
                    }
                }
                readable = socket.readable() => {
                    readable?;
                    let mut buffers = self.0.buffers();
                    match socket.try_recv(&mut buffers) {
                        Ok(()) => {
                            for (_, _, datagrams) in buffers.received() {
                                // What there is no room for is dropped, and counted there.
                                session.send_all(datagrams);
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => {
                            // The port is closed, or the host cannot be reached (ICMP).
                            session.refuse();
                            return Err(error);
                        }
                    }
                }
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.relays.set(self.0.relays.get() - 1);
    }
}

/// A socket that speaks to a target only, and whose errors are the target's.
async fn connect(endpoint: &Endpoint) -> Result<(DatagramSocket, SocketAddr), DialError> {
    let addresses = dial::resolve(endpoint).await?;
    let mut failed = DialError::NoAddress;
    for target in addresses {
        let any: SocketAddr = if target.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let connected = UdpSocket::bind(any).and_then(|socket| {
            // Fails when there is no way there: then the next address is tried.
            socket.connect(target)?;
            DatagramSocket::new(socket)
        });
        match connected {
            Ok(socket) => return Ok((socket, target)),
            Err(error) => failed = error.into(),
        }
    }
    Err(failed)
}
