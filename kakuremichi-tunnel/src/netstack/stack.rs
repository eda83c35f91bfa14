//! The stack: its parts, its configuration, and the commands on flows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use super::{BuildError, ConnectError, Counters, Event, FlowId, PacketSink, PingError, Settings};
use crate::peer::PeerId;

/// The netstack of one shard. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Stack {
    settings: Settings,
}

impl Stack {
    /// Makes a stack. `seed` has to come from a cryptographic random source: initial sequence
    /// numbers, ports and the hash of the flow table follow from it.
    ///
    /// # Errors
    /// When a setting is out of range, or the rings' memory cannot be reserved.
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Result<Self, BuildError> {
        let _ = (seed, now);
        Ok(Self { settings })
    }

    /// Sets the stack's addresses. Flows of an address that goes are closed with
    /// [`CloseReason::AddressGone`](super::CloseReason::AddressGone).
    pub fn set_addresses(&mut self, ipv6: Option<Ipv6Addr>, ipv4: Option<Ipv4Addr>) {
        self.settings.ipv6 = ipv6;
        self.settings.ipv4 = ipv4;
    }

    /// Sets the ports that peers may open flows to, all of them at once. Flows that are open stay.
    pub fn listen(&mut self, ports: impl IntoIterator<Item = u16>) {
        let _ = ports;
        unimplemented!()
    }

    /// Takes in one IP packet from a peer, which must be the one its source address belongs to; or
    /// several segments that were joined to one packet of up to 65,535 bytes. Checksums are not
    /// verified: the tunnel authenticated the packet. Never fails: what cannot be used is counted.
    pub fn handle_packet(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        now: Instant,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let _ = (peer, packet, now, sink);
        unimplemented!()
    }

    /// Lets every timer that is due by `now` run out.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
        unimplemented!()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next, if at all. May be
    /// earlier than a timer needs it, and changes with every other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// Sends what flows have to send, up to [`TURN_BYTES`](super::TURN_BYTES) or until the sink is
    /// full. Returns whether something is left.
    pub fn transmit(&mut self, now: Instant, sink: &mut (impl PacketSink + ?Sized)) -> bool {
        let _ = (now, sink);
        unimplemented!()
    }

    /// Opens a flow to a host behind a peer. [`Event::Established`] or [`Event::Closed`] follows.
    /// Data may be sent at once; it goes out when the flow is established.
    ///
    /// # Errors
    /// When an address does not fit, or a bound is reached.
    pub fn connect(
        &mut self,
        peer: PeerId,
        local: IpAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<FlowId, ConnectError> {
        let _ = (peer, local, remote, now);
        unimplemented!()
    }

    /// Calls `take` with received bytes, the longest piece that lies in one; `take` returns how many
    /// it used. `None`, and no call, when there are none. Received bytes may lie in two pieces, so
    /// call again until `None`.
    pub fn recv<R>(&mut self, flow: FlowId, take: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        let _ = (flow, take);
        unimplemented!()
    }

    /// Calls `fill` with free room, the longest piece that lies in one; `fill` returns how many bytes
    /// it wrote to the start of it. `None`, and no call, when there is no room, the flow is not yet
    /// or no longer open for sending: [`Event::Ready`] tells when that changes. The room holds old
    /// bytes, which must not be read.
    pub fn send<R>(&mut self, flow: FlowId, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        let _ = (flow, fill);
        unimplemented!()
    }

    /// Whether [`recv`](Self::recv) has bytes.
    #[must_use]
    pub fn can_recv(&self, flow: FlowId) -> bool {
        let _ = flow;
        unimplemented!()
    }

    /// Whether the peer ended its direction and all it sent was taken. False for a flow that was
    /// reset, and for one that is gone.
    #[must_use]
    pub fn recv_finished(&self, flow: FlowId) -> bool {
        let _ = flow;
        unimplemented!()
    }

    /// Whether [`send`](Self::send) has room.
    #[must_use]
    pub fn can_send(&self, flow: FlowId) -> bool {
        let _ = flow;
        unimplemented!()
    }

    /// Ends our direction behind what was sent (FIN). The peer's direction stays open.
    pub fn shutdown(&mut self, flow: FlowId) {
        let _ = flow;
        unimplemented!()
    }

    /// Resets the flow and gives its name up: no event follows.
    pub fn abort(&mut self, flow: FlowId) {
        let _ = flow;
        unimplemented!()
    }

    /// Gives the flow's name up: no event follows. A flow whose both directions were ended goes on in
    /// the background until the peer has everything; any other open flow is reset.
    pub fn release(&mut self, flow: FlowId) {
        let _ = flow;
        unimplemented!()
    }

    /// Drops all flows of a peer at once, sending nothing;
    /// [`CloseReason::PeerGone`](super::CloseReason::PeerGone) is told for each.
    pub fn remove_peer(&mut self, peer: PeerId) {
        let _ = peer;
        unimplemented!()
    }

    /// Sends an ICMP echo request; [`Event::Pong`] follows if it is answered. The stack keeps no
    /// record of it: time and match the answer by what it brings back.
    ///
    /// # Errors
    /// When the stack has no address of that family, or the payload is too long.
    pub fn ping(
        &mut self,
        peer: PeerId,
        destination: IpAddr,
        identifier: u16,
        sequence: u16,
        payload: &[u8],
        sink: &mut (impl PacketSink + ?Sized),
    ) -> Result<(), PingError> {
        let _ = (peer, destination, identifier, sequence, payload, sink);
        unimplemented!()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        unimplemented!()
    }

    /// How many flows there are: opening, open and closing.
    #[must_use]
    pub fn flows(&self) -> usize {
        unimplemented!()
    }

    /// How it was set up.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
