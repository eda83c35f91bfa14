//! Joins the TCP segments of one flow that arrive behind each other into one large segment, so that
//! the netstack is run once for some forty packets (receive offload, in software).
//!
//! Segments are not copied together: each packet is decrypted to where its data belongs, its headers
//! over the last bytes of the data before it, which are put back afterwards.

use super::{IpPacket, TcpFlags, checksum};
use crate::peer::PeerId;

/// The longest packet that is made by joining; the length fields of IP end at 65,535.
pub const MAX_COALESCED: usize = 65_000;

/// The longest packet, and the tag that decryption needs room for behind it.
const MAX_PACKET: usize = 65_535 + 16;

/// The longest IPv6 and TCP header.
const MAX_HEADERS: usize = 40 + 60;

/// Collects packets. One pending packet at most is held, and only until the end of a batch: a caller
/// calls [`slot`](Self::slot) and [`commit`](Self::commit) for each packet, and
/// [`flush`](Self::flush) after the last one.
pub struct Coalescer {
    buffer: Box<[u8]>,
    /// The packet held, at the start of the buffer.
    pending: Option<Pending>,
    /// The headers of its first segment, to compare with: those in the buffer may be written over.
    head: [u8; MAX_HEADERS],
    /// What stood where the headers of the next packet go.
    saved: [u8; MAX_HEADERS],
}

#[derive(Clone, Copy)]
struct Pending {
    peer: PeerId,
    length: usize,
    /// IP header, and IP and TCP header.
    ip_header: usize,
    headers: usize,
    /// The data of the first segment: no later one may be longer, and a shorter one is the last.
    segment: usize,
    next_sequence: u32,
    segments: usize,
}

