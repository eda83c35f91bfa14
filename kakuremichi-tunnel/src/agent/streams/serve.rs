//! One connection for flows: it waits for one, serves it, and waits for the next.

use std::{
    net::{Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use kakuremichi_core::{id::GatewayId, model::Transport, net::Endpoint};
use kakuremichi_proto::{flow::FlowReply, lane::hello::Purpose, preface::is_of_datagrams};
use tokio::sync::{Notify, mpsc};

use super::{
    Cuts,
    datagrams::LaneDatagrams,
    dial::{Dialler, StreamError},
};
use crate::{
    agent::{
        incoming::{Incoming, Shared},
        table::{Opened, Opener},
    },
    engine::{EndReason, Meter, SpliceEnd},
    stream::TunnelStream,
    streams::{
        connection::{Connection, Signal},
        finish::finish,
        flow::LaneFlow,
        hello::HelloError,
        idle,
        splice::LaneSplice,
    },
};

/// What happened to a connection.
#[derive(Debug)]
pub(super) enum Event {
    Opened,
    Failed(StreamError),
    Begun,
    Ended,
    ClosedIdle,
    ClosedBusy,
}

/// Where the flows of one lane arrive.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) gateway: GatewayId,
    pub(super) local: Ipv6Addr,
    pub(super) remote: Ipv6Addr,
    pub(super) shared: Rc<Shared>,
    /// Tells one of the idle connections to go.
    pub(super) retire: Notify,
    pub(super) cuts: Cuts,
}

/// Makes a connection and serves flows on it to its end. `tell` is not bounded by itself: a connection
/// tells twice per flow, and has one at a time.
pub(super) async fn serve(
    dialler: Rc<Dialler>,
    place: Rc<Place>,
    endpoints: Arc<[Endpoint]>,
    tell: mpsc::UnboundedSender<Event>,
) {
    // Where nobody listens the lane begins anew, and so does its count.
    let (connection, (shown, cut)) = match dialler.dial(&endpoints, Purpose::Flows).await {
        Ok(dialled) => (dialled.connection, (dialled.shown, dialled.cut)),
        Err(error) => return drop(tell.send(Event::Failed(error))),
    };
    // The plan may have turned since the proof.
    if !dialler.ends().gateway_keys.borrow().has(shown.gateway) {
        return drop(tell.send(Event::Failed(StreamError::Hello(HelloError::NotTheGateway))));
    }
    let number = place.cuts.0.borrow_mut().insert((shown.gateway, cut));
    let _ = tell.send(Event::Opened);
    let is_old = || dialler.ends().has_newer(&shown);
    let last = flows(connection, &place, &tell, is_old).await;
    place.cuts.0.borrow_mut().try_remove(number);
    let _ = tell.send(last);
}

/// Serves one flow after the other; returns how it ended.
///
/// One that was proven by keys of before serves a last flow, and goes: those do not count for ever.
async fn flows(
    mut connection: Connection,
    place: &Rc<Place>,
    tell: &mpsc::UnboundedSender<Event>,
    is_old: impl Fn() -> bool,
) -> Event {
    let (home, mut returned) = mpsc::unbounded_channel();
    let mut retiring = false;
    loop {
        let signal = idle::next(&mut connection, &mut retiring, &place.retire, tell).await;
        let Ok(Some(Signal::Begin(port, preface))) = signal else {
            return Event::ClosedIdle;
        };
        let _ = tell.send(Event::Begun);
        let incoming = LaneIncoming {
            flow: LaneFlow::undecided(connection, home.clone()),
            local: (place.local, port).into(),
            remote: (place.remote, 0).into(),
            gateway: place.gateway,
            preface,
        };
        if is_of_datagrams(&incoming.preface) {
            place.shared.session(LaneDatagrams(incoming));
        } else {
            place.shared.incoming(incoming);
        }
        // Whoever has the connection gives it back, whatever happens.
        let Some(one) = returned.recv().await else {
            return Event::ClosedBusy;
        };
        match finish(one).await {
            Some(free) => connection = free,
            None => return Event::ClosedBusy,
        }
        let _ = tell.send(Event::Ended);
        retiring = retiring || is_old();
    }
}

/// A flow that a gateway began, and that nobody has decided on. Dropping it resets the flow.
#[derive(Debug)]
pub(in super::super) struct LaneIncoming {
    pub(super) flow: LaneFlow,
    pub(super) gateway: GatewayId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) preface: Vec<u8>,
}

impl Incoming for LaneIncoming {
    fn opened(&self) -> Opened {
        Opened {
            transport: Transport::Tcp,
            by: Opener::Gateway(self.gateway),
            local: self.local,
            remote: self.remote,
        }
    }

    fn preface(&self) -> &[u8] {
        &self.preface
    }

    fn refuse(self, reply: FlowReply) {
        self.flow.refuse(reply);
    }

    fn accept_stream(mut self, meter: Arc<Meter>) -> TunnelStream {
        self.flow.accept(meter);
        TunnelStream::over_lane(self.flow, self.local, self.remote)
    }

    async fn accept_socket(mut self, socket: std::net::TcpStream, meter: Arc<Meter>) -> SpliceEnd {
        self.flow.accept(Arc::clone(&meter));
        let reason = match LaneSplice::taken(socket, self.flow) {
            Ok(mut splice) => {
                let end = splice.serve(&meter).await;
                splice.finish(end.fate, end.reason);
                end.reason
            }
            Err(_) => EndReason::Stopped,
        };
        SpliceEnd {
            sent: meter.sent(),
            received: meter.received(),
            reason,
        }
    }
}
