//! Datagrams in and out, in batches.

use std::io::{self, IoSliceMut};

use mio::{Interest, Registry, Token};
use quinn_udp::{RecvMeta, Transmit};

use crate::wg::{DatagramSink, OuterPath};

mod system;
#[cfg(test)]
pub(super) mod wire;

#[cfg(not(test))]
use system::System as Io;
#[cfg(test)]
use wire::Io;

/// Receive buffers. Each takes what GRO joined: up to 64 datagrams of one sender.
const BUFFERS: usize = 4;
const BUFFER: usize = 65_536;

/// How much one send may hold (RFC 768 ends it at 65,535 less headers).
const MAX_BATCH: usize = 65_000;

/// How many datagrams one send may hold.
const MAX_SEGMENTS: usize = 64;

/// Room behind a full batch for the datagram that did not fit any more.
const SLACK: usize = 65_536;

/// The UDP sockets of a shard, one for each family at most, and the batch that is being filled.
///
/// Datagrams to one address, of one length and a last shorter one, are collected and sent in one
/// system call. When a socket is full the batch is kept, whoever asks [`is_blocked`](Self::is_blocked)
/// stops, and what is added in spite of it is dropped and counted.
pub(super) struct Udp {
    sockets: Vec<Socket>,
    registry: Registry,
    batch: Batch,
    pub(super) counters: UdpCounters,
}

/// What became of datagrams at the socket.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UdpCounters {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) sends: u64,
    pub(super) dropped: u64,
}

struct Socket {
    token: Token,
    io: Io,
    v6: bool,
    readable: bool,
    blocked: bool,
}

struct Batch {
    buffer: Box<[u8]>,
    to: Option<OuterPath>,
    length: usize,
    segment: usize,
    count: usize,
    /// A shorter datagram was the last one that this send can hold.
    closed: bool,
}

impl Udp {
    pub(super) fn new(sockets: Vec<std::net::UdpSocket>, registry: Registry) -> io::Result<Self> {
        let mut ready = Vec::new();
        for (at, socket) in sockets.into_iter().enumerate() {
            let v6 = socket.local_addr()?.is_ipv6();
            ready.push((v6, Io::new(socket, Token(at), &registry)?));
        }
        Ok(Self::over(ready, registry))
    }

    /// Over sockets of which it is known whether they are of IPv6.
    fn over(sockets: Vec<(bool, Io)>, registry: Registry) -> Self {
        let socket = |(at, (v6, io))| Socket {
            token: Token(at),
            io,
            v6,
            readable: true,
            blocked: false,
        };
        let buffer = vec![0; MAX_BATCH + SLACK].into_boxed_slice();
        let batch = Batch {
            buffer,
            to: None,
            length: 0,
            segment: 0,
            count: 0,
            closed: false,
        };
        Self {
            sockets: sockets.into_iter().enumerate().map(socket).collect(),
            registry,
            batch,
            counters: UdpCounters::default(),
        }
    }

    /// How many sockets there are: their tokens are dense from zero.
    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn set_ready(&mut self, socket: usize, readable: bool, writable: bool) {
        if let Some(socket) = self.sockets.get_mut(socket) {
            socket.readable |= readable;
            if socket.blocked && writable {
                socket.blocked = false;
                socket.listen(&self.registry, Interest::READABLE);
            }
        }
    }

    /// Whether a socket is full.
    pub(super) fn is_blocked(&self) -> bool {
        self.sockets.iter().any(|socket| socket.blocked)
    }

    /// Whether there may be something to receive.
    pub(super) fn is_readable(&self) -> bool {
        self.sockets.iter().any(|socket| socket.readable)
    }

    /// Receives one batch from one socket; returns how many buffers were filled.
    pub(super) fn receive(&mut self, socket: usize, buffers: &mut Buffers) -> usize {
        let Some(socket) = self.sockets.get_mut(socket).filter(|socket| socket.readable) else {
            return 0;
        };
        let mut rest = buffers.storage.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
        match socket.io.receive(&mut slices, &mut buffers.meta) {
            Ok(count) => {
                // On Linux one call takes all there is: what comes later is told anew.
                socket.readable = !cfg!(target_os = "linux") || count == BUFFERS;
                count
            }
            Err(error) => {
                // An error of an earlier send (a port that is closed) is told here once.
                socket.readable = error.kind() != io::ErrorKind::WouldBlock;
                0
            }
        }
    }

    /// Room for the next datagram; [`commit`](Self::commit) follows.
    pub(super) fn tail(&mut self) -> &mut [u8] {
        &mut self.batch.buffer[self.batch.length..]
    }

