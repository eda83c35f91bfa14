//! Opens listening sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the system keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// The buffers that are asked for at a UDP port, each, in bytes.
const SOCKET_BUFFER: usize = 1024 * 1024;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A listening socket, and where it listens.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The socket, non-blocking.
    pub(crate) listener: TcpListener,
    /// Its address, with the port that the system chose if none was wanted.
    pub(crate) address: SocketAddr,
}

/// Listens on `address`. `[::]` takes IPv4 too; where the host has no IPv6 it is `0.0.0.0`.
///
/// # Errors
/// When the address is in use, or not ours to use.
pub(crate) fn bind(address: SocketAddr) -> Result<Bound, BindError> {
    bind_with(address, false)
}

fn bind_with(address: SocketAddr, shared: bool) -> Result<Bound, BindError> {
    let sharing = if shared { Sharing::Opens } else { Sharing::No };
    either_family(address, |address| listen(address, sharing))
}

/// Receives datagrams at `address`, as [`bind`] listens; returns the address, too.
///
/// # Errors
/// When the address is in use, or not ours to use.
pub(crate) fn bind_udp(address: SocketAddr) -> Result<(UdpSocket, SocketAddr), BindError> {
    either_family(address, receive)
}

fn either_family<T>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<T>) -> Result<T, BindError> {
    let bound = match open(address) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && is_missing(&error) => {
            open(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))
        }
        other => other,
    };
    bound.map_err(|source| BindError { address, source })
}

/// Listens on `address` as [`bind`] does, with a socket for each shard: the system spreads connections
/// over them. What waits in the queue of a socket that is closed is lost, with one or with many: all
/// shards close theirs together.
///
/// # Errors
/// The same.
pub(crate) fn bind_all(address: SocketAddr, shards: u8) -> Result<(Vec<Bound>, SocketAddr), BindError> {
    let first = bind_with(address, shards > 1)?;
    let address = first.address;
    let mut bound = vec![first];
    for _ in 1..shards {
        let next = listen(address, Sharing::Joins).map_err(|source| BindError { address, source })?;
        bound.push(next);
    }
    Ok((bound, address))
}

/// How a socket has its address together with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Not at all.
    No,
    /// Nobody may have had it before, but others may join.
    Opens,
    /// Others have it.
    Joins,
}

fn receive(address: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    // What arrives while others are served has to wait somewhere. The system may give less.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    let address = socket.local_addr()?;
    Ok((socket, address))
}

fn listen(address: SocketAddr, sharing: Sharing) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if sharing == Sharing::Joins {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if sharing == Sharing::Opens {
        // Not before: another process that has the address would share it.
        socket.set_reuse_port(true)?;
    }
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    Ok(Bound {
        address: listener.local_addr()?,
        listener,
    })
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_listened_on_once() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(first.address.port(), 0);
        let second = bind(first.address).unwrap_err();
        assert_eq!(second.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_udp_port_takes_both_families_and_is_taken_once() {
        let (socket, address) = bind_udp("[::]:0".parse().unwrap()).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", ("127.0.0.1", address.port())).unwrap();
        socket.set_nonblocking(false).unwrap();
        assert_eq!(socket.recv(&mut [0; 2]).unwrap(), 1);
        let second = bind_udp(address).unwrap_err();
        assert_eq!(second.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn shards_share_a_port_and_nobody_else() {
        let (sockets, address) = bind_all("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert!(sockets.iter().all(|bound| bound.address == address));
        assert!(bind(address).is_err() && bind_all(address, 3).is_err());
        let visitors: Vec<_> = (0..64)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let accepted = |bound: &Bound| std::iter::from_fn(|| bound.listener.accept().ok()).count();
        let counts: Vec<usize> = sockets.iter().map(accepted).collect();
        assert_eq!(counts.iter().sum::<usize>(), visitors.len());
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }

    #[test]
    fn the_unspecified_address_takes_both_families() {
        let bound = bind("[::]:0".parse().unwrap()).unwrap();
        let port = bound.address.port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}
