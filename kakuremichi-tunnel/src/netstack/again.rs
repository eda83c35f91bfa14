//! What was lost because the path became narrower, and is sent again without waiting for a timer.
//!
//! By the time it is known that long packets vanish, TCP has sent them again a few times in vain, and would
//! wait for seconds until it does so once more. smoltcp cannot be told; what has it send the first segment
//! again is the same acknowledgement three times (RFC 5681 section 3.2). So it gets those, when the path is
//! found narrower, and whenever what was sent again is acknowledged and more of what was lost is left
//! (RFC 6582 section 3.2).

use std::net::IpAddr;

use super::{
    rim::{IPV6_HEADER, TCP_HEADER},
    track::{Track, is_after},
};
use crate::packet::{Protocol, TcpFlags, write_ip_header};

/// So many acknowledgements of the same number have the first segment sent again.
const DUPLICATES: usize = 3;

/// What is left to be sent again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    /// The sequence number behind everything that was lost.
    end: u32,
    /// The sequence number behind what was sent again last.
    repeated: u32,
    /// The first segment is to be sent again now.
    due: bool,
    /// It was asked for, and was not sent yet.
    asked: bool,
}

impl Again {
    /// Everything that is under way was lost, and is to be sent again; `None` where nothing is, or the peer
    /// has no room for it.
    pub(super) fn all(track: &Track) -> Option<Self> {
        let end = track.lost()?;
        Some(Self {
            end,
            repeated: track.unacknowledged(),
            due: true,
            asked: false,
        })
    }

    /// Whether the first segment is to be sent again now.
    pub(super) const fn is_due(&self) -> bool {
        self.due
    }

    /// It is asked for.
    pub(super) fn ask(&mut self, track: &Track) {
        (self.due, self.asked) = (false, true);
        self.repeated = track.unacknowledged();
    }

    /// The first segment was sent again. If nobody asked for it a timer ran out, and smoltcp sends everything
    /// again by itself: nothing is left to do here.
    pub(super) fn repeated(mut self, track: &Track) -> Option<Self> {
        if !self.asked {
            return None;
        }
        self.asked = false;
        // It may be shorter than others: smoltcp repeats no further than to the end of its ring.
        self.repeated = track.sent_last();
        Some(self)
    }

    /// An acknowledgement came.
    pub(super) fn acknowledged(mut self, track: &Track) -> Option<Self> {
        let number = track.unacknowledged();
        if !is_after(self.end, number) {
            return None;
        }
        self.due |= !self.asked && !is_after(self.repeated, number);
        Some(self)
    }
}

/// The acknowledgements that have smoltcp send the first segment again, as if `remote` had sent them to
/// `local`, one behind the other to `take`. The first one tells of a window that is another by little, and
/// the second takes that back: with that smoltcp forgets how many it has counted.
pub(super) fn acknowledgements(
    (sequence, acknowledgement, window): (u32, u32, u16),
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    mut take: impl FnMut(&[u8]),
) {
    let mut packet = [0; IPV6_HEADER + TCP_HEADER];
    let written = write_ip_header(remote.0, local.0, Protocol::Tcp, TCP_HEADER, &mut packet);
    let Some(ip) = written else { return };
    let tcp = &mut packet[ip..ip + TCP_HEADER];
    tcp[0..2].copy_from_slice(&remote.1.to_be_bytes());
    tcp[2..4].copy_from_slice(&local.1.to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = TcpFlags::ACK.bits();
    let other = if window > 1 { window - 1 } else { window + 1 };
    for window in [other, window].into_iter().chain([window; DUPLICATES]) {
        packet[ip + 14..ip + 16].copy_from_slice(&window.to_be_bytes());
        take(&packet[..ip + TCP_HEADER]);
    }
}