impl Coalescer {
    /// Makes one; 130 kB are allocated here and never again.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: vec![0; MAX_COALESCED + MAX_PACKET].into_boxed_slice(),
            pending: None,
            head: [0; MAX_HEADERS],
            saved: [0; MAX_HEADERS],
        }
    }

    /// Where the next packet is to be written; room for the longest packet with a 16-byte tag. Must
    /// be followed by [`commit`](Self::commit).
    pub fn slot(&mut self) -> &mut [u8] {
        let at = self.pending.map_or(0, |pending| pending.length - pending.headers);
        let headers = self.pending.map_or(0, |pending| pending.headers);
        self.saved[..headers].copy_from_slice(&self.buffer[at..at + headers]);
        &mut self.buffer[at..]
    }

    /// Takes note of what was written to the slot: `Some` of the peer and the length, or `None` when
    /// nothing came of it. Whole packets go to `ingest`, those of one flow in their order.
    pub fn commit(&mut self, written: Option<(PeerId, usize)>, mut ingest: impl FnMut(PeerId, &[u8])) {
        let Some(pending) = self.pending else {
            if let Some((peer, length)) = written {
                self.start(peer, length, &mut ingest);
            }
            return;
        };
        let at = pending.length - pending.headers;
        let Some((peer, length)) = written else {
            self.restore(&pending, at);
            return;
        };
        if let Some(data) = self.continues(&pending, peer, &self.buffer[at..at + length]) {
            self.join(pending, at, data, &mut ingest);
            return;
        }
        // The new packet starts over: its headers stand in the pending one's data.
        let mut headers = [0; MAX_HEADERS];
        let overlap = pending.headers.min(length);
        headers[..overlap].copy_from_slice(&self.buffer[at..at + overlap]);
        self.restore(&pending, at);
        self.flush(&mut ingest);
        self.buffer[at..at + overlap].copy_from_slice(&headers[..overlap]);
        self.buffer.copy_within(at..at + length, 0);
        self.start(peer, length, &mut ingest);
    }

    /// Hands the pending packet out. Called at the end of each batch: nothing waits for a next one.
    pub fn flush(&mut self, mut ingest: impl FnMut(PeerId, &[u8])) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        if pending.segments > 1 {
            let packet = &mut self.buffer[..pending.length];
            if packet[0] >> 4 == 4 {
                packet[2..4].copy_from_slice(&(pending.length as u16).to_be_bytes());
                packet[10..12].fill(0);
                let sum = checksum(&packet[..pending.ip_header]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            } else {
                let payload = (pending.length - pending.ip_header) as u16;
                packet[4..6].copy_from_slice(&payload.to_be_bytes());
            }
        }
        ingest(pending.peer, &self.buffer[..pending.length]);
    }

    /// Holds the packet at the start of the buffer back if others may be joined to it.
    fn start(&mut self, peer: PeerId, length: usize, ingest: &mut impl FnMut(PeerId, &[u8])) {
        self.pending = joinable(peer, &self.buffer[..length]);
        match self.pending {
            Some(Pending { headers, .. }) => self.head[..headers].copy_from_slice(&self.buffer[..headers]),
            None => ingest(peer, &self.buffer[..length]),
        }
    }

    fn restore(&mut self, pending: &Pending, at: usize) {
        self.buffer[at..at + pending.headers].copy_from_slice(&self.saved[..pending.headers]);
    }

    /// The length of the packet's data, when it follows directly on the pending packet's.
    fn continues(&self, pending: &Pending, peer: PeerId, packet: &[u8]) -> Option<usize> {
        if peer != pending.peer || packet.len() <= pending.headers {
            return None;
        }
        let data = packet.len() - pending.headers;
        if data > pending.segment || pending.length + data > MAX_COALESCED {
            return None;
        }
        let head = &self.head[..pending.headers];
        let ip = pending.ip_header;
        let same = if packet[0] >> 4 == 4 {
            head[..2] == packet[..2] && head[6..10] == packet[6..10] && head[12..ip] == packet[12..ip]
        } else {
            head[..4] == packet[..4] && head[6] == packet[6] && head[8..ip] == packet[8..ip]
        };
        let same_ports = head[ip..ip + 4] == packet[ip..ip + 4];
        let same_options = head[ip + 20..] == packet[ip + 20..pending.headers];
        if !same || !same_ports || !same_options {
            return None;
        }
        let view = IpPacket::parse(packet).ok()?;
        let tcp = view.tcp().ok()?;
        let joins = view.as_bytes().len() == packet.len()
            && ip + tcp.header_len() == pending.headers
            && tcp.sequence() == pending.next_sequence
            && tcp.flags().contains(TcpFlags::ACK)
            && tcp.flags().is_within(TcpFlags::ACK.union(TcpFlags::PSH));
        joins.then_some(data)
    }

    fn join(&mut self, mut pending: Pending, at: usize, data: usize, ingest: &mut impl FnMut(PeerId, &[u8])) {
        let ip = pending.ip_header;
        // Acknowledgement, flags and window of the newest segment count.
        let mut newest = [0; 8];
        newest.copy_from_slice(&self.buffer[at + ip + 8..at + ip + 16]);
        self.restore(&pending, at);
        self.buffer[ip + 8..ip + 16].copy_from_slice(&newest);
        pending.length += data;
        pending.segments += 1;
        pending.next_sequence = pending.next_sequence.wrapping_add(data as u32);
        self.pending = Some(pending);
        let pushed = newest[5] & 0x08 != 0;
        if pushed || data < pending.segment {
            self.flush(ingest);
        }
    }
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Coalescer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coalescer")
            .field("pending", &self.pending.map(|pending| pending.length))
            .finish_non_exhaustive()
    }
}

/// Whether the packet is a plain data segment that more may follow.
fn joinable(peer: PeerId, packet: &[u8]) -> Option<Pending> {
    let view = IpPacket::parse(packet).ok()?;
    if view.as_bytes().len() != packet.len() {
        return None;
    }
    let tcp = view.tcp().ok()?;
    if tcp.flags() != TcpFlags::ACK || tcp.payload().is_empty() || packet.len() > MAX_COALESCED {
        return None;
    }
    let headers = view.header_len() + tcp.header_len();
    (headers <= MAX_HEADERS).then(|| Pending {
        peer,
        length: packet.len(),
        ip_header: view.header_len(),
        headers,
        segment: tcp.payload().len(),
        next_sequence: tcp.sequence().wrapping_add(tcp.payload().len() as u32),
        segments: 1,
    })
}
