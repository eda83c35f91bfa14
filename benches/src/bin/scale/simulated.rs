//! One agent as the gateway sees it: WireGuard, the probes, and the feed, from the same parts as a real one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};
use kakuremichi_proto::lane::{FEED_PORT, encode_draining, encode_targets};
use kakuremichi_tunnel::{
    lane::{PathState, Timing},
    netstack::{Event, FlowId, Limits, PacketSink, Settings, Stack},
    peer::PeerId,
    wg::{self, DatagramSink, Device, DeviceConfig, OVERHEAD, OuterPath, PeerConfig, Sealed},
};
use mio::net::UdpSocket;

/// How often an agent keeps its NAT's mapping, as real ones do.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// The pause before a feed that broke is opened again, as real ones make it.
const FEED_PAUSE: Duration = Duration::from_secs(1);
/// The identifier of our echo requests.
const PROBE: u16 = 0x6b6d;
/// Longer than any datagram on the way.
const ROOM: usize = 2048;
/// The first byte of an initiation (whitepaper, section 5.4.2).
const INITIATION: u8 = 1;

/// The gateway of a crowd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gateway {
    /// Its public key.
    pub(crate) key: WireGuardKey,
    /// Its overlay address.
    pub(crate) overlay: Ipv6Addr,
    /// Its WireGuard socket.
    pub(crate) socket: SocketAddr,
}

/// What happened to the agents of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Agents whose lane is up.
    pub(crate) up: usize,
    /// Agents whose feed is open.
    pub(crate) feeds: usize,
    /// Initiations of the gateway's that arrived.
    pub(crate) called: usize,
    /// Our own initiations that were not sent, since we are to be quiet.
    pub(crate) withheld: usize,
}

/// A simulated agent.
pub(crate) struct Agent {
    wire: Wire,
    device: Device,
    stack: Stack,
    gateway: PeerId,
    local: IpAddr,
    remote: Ipv6Addr,
    path: PathState,
    feed: Option<FlowId>,
    feed_at: Instant,
    told: Told,
}

/// What of an agent stands in the counts.
#[derive(Debug, Default)]
struct Told {
    up: bool,
    feed: bool,
}

/// The private key of an agent: made of its number, as nothing here is worth a secret.
pub(crate) fn private_key(number: u32) -> Secret<[u8; 32]> {
    let mut key = [0x5a; 32];
    // X25519 leaves out bits at both ends.
    key[8..12].copy_from_slice(&number.to_le_bytes());
    Secret::new(key)
}

/// The public key of an agent.
pub(crate) fn public_key(number: u32) -> WireGuardKey {
    wg::public_key(&private_key(number))
}

