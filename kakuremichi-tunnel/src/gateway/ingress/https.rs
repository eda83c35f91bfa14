//! The listeners: each accepted connection becomes a task of its listener.

#![expect(
    clippy::disallowed_methods,
    reason = "handshakes have deadlines; an accept loop waits when the system has no more file descriptors"
)]

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use kakuremichi_core::name::Hostname;
use kakuremichi_proto::preface::TlsFacts;
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

use super::{
    Admissions, Entry,
    detect::{Opening, opening},
    http,
};
use crate::{
    gateway::{
        drain::Drain,
        http::connection::{self, Protocol},
        serving::Serving,
        streams::{self, Streams, Wanted},
        upstream::{Upstream, VisitorFacts},
    },
    streams::socket::Socket,
};

/// The pause of an accept loop when the system cannot give it a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the listeners of one shard share.
#[derive(Debug)]
pub(crate) struct Door<U> {
    /// What visitors are served from.
    pub(crate) serving: Rc<Serving<U>>,
    /// Bounds of connections.
    pub(crate) admissions: Arc<Admissions>,
    /// TLS toward visitors.
    pub(crate) tls: Arc<ServerConfig>,
    /// What agents keep open.
    pub(crate) streams: Streams,
    /// Tells when the gateway stops.
    pub(crate) drain: Drain,
    /// The port at which visitors reach HTTPS.
    pub(crate) public_port: u16,
}

/// What is spoken at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP in the clear, to be sent to HTTPS.
    Http,
    /// HTTP inside TLS.
    Https,
}

/// Accepts until the gateway drains, then waits for what is open. Dropping it cuts what is open.
pub(crate) async fn listen<U: Upstream>(listener: TcpListener, spoken: Spoken, door: Rc<Door<U>>) {
    let mut drain = door.drain.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &door.admissions) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = drain.begun() => break,
        };
        let Some((stream, peer, entry)) = accepted else {
            continue;
        };
        let door = Rc::clone(&door);
        match spoken {
            Spoken::Http => connections.spawn_local(http::connection(door, stream, peer, entry)),
            Spoken::Https => connections.spawn_local(handshake(door, stream, peer, entry)),
        };
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Takes the next connection; `None` when it is not admitted or there is none to be had.
pub(super) async fn accept(
    listener: &TcpListener,
    admissions: &Arc<Admissions>,
) -> Option<(TcpStream, SocketAddr, Entry)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            let entry = admissions.admit(peer.ip())?;
            // Answers go out when they are there.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, entry))
        }
        Err(error) if is_of_connection(&error) => None,
        Err(error) => {
            // Without a pause the loop would spin until somebody closes something.
            tracing::warn!(%error, "cannot accept a connection");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Whether an error is of the connection that was to be accepted, not of the listener.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn handshake<U: Upstream>(door: Rc<Door<U>>, stream: TcpStream, peer: SocketAddr, entry: Entry) {
    let patience = door.serving.timeouts.hello;
    let Ok(local) = stream.local_addr() else { return };
    let opened = timeout(patience, async {
        let mut first = [0];
        match stream.peek(&mut first).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => match opening(first[0]) {
                Opening::Tls => {
                    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), Socket::new(stream));
                    let start = acceptor.await?;
                    let served = |name: &Hostname| door.serving.table.load().pattern(name).is_some();
                    let wanted = streams::wanted(&start.client_hello(), &door.streams, served);
                    if matches!(wanted, Wanted::Lane | Wanted::OwnName) {
                        return Ok(Opened::Lane(Box::new(start), wanted));
                    }
                    let stream = start.into_stream(Arc::clone(&door.tls)).await?;
                    Ok(Opened::Tls(Box::new(stream), wanted))
                }
                Opening::PlainHttp => Ok(Opened::Plain(stream)),
                Opening::Unknown => Err(io::ErrorKind::InvalidData.into()),
            },
        }
    });
    let (mut stream, wanted) = match opened.await {
        Ok(Ok(Opened::Tls(stream, wanted))) => (*stream, wanted),
        Ok(Ok(Opened::Plain(stream))) => return http::connection(door, stream, peer, entry).await,
        Ok(Ok(Opened::Lane(start, wanted))) => {
            // The bound per address holds until the agent is known; then the one per agent does.
            let _entry = entry;
            let (streams, serving) = (door.streams.clone(), Rc::clone(&door.serving));
            return streams::accept(*start, peer.ip(), wanted, patience, streams, serving).await;
        }
        Ok(Err(error)) => {
            door.serving.counters.handshakes_failed.one();
            tracing::debug!(%error, "a handshake failed");
            return;
        }
        Err(_) => {
            door.serving.counters.handshakes_failed.one();
            tracing::debug!("a handshake took too long");
            return;
        }
    };
    if wanted == Wanted::Http1 {
        let mut drain = door.drain.clone();
        let begun = tokio::select! {
            begun = timeout(door.serving.timeouts.head, streams::begins_as_lane(&mut stream)) => begun,
            () = drain.begun() => Ok(Ok(false)),
        };
        match begun {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                let (streams, serving) = (door.streams.clone(), Rc::clone(&door.serving));
                return streams::accept_websocket(stream, peer.ip(), patience, streams, serving).await;
            }
            // Nothing came, as far as a request can be told.
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let (protocol, tls) = facts(&stream);
    let visitor = VisitorFacts {
        address: peer,
        local,
        connection: door.serving.numbers.connection(),
        tls: Some(tls),
    };
    connection::serve(
        Rc::clone(&door.serving),
        stream,
        visitor,
        protocol,
        door.drain.clone(),
    )
    .await;
    drop(entry);
}

enum Opened {
    Tls(Box<TlsStream<Socket>>, Wanted),
    Lane(Box<StartHandshake<Socket>>, Wanted),
    Plain(TcpStream),
}

fn facts(stream: &TlsStream<Socket>) -> (Protocol, TlsFacts) {
    let session = stream.get_ref().1;
    let protocol = match session.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let cipher = session
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    let tls = TlsFacts {
        version: version.to_owned(),
        cipher: cipher.map(str::to_owned),
        server_name: session.server_name().and_then(|name| name.parse().ok()),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
    };
    (protocol, tls)
}
