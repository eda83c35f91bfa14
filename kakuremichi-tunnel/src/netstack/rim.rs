//! The rim of the stack: where large segments are cut into packets, and where packets of the stack's
//! own are written.
//!
//! TCP hands over segments of up to [`SUPER_SEGMENTS`] times what a packet holds. They are cut in
//! place: each packet's headers are written over the end of the data before it, which the sink has
//! taken by then.

use std::net::{IpAddr, SocketAddr};

use super::{PacketSink, track::Track};
use crate::{
    packet::{
        Echo, Protocol, TcpFlags, UDP_HEADER, checksum, fragment, transport_checksum, write_ip_header,
        write_udp,
    },
    peer::PeerId,
};

/// How many packets a large segment becomes at most: as many as one UDP GSO send holds (RFC 768 ends
/// it at 65,535 bytes) with an MTU of 1,420 and WireGuard's overhead.
pub(super) const SUPER_SEGMENTS: usize = 44;

/// The longest IP packet.
pub(super) const LONGEST: usize = 65_535;

pub(super) const IPV4_HEADER: usize = 20;
pub(super) const IPV6_HEADER: usize = 40;
pub(super) const TCP_HEADER: usize = 20;
/// IPv6 and TCP with all options.
const MAX_HEADERS: usize = IPV6_HEADER + 60;

/// No peer is sent less in a segment, whatever it asks for.
const MIN_MSS: u16 = 48;

/// A buffer for one packet, and what is known about packets.
pub(super) struct Rim {
    scratch: Box<[u8]>,
    /// Room for a part of a packet that came in.
    pub(super) part: Box<[u8]>,
    mtu: usize,
    /// Tells the fragments of one datagram from those of another.
    identification: u32,
    /// Packets handed to the sink.
    pub(super) sent: u64,
    /// Bytes of TCP's segments, before they were cut.
    pub(super) bytes: u64,
}

/// A TCP segment without data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Control {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) flags: TcpFlags,
    /// As it stands in the header.
    pub(super) window: u16,
}

impl Rim {
    pub(super) fn new(mtu: usize) -> Self {
        Self {
            scratch: vec![0; LONGEST].into_boxed_slice(),
            part: vec![0; mtu + MAX_HEADERS].into_boxed_slice(),
            mtu,
            identification: 0,
            sent: 0,
            bytes: 0,
        }
    }

    /// The most data a packet of ours carries.
    pub(super) fn mss(&self, v4: bool) -> u16 {
        let header = if v4 { IPV4_HEADER } else { IPV6_HEADER };
        (self.mtu - header - TCP_HEADER) as u16
    }

    /// The longest segment worth making, headers included.
    pub(super) fn longest_segment(&self, v4: bool) -> usize {
        let header = if v4 { IPV4_HEADER } else { IPV6_HEADER };
        (SUPER_SEGMENTS * usize::from(self.mss(v4)) + header + TCP_HEADER).min(LONGEST)
    }

