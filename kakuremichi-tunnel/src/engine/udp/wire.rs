//! What stands for a UDP socket in simulations: two queues, with what the system would do to datagrams.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use mio::{Interest, Registry, Token};
use quinn_udp::{RecvMeta, Transmit};

use super::{Udp, system::System};

/// As many datagrams as GSO and GRO join.
const SEGMENTS: usize = 64;

/// A socket of the system's, or a simulation's.
pub(super) enum Io {
    System(System),
    Wire(Wire),
}

/// A simulation's end of a socket.
pub(in crate::engine) type Wire = Arc<Mutex<Queues>>;

/// What waits at a socket.
#[derive(Debug, Default)]
pub(in crate::engine) struct Queues {
    /// What arrived, and from where.
    pub(in crate::engine) incoming: VecDeque<(SocketAddr, Vec<u8>)>,
    /// What was sent, and to where.
    pub(in crate::engine) outgoing: Vec<(SocketAddr, Vec<u8>)>,
    /// The socket is full.
    pub(in crate::engine) full: bool,
}

impl Udp {
    /// With one socket of each of these families; `true` for IPv6.
    pub(in crate::engine) fn simulated(wires: Vec<(bool, Wire)>, registry: Registry) -> Self {
        let wires = wires.into_iter().map(|(v6, wire)| (v6, Io::Wire(wire)));
        Self::over(wires.collect(), registry)
    }
}

impl Io {
    pub(super) fn new(socket: std::net::UdpSocket, token: Token, registry: &Registry) -> io::Result<Self> {
        System::new(socket, token, registry).map(Self::System)
    }

    pub(super) fn receive(&self, into: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        match self {
            Self::System(system) => system.receive(into, meta),
            Self::Wire(wire) => wire.lock().unwrap().receive(into, meta),
        }
    }

    pub(super) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let wire = match self {
            Self::System(system) => return system.send(transmit),
            Self::Wire(wire) => wire,
        };
        let mut queues = wire.lock().unwrap();
        if queues.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        for datagram in transmit.contents.chunks(segment.max(1)) {
            queues.outgoing.push((transmit.destination, datagram.to_vec()));
        }
        Ok(())
    }

    pub(super) fn max_segments(&self) -> usize {
        match self {
            Self::System(system) => system.max_segments(),
            Self::Wire(_) => SEGMENTS,
        }
    }

    pub(super) fn watch(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Self::System(system) => system.watch(registry, token, interest),
            Self::Wire(_) => Ok(()),
        }
    }
}

impl Queues {
    /// Joins what comes from one sender and is of one length, as GRO does.
    fn receive(&mut self, into: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        let mut filled = 0;
        for (buffer, meta) in into.iter_mut().zip(meta) {
            let Some((from, first)) = self.incoming.pop_front() else {
                break;
            };
            let stride = first.len();
            let mut length = stride.min(buffer.len());
            buffer[..length].copy_from_slice(&first[..length]);
            let mut count = 1;
            while count < SEGMENTS
                && let Some((sender, next)) = self.incoming.front()
                && *sender == from
                && next.len() <= stride
                && length + next.len() <= buffer.len()
            {
                let shorter = next.len() < stride;
                buffer[length..length + next.len()].copy_from_slice(next);
                length += next.len();
                count += 1;
                self.incoming.pop_front();
                if shorter {
                    break;
                }
            }
            *meta = RecvMeta::default();
            meta.addr = from;
            meta.len = length;
            meta.stride = stride;
            filled += 1;
        }
        if filled == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(filled)
    }
}
