//! Connections of agents on the HTTPS port.

#![expect(
    clippy::disallowed_methods,
    reason = "the proof of identity has a deadline; a lane's control connection has a task, which the lane ends"
)]

use std::{future::Future, io, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use kakuremichi_core::name::Hostname;
use kakuremichi_proto::lane::{
    hello::Purpose,
    record::{ALPN, WEBSOCKET_PATH},
};
use rustls::server::ClientHello;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{StartHandshake, server::TlsStream};

use super::{
    Streams,
    control::{self, Heard},
    places::{Handshaking, Place},
};
use crate::{
    gateway::{serving::Serving, upstream::Upstream},
    streams::{
        connection::{Connection, Io},
        hello::{self, Exporter, HelloError},
        socket::{Cut, Socket},
        tls, websocket,
    },
};

/// What a client asks for in its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The lane's own protocol.
    Lane,
    /// What only an agent asks for, in TLS as a browser speaks it: the gateway itself, which is no service.
    OwnName,
    /// HTTP/1.1 and nothing else, of a service: that may still be an agent whose gateway has such a name.
    Http1,
    /// A service.
    Service,
}

/// What a client asks for. `served` says whether a name is a service's.
pub(crate) fn wanted(
    hello: &ClientHello<'_>,
    streams: &Streams,
    served: impl FnOnce(&Hostname) -> bool,
) -> Wanted {
    let offered: Vec<&[u8]> = hello.alpn().map(Iterator::collect).unwrap_or_default();
    if offered.contains(&ALPN) {
        return Wanted::Lane;
    }
    let name = hello.server_name().map(str::parse::<Hostname>);
    match name {
        None => Wanted::OwnName,
        Some(Ok(name)) if streams.inner.names.contains(&name) && !served(&name) => Wanted::OwnName,
        _ if offered == [tls::HTTP] => Wanted::Http1,
        _ => Wanted::Service,
    }
}

/// Whether the first request of a visitor who asked for HTTP/1.1 only is an agent's. Nothing is taken of it.
pub(crate) async fn begins_as_lane<T: AsyncBufRead + Unpin>(stream: &mut T) -> io::Result<bool> {
    let begin = format!("GET {WEBSOCKET_PATH} ");
    Ok(stream.fill_buf().await?.starts_with(begin.as_bytes()))
}

/// Takes a connection that asks for the lane's protocol, or for the gateway itself: TLS, the proof of
/// identity, and a place in the agent's lane, all within `patience`.
pub(crate) async fn accept<U: Upstream>(
    start: StartHandshake<Socket>,
    from: IpAddr,
    wanted: Wanted,
    patience: Duration,
    streams: Streams,
    serving: Rc<Serving<U>>,
) {
    let tls = &streams.inner.tls;
    let config = Arc::clone(if wanted == Wanted::Lane {
        &tls.direct
    } else {
        &tls.websocket
    });
    let shaking = async {
        let mut stream = start.into_stream(config).await?;
        if wanted != Wanted::Lane {
            return websocket(stream, &streams).await;
        }
        let (exporter, cut) = facts(&stream)?;
        let known = introduce(&mut stream, &exporter, cut, &streams).await?;
        Ok((Box::new(stream) as Box<dyn Io>, known))
    };
    conclude(shaking, from, patience, &streams, serving).await;
}

/// The same for a WebSocket, of which the request has begun to come.
pub(crate) async fn accept_websocket<U: Upstream>(
    stream: TlsStream<Socket>,
    from: IpAddr,
    patience: Duration,
    streams: Streams,
    serving: Rc<Serving<U>>,
) {
    conclude(websocket(stream, &streams), from, patience, &streams, serving).await;
}

async fn websocket(stream: TlsStream<Socket>, streams: &Streams) -> Result<Met, HelloError> {
    let (exporter, cut) = facts(&stream)?;
    let answered = websocket::answer(stream).await;
    let mut socket = answered.map_err(|error| HelloError::Io(io::Error::other(error)))?;
    let known = introduce(&mut socket, &exporter, cut, streams).await?;
    Ok((Box::new(socket), known))
}

/// A connection whose ends know each other.
type Met = (Box<dyn Io>, (Purpose, Place));

fn facts(stream: &TlsStream<Socket>) -> io::Result<(Exporter, Cut)> {
    let (socket, session) = stream.get_ref();
    socket.keep_alive();
    Ok((hello::exporter(session)?, socket.cut()))
}

async fn conclude<U: Upstream>(
    meeting: impl Future<Output = Result<Met, HelloError>>,
    from: IpAddr,
    patience: Duration,
    streams: &Streams,
    serving: Rc<Serving<U>>,
) {
    let Some(handshaking) = Handshaking::begin(streams, from) else {
        return;
    };
    let met = timeout(patience, meeting).await;
    drop(handshaking);
    let error = match met {
        Ok(Ok((io, (purpose, place)))) => return admit(io, purpose, place, streams.clone(), serving),
        Ok(Err(error)) => error,
        Err(_) => HelloError::Io(io::ErrorKind::TimedOut.into()),
    };
    streams.inner.counters.lanes_failed.one();
    match error {
        HelloError::Refused(refusal) => tracing::warn!(%refusal, "a lane is refused"),
        error => tracing::debug!(%error, "no lane came of a connection"),
    }
}

/// Has the agent prove who it is, and finds the connection's place.
async fn introduce<T>(
    stream: &mut T,
    exporter: &Exporter,
    cut: Cut,
    streams: &Streams,
) -> Result<(Purpose, Place), HelloError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let gateway = streams.lock().gateway;
    let known = |agent| streams.lane(agent, |lane| lane.identities);
    let place = |agent, identity| Place::find(streams, agent, identity, cut);
    let keys = streams.inner.keys.held();
    let received = hello::receive(stream, exporter, gateway, &keys, known, place).await?;
    let (_, purpose, place) = received;
    Ok((purpose, place))
}

fn admit<U: Upstream>(
    io: Box<dyn Io>,
    purpose: Purpose,
    place: Place,
    streams: Streams,
    serving: Rc<Serving<U>>,
) {
    let (agent, number) = (place.agent, place.number);
    let connection = Connection::new(agent, streams.shard, io, Some(Box::new(place)));
    streams.inner.counters.lanes_accepted.one();
    match purpose {
        Purpose::Flows => streams.put(connection),
        Purpose::Control => {
            let heard = Heard { agent, number };
            let task = tokio::task::spawn_local(control::run(connection, heard, streams.clone(), serving));
            streams.begin_control(agent, number, task.abort_handle());
        }
    }
}