    /// Adds the datagram of `length` bytes at the start of the [`tail`](Self::tail) to the batch.
    pub(super) fn commit(&mut self, to: OuterPath, length: usize) {
        let batch = &self.batch;
        let fits = batch.count == 0
            || batch.to == Some(to)
                && !batch.closed
                && length <= batch.segment
                && batch.count < self.segments(to)
                && batch.length + length <= MAX_BATCH;
        if !fits {
            let at = self.batch.length;
            self.flush();
            if self.batch.count > 0 {
                self.counters.dropped += 1;
                return;
            }
            self.batch.buffer.copy_within(at..at + length, 0);
        }
        let batch = &mut self.batch;
        if batch.count == 0 {
            batch.to = Some(to);
            batch.segment = length;
        }
        batch.closed |= length < batch.segment;
        batch.length += length;
        batch.count += 1;
    }

    /// Sends the batch, unless the socket is full.
    pub(super) fn flush(&mut self) {
        let Some(to) = self.batch.to.filter(|_| self.batch.count > 0) else {
            return;
        };
        let Some(socket) = self
            .sockets
            .iter_mut()
            .find(|socket| socket.v6 == to.remote.is_ipv6())
        else {
            // A peer of a family that this host lacks.
            self.counters.dropped += self.batch.count as u64;
            return self.batch.clear();
        };
        if socket.blocked {
            return;
        }
        let contents = &self.batch.buffer[..self.batch.length];
        let segment = (self.batch.count > 1).then_some(self.batch.segment);
        match send_batch(socket, to, contents, segment) {
            Ok(()) => {
                self.counters.sent += self.batch.count as u64;
                self.counters.sends += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.blocked = true;
                // Not asked for before: each datagram that left would be told.
                socket.listen(&self.registry, Interest::READABLE | Interest::WRITABLE);
                return;
            }
            Err(error) => {
                tracing::trace!(to = %to.remote, %error, "datagrams could not be sent");
                self.counters.dropped += self.batch.count as u64;
            }
        }
        self.batch.clear();
    }

    fn segments(&self, to: OuterPath) -> usize {
        let socket = self
            .sockets
            .iter()
            .find(|socket| socket.v6 == to.remote.is_ipv6());
        socket.map_or(1, |socket| socket.io.max_segments().min(MAX_SEGMENTS))
    }
}

impl DatagramSink for Udp {
    fn datagram(&mut self, to: OuterPath, datagram: &[u8]) {
        if let Some(room) = self.tail().get_mut(..datagram.len()) {
            room.copy_from_slice(datagram);
            self.commit(to, datagram.len());
        }
    }
}

impl Socket {
    fn listen(&mut self, registry: &Registry, interest: Interest) {
        if let Err(error) = self.io.watch(registry, self.token, interest) {
            // Cannot be for a socket that is registered; a full one is then tried again at once.
            tracing::warn!(%error, "a UDP socket cannot be watched");
            self.blocked = false;
        }
    }
}

impl Batch {
    fn clear(&mut self) {
        self.to = None;
        self.length = 0;
        self.count = 0;
        self.closed = false;
    }
}

/// Sends a batch, and again in simpler ways when the system does not like one.
fn send_batch(socket: &Socket, to: OuterPath, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
    let failed = |sent: &io::Result<()>| {
        sent.as_ref()
            .is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
    };
    let mut sent = send(socket, to, contents, segment);
    let anywhere = OuterPath::from(to.remote);
    if to.local.is_some() && failed(&sent) {
        // The address is no longer ours.
        sent = send(socket, anywhere, contents, segment);
    }
    if let Some(segment) = segment.filter(|_| failed(&sent)) {
        // GSO does not work here: quinn-udp offers single datagrams from here on.
        sent = contents
            .chunks(segment)
            .try_for_each(|datagram| send(socket, anywhere, datagram, None));
    }
    sent
}

fn send(socket: &Socket, to: OuterPath, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
    let transmit = Transmit {
        destination: to.remote,
        ecn: None,
        contents,
        segment_size: segment,
        src_ip: to.local,
    };
    socket.io.send(&transmit)
}

/// Where datagrams are received to.
pub(super) struct Buffers {
    storage: Box<[u8]>,
    meta: [RecvMeta; BUFFERS],
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            storage: vec![0; BUFFERS * BUFFER].into_boxed_slice(),
            meta: [RecvMeta::default(); BUFFERS],
        }
    }

    /// The datagrams of one filled buffer, in their order, and the way they came.
    pub(super) fn datagrams(&self, at: usize) -> (OuterPath, impl Iterator<Item = &[u8]>) {
        let meta = &self.meta[at];
        let bytes = &self.storage[at * BUFFER..][..meta.len.min(BUFFER)];
        let path = OuterPath {
            remote: meta.addr,
            local: meta.dst_ip,
        };
        (path, bytes.chunks(meta.stride.max(1)))
    }
}

#[cfg(test)]
mod tests;
