//! Opens listening sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the system keeps until they are accepted.
const BACKLOG: i32 = 1024;

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
    let bound = match listen(address) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && is_missing(&error) => {
            listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))
        }
        other => other,
    };
    bound.map_err(|source| BindError { address, source })
}

fn listen(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
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
    fn the_unspecified_address_takes_both_families() {
        let bound = bind("[::]:0".parse().unwrap()).unwrap();
        let port = bound.address.port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}
