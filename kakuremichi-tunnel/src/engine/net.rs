//! Sockets, as the engine wants them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{SpawnError, steering};

/// What the kernel may keep of a burst of datagrams. Four megabytes hold eight full windows; the
/// system's own bound is exceeded where the process may.
const UDP_BUFFER: usize = 4 << 20;

/// Binds a UDP socket for each family that is asked for and that the host has, once for each shard, the
/// first shard's first. `steer` has the kernel tell whose a datagram is.
pub(super) fn bind(
    addresses: &[SocketAddr],
    shards: u8,
    steer: bool,
) -> Result<Vec<Vec<UdpSocket>>, SpawnError> {
    let mut sockets = vec![bind_first(addresses)?];
    if shards > 1 {
        // Only now may others share the addresses: a second node that wants them was told that they are
        // in use, as this one would have been.
        for socket in &sockets[0] {
            share(&SockRef::from(socket)).map_err(SpawnError::Thread)?;
        }
    }
    for _ in 1..shards {
        let same = sockets[0].iter().map(|first| {
            let address = first.local_addr().map_err(SpawnError::Thread)?;
            udp(address, true).map_err(|source| SpawnError::Bind { address, source })
        });
        let same = same.collect::<Result<_, _>>()?;
        sockets.push(same);
    }
    if steer && shards > 1 {
        for socket in &sockets[0] {
            if let Err(error) = steering::attach(socket) {
                tracing::warn!(%error, "the kernel cannot be told whose a datagram is: shards hand them over");
                break;
            }
        }
    }
    Ok(sockets)
}

fn bind_first(addresses: &[SocketAddr]) -> Result<Vec<UdpSocket>, SpawnError> {
    let mut wanted = addresses.to_vec();
    // `[::]` alone stands for both families.
    if let [SocketAddr::V6(v6)] = addresses
        && v6.ip().is_unspecified()
    {
        wanted.push(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), v6.port()));
    }
    let count = |v4: bool| wanted.iter().filter(|address| address.is_ipv4() == v4).count();
    if wanted.is_empty() || count(true) > 1 || count(false) > 1 {
        return Err(SpawnError::Addresses);
    }
    let mut sockets = Vec::new();
    let mut missing = None;
    for address in wanted {
        match udp(address, false) {
            Ok(socket) => sockets.push(socket),
            Err(source) if lacks_family(&source) => {
                tracing::info!(%address, error = %source, "this host lacks the address family");
                missing = Some(SpawnError::Bind { address, source });
            }
            Err(source) => return Err(SpawnError::Bind { address, source }),
        }
    }
    match missing {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok(sockets),
    }
}

/// The overlay addresses of a network: the first of each family.
pub(super) fn families(addresses: &[IpAddr]) -> (Option<Ipv6Addr>, Option<Ipv4Addr>) {
    let v6 = addresses.iter().find_map(|address| match address {
        IpAddr::V6(v6) => Some(*v6),
        IpAddr::V4(_) => None,
    });
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    (v6, v4)
}

/// Readies a connected socket for the engine.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)
}

/// Makes the socket send a reset when it is closed.
pub(super) fn reset_on_close<S>(socket: &S)
where
    for<'a> SockRef<'a>: From<&'a S>,
{
    // At worst the other end sees an ordinary end.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

fn udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        share(&SockRef::from(&socket))?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    set_buffers(&socket);
    Ok(socket.into())
}

/// Lets several sockets of this process have one address.
fn share(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_reuse_port(true)
}

fn set_buffers(socket: &Socket) {
    // Granted as far as the system's bounds go.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
}

fn lacks_family(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
    )
}
