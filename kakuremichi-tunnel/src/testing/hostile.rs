//! An agent that does what none should: it speaks WireGuard as any other, and sends what it likes.
//!
//! Tests and benches put it beside an agent that is in order. Nothing in it is paced: whoever uses it decides
//! how much is sent, and when.

#![expect(
    clippy::disallowed_methods,
    reason = "it goes by the clock, as its WireGuard does"
)]

mod attack;
#[cfg(feature = "agent")]
mod enrolled;
mod packets;

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use kakuremichi_core::{key::WireGuardKey, net::Cidr, secret::Secret};

pub use attack::Attack;

use crate::{
    peer::PeerId,
    random::SplitMix64,
    wg::{DatagramSink, Device, DeviceConfig, OuterPath, PeerConfig, Sealed},
};

/// The longest datagram, and packet.
const LONGEST: usize = 65_535;
/// Addresses of loopback from which it sends what is to look like many senders.
const SENDERS: u8 = 200;
/// Initiations that are made at a time, before they are sent: each costs as much as it costs to answer.
const PREPARED: usize = 400;

/// Whose place it takes, and whom it attacks.
#[derive(Debug, Clone)]
pub struct Place {
    /// The private WireGuard key of an agent that the gateway knows.
    pub private_key: Secret<[u8; 32]>,
    /// That agent's overlay address.
    pub own: IpAddr,
    /// The gateway's key.
    pub gateway: WireGuardKey,
    /// The gateway's overlay address.
    pub overlay: IpAddr,
    /// Where the gateway receives WireGuard's datagrams.
    pub endpoint: SocketAddr,
}

/// What came back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Packets of the gateway, of any kind.
    pub packets: u64,
    /// Flows that were refused, or cut.
    pub resets: u64,
    /// Flows of ours that the gateway took.
    pub accepted: u64,
    /// Flows of the gateway's that this end took, and never reads.
    pub taken: u64,
}

/// The hostile agent.
#[derive(Debug)]
pub struct Hostile {
    place: Place,
    device: Device,
    peer: PeerId,
    /// Makes initiations that are not meant to become a session.
    forger: Device,
    forged_at: Instant,
    initiations: Vec<Vec<u8>>,
    socket: UdpSocket,
    senders: Vec<UdpSocket>,
    /// Datagrams on their way out.
    wire: Wire,
    datagram: Box<[u8]>,
    packet: Box<[u8]>,
    sealed: Box<[u8]>,
    /// The last data message of ours, to be sent again.
    last: Vec<u8>,
    random: SplitMix64,
    /// How much was sent: ports and lengths follow from it.
    number: usize,
    /// Where what it strikes with goes, if not to the gateway; and where what it sends now goes.
    diverted: Option<SocketAddr>,
    aim: SocketAddr,
    /// Flows of ours that are accepted are brought up; otherwise they stay half open.
    completes: bool,
    heard: Heard,
}

#[derive(Debug, Default)]
struct Wire(VecDeque<(SocketAddr, Vec<u8>)>);

impl DatagramSink for Wire {
    fn datagram(&mut self, to: OuterPath, datagram: &[u8]) {
        self.0.push_back((to.remote, datagram.to_vec()));
    }
}

impl Hostile {
    /// Takes a place. Nothing is sent yet.
    ///
    /// # Errors
    /// When the system gives no sockets.
    pub fn new(place: Place) -> io::Result<Self> {
        let now = Instant::now();
        let any: IpAddr = if place.endpoint.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let device = |seed| {
            let mut device = Device::new(&DeviceConfig::new(place.private_key.clone(), seed), now);
            let mut gateway = PeerConfig::new(place.gateway, vec![Cidr::host(place.overlay)]);
            gateway.endpoint = Some(place.endpoint);
            gateway.persistent_keepalive = Some(Duration::from_secs(5));
            device.set_peers(&[gateway], now);
            device
        };
        let (own, forger) = (device(1), device(2));
        let peer = own.peer(&place.gateway).ok_or(io::ErrorKind::InvalidInput)?;
        let room = || vec![0; LONGEST].into_boxed_slice();
        Ok(Self {
            socket: unblocked(any)?,
            senders: senders(place.endpoint.ip())?,
            device: own,
            peer,
            forger,
            forged_at: now,
            initiations: Vec::new(),
            wire: Wire::default(),
            datagram: room(),
            packet: room(),
            sealed: room(),
            last: Vec::new(),
            random: SplitMix64::new(1),
            number: 0,
            completes: false,
            diverted: None,
            aim: place.endpoint,
            heard: Heard::default(),
            place,
        })
    }

