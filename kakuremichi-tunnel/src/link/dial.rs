//! Dialling by name, over IPv6 and IPv4 (RFC 8305, "Happy Eyeballs").

#![expect(
    clippy::disallowed_methods,
    reason = "dialling waits for sockets and for time"
)]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use kakuremichi_core::net::{Endpoint, Host};
use tokio::{net::TcpStream, time};

use super::egress::ProxyFailure;

/// How long one address has a head start before the next (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// The most addresses of one name that are tried; the rest are left out.
const MAX_ADDRESSES: usize = 8;

/// Why nothing was reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name cannot be resolved.
    #[error("the name cannot be resolved")]
    Resolve(#[source] io::Error),
    /// The name has no address, or none that may be dialled.
    #[error("the name has no address that may be dialled")]
    NoAddress,
    /// Every address refused.
    #[error("the connection was refused")]
    Refused,
    /// No address answered in time.
    #[error("no answer in time")]
    TimedOut,
    /// The proxy does not lead there.
    #[error(transparent)]
    Proxy(#[from] ProxyFailure),
    /// There is no way to the address, or the system has no socket left.
    #[error("the address cannot be reached")]
    Unreachable(#[source] io::Error),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Unreachable(error),
        }
    }
}

/// The addresses of `endpoint` now, those of one family alternating with those of the other, as the
/// system prefers them.
///
/// # Errors
/// [`DialError::Resolve`] and [`DialError::NoAddress`].
pub(crate) async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, DialError> {
    let name = match &endpoint.host {
        Host::Address(address) => return Ok(vec![SocketAddr::new(*address, endpoint.port)]),
        Host::Name(name) => name.as_str(),
    };
    let found = tokio::net::lookup_host((name, endpoint.port))
        .await
        .map_err(DialError::Resolve)?;
    let addresses = interleave(found);
    if addresses.is_empty() {
        return Err(DialError::NoAddress);
    }
    Ok(addresses)
}

/// Connects to one of the addresses of `endpoint` that `permitted` lets pass, within `limit`.
///
/// # Errors
/// The error of the address that failed last.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    limit: Duration,
    permitted: impl Fn(IpAddr) -> bool,
) -> Result<TcpStream, DialError> {
    connect_beyond(endpoint, limit, permitted, 0).await
}

/// The same, where the first so many addresses come last: what accepts a connection there may be of no use, and
/// somebody else at the next one.
///
/// # Errors
/// The error of the address that failed last.
pub(crate) async fn connect_beyond(
    endpoint: &Endpoint,
    limit: Duration,
    permitted: impl Fn(IpAddr) -> bool,
    skipped: usize,
) -> Result<TcpStream, DialError> {
    let racing = async {
        let mut addresses = resolve(endpoint).await?;
        addresses.retain(|address| permitted(address.ip()));
        race(beyond(addresses, skipped)).await
    };
    time::timeout(limit, racing)
        .await
        .unwrap_or(Err(DialError::TimedOut))
}

fn beyond(mut addresses: Vec<SocketAddr>, skipped: usize) -> Vec<SocketAddr> {
    let first = skipped % addresses.len().max(1);
    addresses.rotate_left(first);
    addresses
}

async fn race(addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    attempts.extend(waiting.next().map(TcpStream::connect));
    let mut last = DialError::NoAddress;
    loop {
        let next = tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(DialError::Unreachable)?;
                    return Ok(stream);
                }
                Err(error) => {
                    last = error.into();
                    waiting.next()
                }
            },
            () = time::sleep(HEAD_START), if !waiting.as_slice().is_empty() => waiting.next(),
            else => return Err(last),
        };
        attempts.extend(next.map(TcpStream::connect));
    }
}

fn interleave(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut family = None;
    for address in found {
        let v6 = address.is_ipv6();
        let same = *family.get_or_insert(v6) == v6;
        if same { &mut first } else { &mut second }.push(address);
    }
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let before = mixed.len();
        mixed.extend(first.next());
        mixed.extend(second.next());
        if mixed.len() == before || before >= MAX_ADDRESSES {
            mixed.truncate(MAX_ADDRESSES);
            return mixed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn the_families_take_turns() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let found = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(parse);
        let mixed = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(parse);
        assert_eq!(interleave(found.into_iter()), mixed);
        let many = (1..100).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(interleave(many).len(), MAX_ADDRESSES);
    }

    #[test]
    fn each_attempt_begins_at_another_address() {
        let addresses: Vec<_> = (1..4)
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect();
        let first = |skipped| beyond(addresses.clone(), skipped).first().map(SocketAddr::port);
        assert_eq!([0, 1, 2, 3].map(first), [Some(1), Some(2), Some(3), Some(1)]);
        assert_eq!(beyond(Vec::new(), 7), []);
    }

    #[tokio::test]
    async fn a_refusal_moves_on_to_the_next_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bad = closed.local_addr().unwrap();
        drop(closed);
        let stream = race(vec![bad, bad, good]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(matches!(race(vec![bad]).await, Err(DialError::Refused)));
        assert!(matches!(race(vec![]).await, Err(DialError::NoAddress)));
    }

    #[tokio::test]
    async fn only_permitted_addresses_are_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        assert!(connect(&endpoint, LIMIT, |_| true).await.is_ok());
        let refused = connect(&endpoint, LIMIT, |_| false).await;
        assert!(matches!(refused, Err(DialError::NoAddress)));
    }

    #[tokio::test]
    async fn silence_is_given_up() {
        // Nothing is accepted from a listener whose backlog is full, so a dial hangs; an address of a
        // documentation network would do the same where there is a default route.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        socket.listen(0).unwrap();
        let full = socket.local_addr().unwrap().as_socket().unwrap();
        let mut kept = Vec::new();
        let short = Duration::from_millis(100);
        while let Ok(stream) = time::timeout(short, TcpStream::connect(full)).await {
            kept.push(stream.unwrap());
            assert!(kept.len() < 64, "the backlog never fills");
        }
        let endpoint: Endpoint = full.to_string().parse().unwrap();
        let silent = connect(&endpoint, short, |_| true).await;
        assert!(matches!(silent, Err(DialError::TimedOut)));
    }
}
