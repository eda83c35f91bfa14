//! What passes the rim, noted for what smoltcp does not tell: where a connection stands in both
//! sequence spaces, and what holds its sender back.

use super::rim::{self, TCP_HEADER};
use crate::packet::{TcpFlags, TcpSegment};

/// The MSS of a peer that names none (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;

/// What is left of the shortest packets that every path carries: 576 and 1,280 bytes.
const LEAST_MSS_V4: u16 = 536;
const LEAST_MSS_V6: u16 = 1_220;

/// The largest shift of a window (RFC 7323 section 2.3).
const MAX_SHIFT: u8 = 14;

/// One connection's numbers.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// The MSS the peer asked for; zero before it did.
    mss: u16,
    /// What the path allows; zero where that is not known.
    limit: u16,
    /// By how much the peer's windows are shifted.
    shift: u8,
    /// Something was sent, and something acknowledged by the peer.
    sending: bool,
    acknowledged_once: bool,
    /// The sequence number behind the furthest one sent.
    sent_end: u32,
    /// The sequence number behind the one sent last, which is a repetition's after a loss.
    sent_last: u32,
    /// The first sequence number that the peer has not acknowledged.
    unacknowledged: u32,
    /// The peer's window.
    window: u32,
    /// The acknowledgement number sent last.
    acknowledged: u32,
    /// The next sequence number expected; behind `acknowledged` never, and before it while the
    /// acknowledgement is delayed.
    expected: u32,
    /// The sequence number behind the furthest byte that may have been stored.
    received_end: u32,
    /// The sequence number behind the peer's FIN.
    fin_end: Option<u32>,
    /// How often what the peer waits for was sent again.
    repeats: u32,
    /// Everything before this sequence number was taken when the receive ring's pages were given back.
    given_back: u32,
    /// By how much our windows are shifted.
    own_shift: u8,
    /// What the peer may have under way at most, whatever there is room for; `None` without a bound.
    allowance: Option<u32>,
    /// The sequence number behind the window that the peer was told last.
    told_end: u32,
    /// It was told less than there is room for.
    withheld: bool,
    /// At the end of its last turn, the congestion window alone kept the sender from sending more.
    congested: bool,
}

impl Track {
    /// The MSS to cut by; `u16::MAX` while the peer has not named one.
    pub(super) fn mss(&self) -> u16 {
        self.asked().min(self.limit())
    }

    /// The MSS that the path allows; `u16::MAX` where that is not known.
    pub(super) fn limit(&self) -> u16 {
        if self.limit == 0 { u16::MAX } else { self.limit }
    }

    /// Says what the path allows, from now on.
    pub(super) const fn set_limit(&mut self, limit: u16) {
        self.limit = limit;
    }

    /// The MSS that the peer asked for; `u16::MAX` while it has not.
    fn asked(&self) -> u16 {
        if self.mss == 0 { u16::MAX } else { self.mss }
    }

    /// A router said that a segment with that number was too long for it. Believed for numbers that are
    /// under way, and not below what every path carries (RFC 8201 section 4, RFC 1191 section 7.1).
    /// Returns whether it was.
    pub(super) fn lower_mss(&mut self, sequence: u32, mss: usize, v4: bool) -> bool {
        if !self.is_under_way(sequence) {
            return false;
        }
        let least = if v4 { LEAST_MSS_V4 } else { LEAST_MSS_V6 };
        let mss = u16::try_from(mss).unwrap_or(u16::MAX).max(least);
        self.mss = self.asked().min(mss);
        true
    }

    /// Whether something with that number was sent, and is not acknowledged.
    pub(super) fn is_under_way(&self, sequence: u32) -> bool {
        self.sending && !is_after(self.unacknowledged, sequence) && is_after(self.sent_end, sequence)
    }

    /// A segment is sent. Returns the sequence number it is to have.
    ///
    /// After a loss smoltcp puts the number it repeats from into acknowledgements, too. The peer has
    /// that number behind it and drops the segment with its acknowledgement; when both ends do so, none
    /// ever learns what the other has, and both repeat themselves until they time out. A segment that
    /// takes up no numbers has the next one (RFC 9293 section 3.10.7.4).
    pub(super) fn sent(&mut self, sequence: u32, data: usize, flags: TcpFlags, acknowledgement: u32) -> u32 {
        let acknowledges = flags.contains(TcpFlags::ACK);
        if acknowledges {
            self.acknowledged = acknowledgement;
            if is_after(acknowledgement, self.expected) {
                self.expected = acknowledgement;
            }
        }
        let controls = u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
        let end = sequence.wrapping_add(data as u32).wrapping_add(controls);
        if !self.sending {
            self.sending = true;
            self.sent_end = end;
        }
        if end == sequence {
            return if is_after(self.sent_end, sequence) {
                self.sent_end
            } else {
                sequence
            };
        }
        // A probe of a closed window is not sent as far as both ends are concerned.
        let probe = controls == 0
            && self.acknowledged_once
            && is_after(end, self.unacknowledged.wrapping_add(self.window));
        if !probe {
            if sequence == self.unacknowledged && is_after(self.sent_end, sequence) {
                self.repeats = self.repeats.wrapping_add(1);
            }
            self.sent_last = end;
            if is_after(end, self.sent_end) {
                self.sent_end = end;
            }
        }
        sequence
    }

