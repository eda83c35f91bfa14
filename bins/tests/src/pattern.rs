//! Bodies of any size that are the same everywhere and wrong as soon as one byte is lost, doubled or moved.

use std::convert::Infallible;
use std::fmt::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use ring::digest::{self, SHA256};

/// Bytes between two position marks.
const PAGE: usize = 4096;
/// Bytes in one frame of a body.
const FRAME: usize = 64 * 1024;

/// An endless text of bytes: pages that look alike but for their number, which stands at their start.
#[derive(Debug, Clone)]
pub struct Pattern {
    page: Bytes,
    seed: u64,
}

impl Pattern {
    /// The pattern of a seed; two seeds differ in every page.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut page = BytesMut::with_capacity(PAGE);
        while page.len() < PAGE {
            page.extend_from_slice(&split_mix(&mut state).to_le_bytes());
        }
        Self {
            page: page.freeze(),
            seed,
        }
    }

    /// Writes what stands at `offset`.
    pub fn fill(&self, mut offset: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let start = (offset % PAGE as u64) as usize;
            let length = out.len().min(PAGE - start);
            let (here, rest) = out.split_at_mut(length);
            here.copy_from_slice(&self.page[start..start + length]);
            let mark = ((offset / PAGE as u64) ^ self.seed.rotate_left(17)).to_le_bytes();
            for (byte, mark) in here.iter_mut().zip(mark.iter().skip(start)) {
                *byte = *mark;
            }
            offset += length as u64;
            out = rest;
        }
    }

    /// Bytes from the start.
    #[must_use]
    pub fn bytes(&self, length: usize) -> Bytes {
        let mut out = BytesMut::zeroed(length);
        self.fill(0, &mut out);
        out.freeze()
    }

    /// SHA-256, in hexadecimal, of that many bytes from the start.
    #[must_use]
    pub fn digest(&self, length: u64) -> String {
        let mut hash = Digest::new();
        let mut frame = vec![0; FRAME];
        let mut offset = 0;
        while offset < length {
            let now = FRAME.min(usize::try_from(length - offset).unwrap_or(FRAME));
            self.fill(offset, &mut frame[..now]);
            hash.update(&frame[..now]);
            offset += now as u64;
        }
        hash.finish()
    }

    /// That many bytes as an HTTP body that is made while it is sent.
    #[must_use]
    pub fn body(&self, length: u64) -> PatternBody {
        PatternBody {
            pattern: self.clone(),
            offset: 0,
            length,
        }
    }
}

/// SHA-256 in pieces.
pub struct Digest {
    context: digest::Context,
    length: u64,
}

impl Digest {
    /// Of nothing yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a digest is begun, not defaulted")]
    pub fn new() -> Self {
        Self {
            context: digest::Context::new(&SHA256),
            length: 0,
        }
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Bytes taken in so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The digest in hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        self.context
            .finish()
            .as_ref()
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digest")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// See [`Pattern::body`].
#[derive(Debug)]
pub struct PatternBody {
    pattern: Pattern,
    offset: u64,
    length: u64,
}

impl Body for PatternBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let left = usize::try_from(this.length - this.offset).unwrap_or(FRAME);
        if left == 0 {
            return Poll::Ready(None);
        }
        let mut frame = BytesMut::zeroed(left.min(FRAME));
        this.pattern.fill(this.offset, &mut frame);
        this.offset += frame.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(frame.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.offset == self.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length - self.offset)
    }
}

/// The next number of the SplitMix64 sequence.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let pattern = Pattern::new(7);
        let whole = pattern.bytes(3 * PAGE + 5);
        for cut in [1, 3, 8, PAGE - 1, PAGE, PAGE + 3, 2 * PAGE] {
            let mut pieces = vec![0; whole.len()];
            for (at, piece) in pieces.chunks_mut(cut).enumerate() {
                pattern.fill((at * cut) as u64, piece);
            }
            assert_eq!(pieces, whole, "{cut}");
        }
        assert_ne!(whole[..PAGE], whole[PAGE..2 * PAGE]);
        assert_ne!(whole, Pattern::new(8).bytes(whole.len()));
    }

    #[tokio::test]
    async fn a_body_is_its_bytes_and_their_digest() {
        let pattern = Pattern::new(1);
        let length = 2 * FRAME as u64 + 17;
        let body = pattern.body(length).collect().await.unwrap().to_bytes();
        assert_eq!(body, pattern.bytes(length as usize));
        let mut hash = Digest::new();
        hash.update(&body);
        assert_eq!(hash.length(), length);
        assert_eq!(hash.finish(), pattern.digest(length));
    }
}
