//! UDP sockets toward visitors and targets: batches in and out (GRO, GSO).

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

use crate::session::{Queue, Run};

/// Receive buffers. Each takes what GRO joined: up to 64 datagrams of one sender.
const BUFFERS: usize = 4;
const BUFFER: usize = 65_536;

/// How much one send may hold, in bytes and datagrams.
const MAX_RUN: usize = 65_000;
const MAX_SEGMENTS: usize = 64;

/// An error of an earlier datagram is received as datagrams are.
const RECEIVABLE: Interest = Interest::READABLE.add(Interest::ERROR);

/// A socket for datagrams of others: they are fragmented where the path asks for it, as those of any
/// host, since who sent them cannot be told that they are too long.
#[derive(Debug)]
pub(crate) struct DatagramSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

/// What became of datagrams that were to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
    /// Datagrams that the system did not take: the socket was full, or the host cannot be reached.
    pub(crate) dropped: u64,
}

impl DatagramSocket {
    /// Takes a socket, which is made non-blocking.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let io = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new((&io).into())?;
        allow_fragments(&io)?;
        Ok(Self { io, state })
    }

    /// Waits until there may be something to receive.
    ///
    /// # Errors
    /// When the runtime is gone.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.io.ready(RECEIVABLE).await.map(|_| ())
    }

    /// Receives what is there.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; what an earlier datagram met (a connected socket: the port is
    /// closed); or what the system says.
    pub(crate) fn try_recv(&self, buffers: &mut Buffers) -> io::Result<()> {
        buffers.filled = 0;
        let mut receive = || {
            let mut rest = buffers.storage.chunks_exact_mut(BUFFER);
            let mut slices: [IoSliceMut<'_>; BUFFERS] =
                std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
            self.state.recv((&self.io).into(), &mut slices, &mut buffers.meta)
        };
        // tokio takes one interest at a time here.
        let mut received = self.io.try_io(Interest::READABLE, &mut receive);
        if received
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            received = self.io.try_io(Interest::ERROR, &mut receive);
        }
        buffers.filled = received?;
        Ok(())
    }

    /// Sends all datagrams of a queue to an address, from an address of ours if one is given. What the
    /// system does not take is dropped: a datagram that waits is worth less than the next one.
    ///
    /// # Errors
    /// What an earlier datagram met, for a connected socket; what was not tried is still in the queue.
    pub(crate) fn send(
        &self,
        queue: &mut Queue,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> (Sent, io::Result<()>) {
        let mut sent = Sent::default();
        let most = self.state.max_gso_segments().min(MAX_SEGMENTS);
        while let Some(run) = queue.run(most, MAX_RUN) {
            let (count, bytes) = (run.count, run.bytes.len());
            match self.send_run(run, to, from) {
                Ok(()) => {
                    sent.datagrams += count as u64;
                    sent.bytes += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    // It is about an earlier one; this one was not sent.
                    return (sent, Err(error));
                }
                Err(error) => {
                    tracing::trace!(%to, %error, "datagrams could not be sent");
                    sent.dropped += count as u64;
                }
            }
            queue.advance(count);
        }
        (sent, Ok(()))
    }

    fn send_run(&self, run: Run<'_>, to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let segment = (run.count > 1).then_some(run.segment);
        let sent = self.try_send(run.bytes, segment, to, from);
        let failed = |error: &io::Error| {
            !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
            )
        };
        if run.count > 1 && sent.as_ref().is_err_and(failed) {
            // Segments longer than the path's MTU cannot be cut by the kernel; by themselves they can.
            return run
                .bytes
                .chunks(run.segment)
                .try_for_each(|datagram| self.try_send(datagram, None, to, from));
        }
        sent
    }

    fn try_send(
        &self,
        contents: &[u8],
        segment_size: Option<usize>,
        destination: SocketAddr,
        src_ip: Option<IpAddr>,
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size,
            src_ip,
        };
        // Whether the socket is writable is not asked: what it does not take at once is dropped.
        self.state.try_send((&self.io).into(), &transmit)
    }
}

/// Where datagrams are received to.
pub(crate) struct Buffers {
    storage: Box<[u8]>,
    meta: [RecvMeta; BUFFERS],
    filled: usize,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            storage: vec![0; BUFFERS * BUFFER].into_boxed_slice(),
            meta: [RecvMeta::default(); BUFFERS],
            filled: 0,
        }
    }

    /// What was received: who sent it, to which address of ours, and the datagrams.
    pub(crate) fn received(
        &self,
    ) -> impl Iterator<Item = (SocketAddr, Option<IpAddr>, impl Iterator<Item = &[u8]> + Clone)> {
        self.meta[..self.filled].iter().enumerate().map(|(at, meta)| {
            let bytes = &self.storage[at * BUFFER..][..meta.len.min(BUFFER)];
            // A datagram may be empty, which is one all the same.
            let empty = bytes.is_empty().then_some(bytes);
            let datagrams = bytes.chunks(meta.stride.max(1)).chain(empty);
            (meta.addr, meta.dst_ip, datagrams)
        })
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers")
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

/// Takes back that quinn-udp forbids fragments, as QUIC wants it.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "socket2 does not know these options")]
fn allow_fragments(socket: &UdpSocket) -> io::Result<()> {
    let set = |level: libc::c_int, option: libc::c_int, value: libc::c_int| {
        // SAFETY: the descriptor is open as long as the socket that is borrowed, and the pointer and the
        // length are those of a `c_int` that lives until the call returns.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(&value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    if socket.local_addr()?.is_ipv6() {
        set(
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        )?;
        set(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
    }
    // Also of a socket for IPv6: it may speak IPv4.
    set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
}

/// Elsewhere the system decides.
#[cfg(not(target_os = "linux"))]
fn allow_fragments(_: &UdpSocket) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches, empty datagrams and datagrams longer than the MTU come as they were sent.
    #[tokio::test]
    async fn datagrams_pass_as_they_are() {
        let bind = || DatagramSocket::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let (one, other) = (bind(), bind());
        let (from, to) = (one.io.local_addr().unwrap(), other.io.local_addr().unwrap());
        let lengths = [100, 100, 100, 40, 0, 60_000, 1_200, 1_200];
        let mut queue = Queue::default();
        for length in lengths {
            queue.push(&vec![7; length]);
        }
        let (sent, result) = one.send(&mut queue, to, None);
        result.unwrap();
        assert_eq!((sent.datagrams, sent.dropped), (lengths.len() as u64, 0));
        let mut buffers = Buffers::new();
        let mut seen = Vec::new();
        while seen.len() < lengths.len() {
            other.readable().await.unwrap();
            if other.try_recv(&mut buffers).is_err() {
                continue;
            }
            for (sender, _, datagrams) in buffers.received() {
                assert_eq!(sender, from);
                seen.extend(datagrams.map(<[u8]>::len));
            }
        }
        assert_eq!(seen, lengths);
    }
}