    /// A segment comes in, with a receive ring of that size.
    pub(super) fn received(&mut self, segment: &TcpSegment<'_>, ring: usize) {
        let flags = segment.flags();
        let data = segment.payload().len() as u32;
        if flags.contains(TcpFlags::SYN) {
            if self.mss == 0 {
                let options = segment.options();
                self.mss = rim::read_mss(options)
                    .filter(|mss| *mss != 0)
                    .unwrap_or(DEFAULT_MSS);
                self.shift = rim::read_window_shift(options).unwrap_or(0).min(MAX_SHIFT);
                self.expected = segment.sequence().wrapping_add(1);
                self.received_end = self.expected;
                self.given_back = self.expected;
                if rim::read_window_shift(options).is_none() {
                    self.own_shift = 0;
                }
            }
        } else {
            let end = segment.sequence().wrapping_add(data);
            if flags.contains(TcpFlags::FIN) {
                self.fin_end = Some(end.wrapping_add(1));
            }
            if data > 0 {
                self.stored(segment.sequence(), end, ring);
            }
        }
        if flags.contains(TcpFlags::ACK) && !flags.contains(TcpFlags::RST) {
            let shift = if flags.contains(TcpFlags::SYN) {
                0
            } else {
                self.shift
            };
            let acknowledgement = segment.acknowledgement();
            // One that was overtaken says nothing any more (RFC 9293 section 3.10.7.4), not to smoltcp either.
            if !self.acknowledged_once || !is_after(self.unacknowledged, acknowledgement) {
                self.window = u32::from(segment.window()) << shift;
            }
            if !self.acknowledged_once || is_after(acknowledgement, self.unacknowledged) {
                self.acknowledged_once = true;
                self.unacknowledged = acknowledgement;
            }
        }
    }

    fn stored(&mut self, begin: u32, end: u32, ring: usize) {
        // Nothing further ahead than a whole ring was stored.
        let limit = self.acknowledged.wrapping_add(ring as u32);
        let end = if is_after(end, limit) { limit } else { end };
        let complete = !is_after(self.received_end, self.expected);
        if complete && !is_after(begin, self.expected) && is_after(end, self.expected) {
            self.expected = end;
        }
        if is_after(end, self.received_end) {
            self.received_end = end;
        }
    }

    /// How many bytes may have been stored since the ring's pages were given back. Counted to four
    /// gigabytes: who asks often enough sees every ring's worth.
    pub(super) const fn stored_since(&self) -> usize {
        self.received_end.wrapping_sub(self.given_back) as usize
    }

    /// The same, once a segment was taken in.
    pub(super) fn stored_with(&self, segment: &TcpSegment<'_>) -> usize {
        let end = segment.sequence().wrapping_add(segment.payload().len() as u32);
        if is_after(end, self.received_end) {
            end.wrapping_sub(self.given_back) as usize
        } else {
            self.stored_since()
        }
    }

    /// The receive ring, which is empty, lost its pages.
    pub(super) const fn give_back(&mut self) {
        self.given_back = self.received_end;
    }

    /// Our SYN says by how much our windows are shifted.
    pub(super) const fn shift_own(&mut self, shift: u8) {
        self.own_shift = shift;
    }

    /// Bounds the windows that the peer is told from now on, in bytes, or not any more.
    pub(super) const fn allow(&mut self, bytes: Option<u32>) {
        self.allowance = bytes;
    }

    /// Whether the peer was told of less room than there is, or will be.
    pub(super) const fn is_held_back(&self) -> bool {
        self.withheld || self.allowance.is_some()
    }

    /// How much of so many bytes of room the peer may be told of.
    fn allowed(&self, room: u32) -> u32 {
        self.allowance.map_or(room, |bytes| bytes.min(room))
    }

    /// The peer is told a window, beside that acknowledgement. Returns the window that it may be told.
    pub(super) fn tell(&mut self, acknowledgement: u32, window: u16) -> u16 {
        let room = u32::from(window) << self.own_shift;
        let allowed = self.allowed(room);
        let told = allowed >> self.own_shift;
        self.withheld = allowed < room;
        self.told_end = acknowledgement.wrapping_add(told << self.own_shift);
        told as u16
    }