    /// Room for a segment of TCP's, to be handed to [`segment`](Self::segment).
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        &mut self.scratch[..length]
    }

    /// Sends the segment that TCP wrote to [`room`](Self::room): notes what it tells about the flow,
    /// puts our MSS into a SYN, cuts what is too long, and fills the checksums in.
    pub(super) fn segment(
        &mut self,
        length: usize,
        track: &mut Track,
        peer: PeerId,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        let v4 = self.scratch[0] >> 4 == 4;
        let ip = if v4 { IPV4_HEADER } else { IPV6_HEADER };
        let headers = ip + usize::from(self.scratch[ip + 12] >> 4) * 4;
        let flags = self.scratch[ip + 13];
        let data = length - headers;
        let sequence = be32(&self.scratch, ip + 4);
        self.bytes += length as u64;
        let acknowledgement = be32(&self.scratch, ip + 8);
        let sequence = track.sent(sequence, data, TcpFlags::new(flags), acknowledgement);
        self.scratch[ip + 4..ip + 8].copy_from_slice(&sequence.to_be_bytes());
        if flags & 0x02 != 0 {
            // The way back may be as narrow.
            let mss = self.mss(v4).min(track.limit());
            let options = &mut self.scratch[ip + TCP_HEADER..headers];
            replace_mss(options, mss);
            track.shift_own(read_window_shift(options).unwrap_or(0));
        } else if flags & 0x10 != 0 {
            let window = &mut self.scratch[ip + 14..ip + 16];
            let told = track.tell(acknowledgement, u16::from_be_bytes([window[0], window[1]]));
            window.copy_from_slice(&told.to_be_bytes());
        }
        let mss = usize::from(track.mss().min(self.mss(v4)).max(MIN_MSS));
        if data <= mss {
            seal(&mut self.scratch[..length], ip);
            self.sent += 1;
            sink.packet(peer, &self.scratch[..length]);
            return;
        }
        let mut copy = [0; MAX_HEADERS];
        let copy = &mut copy[..headers];
        copy.copy_from_slice(&self.scratch[..headers]);
        let mut at = 0;
        while at < data {
            let part = mss.min(data - at);
            let last = at + part == data;
            let packet = &mut self.scratch[at..at + headers + part];
            packet[..headers].copy_from_slice(copy);
            if v4 {
                packet[2..4].copy_from_slice(&((headers + part) as u16).to_be_bytes());
            } else {
                packet[4..6].copy_from_slice(&((headers - ip + part) as u16).to_be_bytes());
            }
            packet[ip + 4..ip + 8].copy_from_slice(&sequence.wrapping_add(at as u32).to_be_bytes());
            if !last {
                // FIN and PSH belong to the last byte.
                packet[ip + 13] = flags & !0x09;
            }
            seal(packet, ip);
            self.sent += 1;
            sink.packet(peer, packet);
            at += part;
        }
    }

    /// Sends a segment without data that belongs to no socket.
    pub(super) fn control(&mut self, control: &Control, peer: PeerId, sink: &mut (impl PacketSink + ?Sized)) {
        let (source, destination) = (control.source.ip(), control.destination.ip());
        let Some(ip) = write_ip_header(source, destination, Protocol::Tcp, TCP_HEADER, &mut self.scratch)
        else {
            return;
        };
        let packet = &mut self.scratch[..ip + TCP_HEADER];
        let tcp = &mut packet[ip..];
        tcp.fill(0);
        tcp[0..2].copy_from_slice(&control.source.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&control.destination.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&control.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&control.acknowledgement.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = control.flags.bits();
        tcp[14..16].copy_from_slice(&control.window.to_be_bytes());
        let sum = transport_checksum(source, destination, Protocol::Tcp, tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        self.sent += 1;
        sink.packet(peer, packet);
    }

    /// Sends a datagram from one address to another in packets of at most `mtu` bytes; returns how many.
    /// `None` when it is longer than a datagram can be.
    pub(super) fn datagram(
        &mut self,
        (source, destination): (SocketAddr, SocketAddr),
        head: &[u8],
        data: &[u8],
        mtu: usize,
        peer: PeerId,
        sink: &mut (impl PacketSink + ?Sized),
    ) -> Option<usize> {
        let length = write_udp(source, destination, head, data, &mut self.scratch)?;
        let mtu = mtu.min(self.mtu);
        if length <= mtu {
            self.sent += 1;
            sink.packet(peer, &self.scratch[..length]);
            return Some(1);
        }
        self.identification = self.identification.wrapping_add(1);
        let mut count = 0;
        let packet = &self.scratch[..length];
        fragment(packet, mtu, self.identification, &mut self.part, |piece| {
            count += 1;
            sink.packet(peer, piece);
        });
        self.sent += count as u64;
        Some(count)
    }

    /// Tells `remote` that nobody takes its datagrams at `local` (port unreachable: RFC 792, RFC 4443
    /// section 3.1).
    pub(super) fn unreachable(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        peer: PeerId,
        sink: &mut (impl PacketSink + ?Sized),
    ) {
        /// Type, code, checksum, and four bytes of nothing.
        const ICMP_HEADER: usize = 8;
        let (protocol, header, kind) = match local {
            SocketAddr::V4(_) => (Protocol::Icmp, IPV4_HEADER, [3, 3]),
            SocketAddr::V6(_) => (Protocol::Icmpv6, IPV6_HEADER, [1, 4]),
        };
        let length = ICMP_HEADER + header + UDP_HEADER;
        let Some(at) = write_ip_header(local.ip(), remote.ip(), protocol, length, &mut self.scratch) else {
            return;
        };
        let message = &mut self.scratch[at..at + length];
        message.fill(0);
        message[..2].copy_from_slice(&kind);
        // The beginning of a datagram as it came: its addresses are what is looked at.
        write_udp(remote, local, &[], &[], &mut message[ICMP_HEADER..]);
        let sum = if protocol == Protocol::Icmp {
            checksum(message)
        } else {
            transport_checksum(local.ip(), remote.ip(), protocol, message)
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.sent += 1;
        sink.packet(peer, &self.scratch[..at + length]);
    }

    /// Sends an echo message; false when it does not fit the MTU.
    pub(super) fn echo(
        &mut self,
        echo: &Echo<'_>,
        source: IpAddr,
        destination: IpAddr,
        peer: PeerId,
        sink: &mut (impl PacketSink + ?Sized),
    ) -> bool {
        let Some(length) = echo.write(source, destination, &mut self.scratch[..self.mtu]) else {
            return false;
        };
        self.sent += 1;
        sink.packet(peer, &self.scratch[..length]);
        true
    }
}

impl std::fmt::Debug for Rim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rim")
            .field("mtu", &self.mtu)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Fills the checksums in.
fn seal(packet: &mut [u8], ip: usize) {
    let (source, destination): (IpAddr, IpAddr) = if ip == IPV4_HEADER {
        packet[10..12].fill(0);
        let sum = checksum(&packet[..ip]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        (array::<4>(packet, 12).into(), array::<4>(packet, 16).into())
    } else {
        (array::<16>(packet, 8).into(), array::<16>(packet, 24).into())
    };
    let tcp = &mut packet[ip..];
    tcp[16..18].fill(0);
    let sum = transport_checksum(source, destination, Protocol::Tcp, tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Writes the MSS into the options of a SYN.
fn replace_mss(options: &mut [u8], mss: u16) {
    if let Some(at) = find_option(options, 2, 4) {
        options[at + 2..at + 4].copy_from_slice(&mss.to_be_bytes());
    }
}

/// Reads the MSS (RFC 9293 section 3.7.1) out of the options of a SYN.
pub(super) fn read_mss(options: &[u8]) -> Option<u16> {
    let at = find_option(options, 2, 4)?;
    Some(u16::from_be_bytes([options[at + 2], options[at + 3]]))
}

/// Reads the shift of the window (RFC 7323 section 2.2) out of the options of a SYN.
pub(super) fn read_window_shift(options: &[u8]) -> Option<u8> {
    Some(options[find_option(options, 3, 3)? + 2])
}

/// Where an option of that kind and length begins.
fn find_option(options: &[u8], kind: u8, length: usize) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            0 => return None,
            1 => at += 1,
            other => {
                let size = usize::from(*options.get(at + 1)?);
                if size < 2 || at + size > options.len() {
                    return None;
                }
                if other == kind && size == length {
                    return Some(at);
                }
                at += size;
            }
        }
    }
}