    /// Whether there is a session with the gateway.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.device
            .status(self.peer)
            .is_some_and(|status| status.session_age.is_some())
    }

    /// What came back so far.
    #[must_use]
    pub const fn heard(&self) -> Heard {
        self.heard
    }

    /// Shakes hands when that is due, and answers what has come: probes, so that it counts as online, and
    /// flows, which it takes and never reads.
    pub fn attend(&mut self) {
        let now = Instant::now();
        self.aim = self.place.endpoint;
        self.device.handle_timeout(&mut self.wire, now);
        while let Ok((length, from)) = self.socket.recv_from(&mut self.datagram) {
            let datagram = &self.datagram[..length];
            let opened = self
                .device
                .open(from.into(), datagram, &mut self.sealed, &mut self.wire, now);
            if let Some((_, length)) = opened {
                self.heard.packets += 1;
                let packet = self.sealed[..length].to_vec();
                self.answer(&packet);
            }
        }
        while self.device.poll_changed().is_some() {}
        self.flush();
    }

    /// Sends what it strikes with to somebody else from now on, or to the gateway again: what sending costs can be
    /// told from what it does to the gateway.
    pub const fn divert(&mut self, to: Option<SocketAddr>) {
        self.diverted = to;
    }

    /// Sends so many datagrams of a kind.
    pub fn strike(&mut self, attack: Attack, count: usize) {
        self.completes = matches!(attack, Attack::Flows(_));
        self.aim = self.diverted.unwrap_or(self.place.endpoint);
        for _ in 0..count {
            self.number = self.number.wrapping_add(1);
            self.send_one(attack);
        }
    }

    /// Makes what an attack needs and is costly to make, so that striking is not.
    pub fn prepare(&mut self, attack: Attack) {
        if !matches!(attack, Attack::Initiations | Attack::ForgedSenders) || !self.initiations.is_empty() {
            return;
        }
        let Some(peer) = self.forger.peer(&self.place.gateway) else {
            return;
        };
        let mut made = Wire::default();
        while self.initiations.len() < PREPARED {
            self.forged_at += Duration::from_secs(2);
            self.forger.initiate(peer, &mut made, self.forged_at);
            self.initiations
                .extend(made.0.drain(..).map(|(_, datagram)| datagram));
        }
    }

    /// Seals the first so many bytes of the packet's room and sends them.
    fn send(&mut self, length: usize) {
        let now = Instant::now();
        let packet = &self.packet[..length];
        let sealed = self
            .device
            .seal(self.peer, packet, &mut self.sealed, &mut self.wire, now);
        if let Sealed::Datagram { length, .. } = sealed {
            self.last.clear();
            self.last.extend_from_slice(&self.sealed[..length]);
            // What the system does not take is lost, as anywhere on the way.
            let _ = self.socket.send_to(&self.last, self.aim);
        }
        self.flush();
    }

    fn flush(&mut self) {
        while let Some((to, datagram)) = self.wire.0.pop_front() {
            let _ = self.socket.send_to(&datagram, to);
        }
    }
}

fn unblocked(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sockets at other addresses, where the target is on loopback: only there an address need not be had.
fn senders(target: IpAddr) -> io::Result<Vec<UdpSocket>> {
    if target != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        return Ok(Vec::new());
    }
    (1..=SENDERS)
        .map(|number| unblocked(Ipv4Addr::new(127, 77, number, 1).into()))
        .collect()
}