    /// A window to be told besides, when the last one was withheld and there is room for so many bytes: our
    /// sequence number, the acknowledgement, and the window as it is sent.
    pub(super) fn update(&mut self, room: usize, always: bool) -> Option<(u32, u32, u16)> {
        let all = u32::try_from(room).unwrap_or(u32::MAX);
        let room = self.allowed(all);
        let end = self.acknowledged.wrapping_add(room);
        let worth = is_after(end, self.told_end.wrapping_add(2 * u32::from(self.mss)));
        let wanted = always || (self.withheld && worth);
        if !wanted {
            return None;
        }
        let window = u16::try_from(room >> self.own_shift).unwrap_or(u16::MAX);
        self.told_end = self
            .acknowledged
            .wrapping_add(u32::from(window) << self.own_shift);
        self.withheld = room < all;
        Some((self.sent_end, self.acknowledged, window))
    }

    /// The sender had its turn: `queued` bytes are sent and unacknowledged, or not yet sent, though the
    /// sink would have taken more.
    pub(super) fn turned(&mut self, queued: usize) {
        let in_flight = self.sent_last.wrapping_sub(self.unacknowledged);
        let has_more = queued as u64 > u64::from(in_flight);
        let may_more = self.window >= in_flight.saturating_add(u32::from(self.mss));
        self.congested = has_more && may_more;
    }

    /// How many bytes an acknowledgement is about to acknowledge for the first time.
    pub(super) fn acknowledges(&self, segment: &TcpSegment<'_>) -> u32 {
        let flags = segment.flags();
        let number = segment.acknowledgement();
        let news = self.acknowledged_once
            && flags.contains(TcpFlags::ACK)
            && !flags.contains(TcpFlags::SYN)
            && !flags.contains(TcpFlags::RST)
            && is_after(number, self.unacknowledged)
            && !is_after(number, self.sent_end);
        if news {
            number.wrapping_sub(self.unacknowledged)
        } else {
            0
        }
    }

    /// The first sequence number that the peer has not acknowledged.
    pub(super) fn unacknowledged(&self) -> u32 {
        self.unacknowledged
    }

    /// How often what the peer waits for was sent again, modulo 2^32.
    pub(super) fn repeats(&self) -> u32 {
        self.repeats
    }

    /// The sequence number behind the segment with data that was sent last.
    pub(super) fn sent_last(&self) -> u32 {
        self.sent_last
    }

    /// The sequence number behind what is under way, as if it were lost; `None` where nothing is, or the peer
    /// has no room for a segment.
    pub(super) fn lost(&self) -> Option<u32> {
        let may = self.sending
            && self.acknowledged_once
            && is_after(self.sent_last, self.unacknowledged)
            && self.window >= u32::from(self.asked());
        may.then_some(self.sent_last)
    }

    /// The numbers of an acknowledgement that the peer may have repeated: its next sequence number, ours that
    /// it waits for, and its window as it stands in a packet.
    pub(super) fn duplicate(&self) -> (u32, u32, u16) {
        let window = u16::try_from(self.window >> self.shift).unwrap_or(u16::MAX);
        let next = if is_after(self.acknowledged, self.expected) {
            self.acknowledged
        } else {
            self.expected
        };
        (next, self.unacknowledged, window)
    }

    /// The peer's window, in bytes.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    pub(super) fn is_congested(&self) -> bool {
        self.congested
    }

    /// Whether a segment with data leaves a gap before it.
    pub(super) fn leaves_gap(&self, segment: &TcpSegment<'_>) -> bool {
        is_after(segment.sequence(), self.expected)
    }

    /// Whether everything that was received was acknowledged, so that nothing waits out of order.
    pub(super) fn in_order(&self) -> bool {
        !is_after(self.received_end, self.acknowledged)
    }

    /// Our next sequence number and the peer's, once the peer's FIN was acknowledged.
    pub(super) fn after_fin(&self) -> Option<(u32, u32)> {
        (self.fin_end == Some(self.acknowledged)).then_some((self.sent_end, self.acknowledged))
    }

    /// The peer's next sequence number, and ours.
    pub(super) fn numbers(&self) -> (u32, u32) {
        (self.acknowledged, self.sent_end)
    }
}

/// Writes a part of a packet, as if it had come by itself: its headers with other numbers, and a piece
/// of its data. Checksums stay as they were; nobody looks at them. Returns its length.
pub(super) fn write_part(
    packet: &[u8],
    ip: usize,
    segment: &TcpSegment<'_>,
    numbers: (u32, u32),
    data: &[u8],
    out: &mut [u8],
) -> usize {
    let headers = ip + segment.header_len();
    let length = headers + data.len();
    out[..headers].copy_from_slice(&packet[..headers]);
    out[headers..length].copy_from_slice(data);
    if packet[0] >> 4 == 4 {
        out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    } else {
        out[4..6].copy_from_slice(&((length - ip) as u16).to_be_bytes());
    }
    let tcp = &mut out[ip..ip + TCP_HEADER];
    tcp[4..8].copy_from_slice(&numbers.0.to_be_bytes());
    tcp[8..12].copy_from_slice(&numbers.1.to_be_bytes());
    // FIN and PSH belong to the whole.
    tcp[13] &= !0x09;
    length
}

/// Whether a sequence number lies after another (RFC 9293 section 3.4).
pub(super) fn is_after(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).wrapping_sub(1) < (1 << 31) - 1
}
