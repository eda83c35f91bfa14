//! What the fuzz targets run, here so that their corpora are replayed by the ordinary tests too.
//!
//! Each function takes any bytes, and panics when something holds no longer that always has to hold.

mod netstack;
mod packet;
mod wireguard;

use std::time::Instant;

pub use netstack::netstack;
pub use packet::ip_packet;
pub use wireguard::wg_datagram;

/// The most operations of one run.
const MAX_OPERATIONS: usize = 256;

/// What is left of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Up to so many bytes.
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(length.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn word(&mut self) -> Option<usize> {
        Some(usize::from(self.byte()?) << 8 | usize::from(self.byte()?))
    }
}

#[expect(clippy::disallowed_methods, reason = "a run begins at some instant")]
fn begin() -> Instant {
    Instant::now()
}
