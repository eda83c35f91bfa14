//! A UDP socket of the system's.

use std::io::{self, IoSliceMut};

use mio::{Interest, Registry, Token, net::UdpSocket};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

/// A socket, and what the system can do with it.
pub(super) struct System {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl System {
    /// Readies a bound socket, and has readiness told by `token`.
    pub(super) fn new(socket: std::net::UdpSocket, token: Token, registry: &Registry) -> io::Result<Self> {
        let mut socket = UdpSocket::from_std(socket);
        let state = UdpSocketState::new((&socket).into())?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self { socket, state })
    }

    pub(super) fn receive(&self, into: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        self.state.recv((&self.socket).into(), into, meta)
    }

    pub(super) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.state.try_send((&self.socket).into(), transmit)
    }

    /// How many datagrams one send may hold.
    pub(super) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    pub(super) fn watch(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        registry.reregister(&mut self.socket, token, interest)
    }
}