/// The overlay address of an agent, in the network of its gateway.
pub(crate) fn overlay(gateway: Ipv6Addr, number: u32) -> Ipv6Addr {
    let mut bytes = gateway.octets();
    bytes[6..12].copy_from_slice(b"crowd\0");
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

/// The address outside of the tunnel: one for each agent.
fn source(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = (((number % 62_500 / 250) << 8) | (number % 250)).to_be_bytes();
    Ipv4Addr::new(127, low + 1, high + 1, 1)
}

impl Agent {
    /// The agent with this number.
    pub(crate) fn new(number: u32, gateway: &Gateway, now: Instant) -> io::Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::from((source(number), 0)))?;
        socket.connect(gateway.socket)?;
        let seed = u64::from(number);
        let mut device = Device::new(&DeviceConfig::new(private_key(number), seed), now);
        let mut peer = PeerConfig::new(gateway.key, vec![Cidr::host(gateway.overlay.into())]);
        peer.endpoint = Some(gateway.socket);
        peer.persistent_keepalive = Some(KEEP_ALIVE);
        device.set_peers(&[peer], now);
        let id = device.peer(&gateway.key);
        let id = id.ok_or_else(|| io::Error::other("the gateway cannot be a peer"))?;
        let local = overlay(gateway.overlay, number);
        let settings = Settings {
            ipv6: Some(local),
            limits: Limits {
                flows: 2,
                ..Limits::default()
            },
            ..Settings::default()
        };
        let stack = Stack::new(settings, seed, now).map_err(io::Error::other)?;
        Ok(Self {
            wire: Wire {
                socket,
                quiet: false,
                called: 0,
                withheld: 0,
            },
            device,
            stack,
            gateway: id,
            local: local.into(),
            remote: gateway.overlay,
            path: PathState::new(Timing::sparing(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), now),
            feed: None,
            feed_at: now,
            told: Told::default(),
        })
    }

    /// The socket, to be watched.
    pub(crate) const fn socket(&mut self) -> &mut UdpSocket {
        &mut self.wire.socket
    }

    /// From now on it initiates no handshake, and answers those of the gateway's.
    pub(crate) const fn set_quiet(&mut self, quiet: bool) {
        self.wire.quiet = quiet;
    }

    /// Takes what arrived.
    pub(crate) fn receive(&mut self, counts: &mut Counts, now: Instant) {
        let (mut datagram, mut packet) = ([0; ROOM], [0; ROOM]);
        loop {
            let length = match self.wire.socket.recv(&mut datagram) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The gateway's port is closed for the time being; each error is told once.
                Err(_) => continue,
            };
            self.wire.called += usize::from(datagram[0] == INITIATION);
            let from = match self.wire.socket.peer_addr() {
                Ok(from) => from.into(),
                Err(_) => break,
            };
            let opened = self
                .device
                .open(from, &datagram[..length], &mut packet, &mut self.wire, now);
            if let Some((peer, length)) = opened {
                let Self {
                    wire, device, stack, ..
                } = self;
                stack.handle_packet(peer, &packet[..length], now, &mut Egress { wire, device, now });
            }
        }
        self.follow(counts, now);
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, counts: &mut Counts, now: Instant) {
        self.device.handle_timeout(&mut self.wire, now);
        self.stack.handle_timeout(now);
        self.follow(counts, now);
    }

    /// Draws the consequences of what happened.
    fn follow(&mut self, counts: &mut Counts, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            self.event(&event, now);
        }
        while self.device.poll_changed().is_some() {
            self.path.nudge(now);
        }
        self.probe(now);
        if self.path.is_up() && self.feed.is_none() && now >= self.feed_at {
            let remote = SocketAddr::from((self.remote, FEED_PORT));
            self.feed = self.stack.connect(self.gateway, self.local, remote, now).ok();
            self.feed_at = now + FEED_PAUSE;
        }
        let Self {
            wire, device, stack, ..
        } = self;
        while stack.transmit(now, &mut Egress { wire, device, now }) {}
        self.tell(counts);
    }

    fn event(&mut self, event: &Event, now: Instant) {
        match *event {
            Event::Pong {
                sequence, payload, ..
            } => {
                self.path.handle_answer(sequence, payload, now);
            }
            Event::Established(flow) => {
                let mut frames = Vec::new();
                encode_draining(false, &mut frames);
                encode_targets(true, &[], &mut frames);
                let written = self.stack.send(flow, |room| {
                    let length = frames.len().min(room.len());
                    room[..length].copy_from_slice(&frames[..length]);
                    (length, length)
                });
                self.told.feed = written == Some(frames.len());
            }
            Event::Closed { flow, .. } => {
                self.stack.release(flow);
                self.feed = None;
                self.told.feed = false;
                self.feed_at = now + FEED_PAUSE;
            }
            _ => {}
        }
    }

    /// Asks whether the lane carries, as an agent's engine does.
    fn probe(&mut self, now: Instant) {
        let misses = self.path.misses();
        self.path.handle_timeout(now);
        if self.path.misses() > misses && self.path.misses() >= 2 {
            self.device.initiate(self.gateway, &mut self.wire, now);
        }
        if let Some(probe) = self.path.poll_probe(now) {
            let Self {
                wire, device, stack, ..
            } = self;
            let mut egress = Egress { wire, device, now };
            let to = self.remote.into();
            // What cannot be sent is not answered.
            let _ = stack.ping(
                self.gateway,
                to,
                PROBE,
                probe.sequence,
                &probe.payload,
                &mut egress,
            );
        }
    }

    fn tell(&mut self, counts: &mut Counts) {
        let up = self.path.is_up();
        let was_up = std::mem::replace(&mut self.told.up, up);
        counts.up = counts.up + usize::from(up) - usize::from(was_up);
        counts.called += std::mem::take(&mut self.wire.called);
        counts.withheld += std::mem::take(&mut self.wire.withheld);
    }

    /// Whether its feed is open.
    pub(crate) const fn has_feed(&self) -> bool {
        self.told.feed
    }
}

/// The socket, and what went through it.
struct Wire {
    socket: UdpSocket,
    quiet: bool,
    called: usize,
    withheld: usize,
}

impl DatagramSink for Wire {
    fn datagram(&mut self, _: OuterPath, datagram: &[u8]) {
        if self.quiet && datagram.first() == Some(&INITIATION) {
            self.withheld += 1;
            return;
        }
        // A datagram that is lost is sent again by whoever misses it.
        let _ = self.socket.send(datagram);
    }
}

/// From the stack to the socket, encrypted.
struct Egress<'a> {
    wire: &'a mut Wire,
    device: &'a mut Device,
    now: Instant,
}

impl PacketSink for Egress<'_> {
    fn packet(&mut self, peer: PeerId, packet: &[u8]) {
        let mut out = [0; ROOM + OVERHEAD];
        let sealed = self.device.seal(peer, packet, &mut out, self.wire, self.now);
        if let Sealed::Datagram { to, length } = sealed {
            self.wire.datagram(to, &out[..length]);
        }
    }

    fn ready(&self) -> bool {
        true
    }
}
