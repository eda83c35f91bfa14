//! Where one WebSocket frame ends and the next begins, so that the gateway can say goodbye between
//! two frames (RFC 6455, section 5).

/// Follows the frames in one direction.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    header: [u8; 14],
    /// Bytes of the header that were seen.
    seen: usize,
    /// Bytes of the payload that are still to come.
    left: u64,
}

/// Why the gateway closes a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// The gateway stops.
    GoingAway,
    /// The visitor is no longer permitted.
    Forbidden,
}

impl Goodbye {
    const fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::Forbidden => 1008,
        }
    }

    /// The close frame, as a server sends it.
    pub(crate) const fn to_visitor(self) -> [u8; 4] {
        let [high, low] = self.code().to_be_bytes();
        [0x88, 0x02, high, low]
    }

    /// The close frame, as a client sends it: masked, by bytes that should be random.
    pub(crate) const fn to_target(self, mask: [u8; 4]) -> [u8; 8] {
        let [high, low] = self.code().to_be_bytes();
        [
            0x88,
            0x82,
            mask[0],
            mask[1],
            mask[2],
            mask[3],
            high ^ mask[0],
            low ^ mask[1],
        ]
    }
}

impl Frames {
    /// Follows all of `bytes`.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = self.advance(bytes);
            bytes = &bytes[used..];
        }
    }

    /// Follows `bytes` up to the end of the frame that is under way, and returns how many that were:
    /// all, if it does not end in them.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while used < bytes.len() {
            if self.left > 0 {
                let rest = (bytes.len() - used) as u64;
                let taken = self.left.min(rest);
                self.left -= taken;
                used += usize::try_from(taken).unwrap_or(bytes.len());
            } else {
                self.header[self.seen] = bytes[used];
                self.seen += 1;
                used += 1;
                if self.seen < self.header_length() {
                    continue;
                }
                self.left = self.payload_length();
                self.seen = 0;
            }
            if self.at_boundary() {
                break;
            }
        }
        used
    }

    /// Whether no frame is under way.
    pub(crate) const fn at_boundary(&self) -> bool {
        self.seen == 0 && self.left == 0
    }

    const fn header_length(&self) -> usize {
        if self.seen < 2 {
            return 2;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + extended + mask
    }

    fn payload_length(&self) -> u64 {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        match self.header[1] & 0x7f {
            126 => number(&self.header[2..4]),
            127 => number(&self.header[2..10]),
            length => u64::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match u8::try_from(length) {
            Ok(short) if short < 126 => frame.push(bit | short),
            _ => match u16::try_from(length) {
                Ok(medium) => {
                    frame.push(bit | 126);
                    frame.extend(medium.to_be_bytes());
                }
                Err(_) => {
                    frame.push(bit | 127);
                    frame.extend((length as u64).to_be_bytes());
                }
            },
        }
        if masked {
            frame.extend([1, 2, 3, 4]);
        }
        frame.resize(frame.len() + length, 0x55);
        frame
    }

    #[test]
    fn the_gateway_says_goodbye_in_a_frame() {
        let mut frames = Frames::default();
        frames.follow(&Goodbye::GoingAway.to_visitor());
        frames.follow(&Goodbye::Forbidden.to_target([9, 8, 7, 6]));
        assert!(frames.at_boundary());
        assert_eq!(Goodbye::GoingAway.to_visitor(), [0x88, 2, 0x03, 0xe9]);
    }

    proptest! {
        /// Boundaries are found wherever the bytes are cut.
        #[test]
        fn boundaries_are_found_at_any_cut(
            sizes in prop::collection::vec((prop_oneof![0_usize..130, 65_530_usize..65_540], any::<bool>()), 1..6),
            cut in 1_usize..400,
        ) {
            let mut stream = Vec::new();
            let mut ends = Vec::new();
            for (size, masked) in sizes {
                stream.extend(frame(size, masked));
                ends.push(stream.len());
            }
            let (mut frames, mut found, mut at) = (Frames::default(), Vec::new(), 0);
            for piece in stream.chunks(cut) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let used = frames.advance(rest);
                    at += used;
                    rest = &rest[used..];
                    if frames.at_boundary() {
                        found.push(at);
                    }
                }
            }
            prop_assert_eq!(found, ends);
        }
    }
}
