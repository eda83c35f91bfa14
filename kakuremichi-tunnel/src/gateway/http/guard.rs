//! Watches the bytes of an HTTP/1.1 connection for requests that two parsers could read in two ways.
//!
//! hyper parses the requests; it is lenient where RFC 9112 lets a server be: it takes a bare LF for the
//! end of a line, drops a `Content-Length` beside a `Transfer-Encoding`, and folds equal lengths into
//! one. What it drops cannot be seen afterwards. So a second, strict reader follows the framing byte by
//! byte in front of it and spoils the first byte that breaks a rule: hyper then answers 400 and closes,
//! in its turn among pipelined requests (LESSONS, advisory 6).

/// The longest line of a chunk's size and extensions, in bytes. A longer one is spoiled.
const MAX_CHUNK_LINE: usize = 256;
/// The longest value of a framing header, in bytes. A longer one is spoiled.
const MAX_FRAMING_VALUE: usize = 32;
/// The longest name of a framing header, `transfer-encoding`.
const LONGEST_NAME: usize = 17;
/// What a spoiled byte becomes: it may stand nowhere in a head, a chunk size or a trailer.
const SPOILED: u8 = 0;

/// Where in the stream of requests the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before or in the request line.
    RequestLine,
    /// In the header section, or in the trailer section behind chunks.
    Field { trailer: bool },
    /// In a body of known length.
    Body { left: u64 },
    /// In the line that opens a chunk.
    ChunkSize,
    /// In a chunk.
    ChunkData { left: u64 },
    /// In the CRLF behind a chunk.
    ChunkEnd,
    /// A rule was broken: nothing more is let through.
    Broken,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    state: State,
    line: Line,
    framing: Framing,
}

/// What is known of the line that is being read.
#[derive(Debug, Default)]
struct Line {
    length: usize,
    carriage_return: bool,
    name: [u8; LONGEST_NAME],
    /// The length of the name; `None` once the colon was seen or it is longer than any of interest.
    name_length: Option<usize>,
    field: Field,
    value: [u8; MAX_FRAMING_VALUE],
    value_length: usize,
    chunk_size: u64,
    chunk_digits: u32,
    in_extension: bool,
}

/// The header fields that frame a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Field {
    #[default]
    Other,
    ContentLength,
    TransferEncoding,
}

/// What the header section says about the body.
#[derive(Debug, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

/// A byte breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Violation;

impl Guard {
    /// Starts before the first request.
    pub(crate) fn new() -> Self {
        Self {
            state: State::RequestLine,
            line: Line::start(),
            framing: Framing::default(),
        }
    }

    /// Follows `bytes`. Returns how many of them may be handed on: all, or those up to and including
    /// the first that breaks a rule, which is spoiled; after that none.
    pub(crate) fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Broken => return at,
                State::Body { left } => at += self.skip(left, bytes.len() - at, State::RequestLine),
                State::ChunkData { left } => at += self.skip(left, bytes.len() - at, State::ChunkEnd),
                State::RequestLine | State::Field { .. } | State::ChunkSize | State::ChunkEnd => {
                    if self.byte(bytes[at]).is_err() {
                        bytes[at] = SPOILED;
                        self.state = State::Broken;
                        return at + 1;
                    }
                    at += 1;
                }
            }
        }
        at
    }

    fn skip(&mut self, left: u64, available: usize, next: State) -> usize {
        let skipped = usize::try_from(left).map_or(available, |left| left.min(available));
        let left = left - skipped as u64;
        self.state = match self.state {
            _ if left == 0 => next,
            State::ChunkData { .. } => State::ChunkData { left },
            _ => State::Body { left },
        };
        if left == 0 {
            self.line = Line::start();
        }
        skipped
    }

    fn byte(&mut self, byte: u8) -> Result<(), Violation> {
        match (byte, self.line.carriage_return) {
            (b'\n', true) => return self.end_of_line(),
            (b'\n', false) | (_, true) => return Err(Violation),
            (b'\r', false) => {
                self.line.carriage_return = true;
                return Ok(());
            }
            _ => {}
        }
        self.line.length += 1;
        match self.state {
            // A fragment is never sent; parsers that meet one cut it off or keep it.
            State::RequestLine if byte == b'#' => Err(Violation),
            State::Field { .. } => self.line.field_byte(byte),
            State::ChunkSize => self.line.chunk_byte(byte),
            State::ChunkEnd => Err(Violation),
            _ => Ok(()),
        }
    }

    fn end_of_line(&mut self) -> Result<(), Violation> {
        let line = std::mem::replace(&mut self.line, Line::start());
        self.state = match self.state {
            // Empty lines before a request are skipped (RFC 9112, section 2.2).
            State::RequestLine if line.length == 0 => State::RequestLine,
            State::RequestLine => {
                self.framing = Framing::default();
                State::Field { trailer: false }
            }
            State::Field { trailer: true } if line.length == 0 => State::RequestLine,
            State::Field { trailer: false } if line.length == 0 => self.framing.body(),
            State::Field { trailer } => {
                if line.name_length.is_some() {
                    return Err(Violation);
                }
                if !trailer {
                    self.framing.field(&line)?;
                }
                State::Field { trailer }
            }
            State::ChunkSize if line.chunk_digits == 0 => return Err(Violation),
            State::ChunkSize if line.chunk_size == 0 => State::Field { trailer: true },
            State::ChunkSize => State::ChunkData {
                left: line.chunk_size,
            },
            State::ChunkEnd => State::ChunkSize,
            state @ (State::Body { .. } | State::ChunkData { .. } | State::Broken) => state,
        };
        Ok(())
    }
}

impl Line {
    fn start() -> Self {
        Self {
            name_length: Some(0),
            ..Self::default()
        }
    }

    fn field_byte(&mut self, byte: u8) -> Result<(), Violation> {
        // A line that starts with white space continues the one before (obs-fold).
        if self.length == 1 && matches!(byte, b' ' | b'\t') {
            return Err(Violation);
        }
        if let Some(length) = self.name_length {
            return self.name_byte(byte, length);
        }
        if self.field == Field::Other || (self.value_length == 0 && matches!(byte, b' ' | b'\t')) {
            return Ok(());
        }
        *self.value.get_mut(self.value_length).ok_or(Violation)? = byte;
        self.value_length += 1;
        Ok(())
    }

    fn name_byte(&mut self, byte: u8, length: usize) -> Result<(), Violation> {
        match byte {
            b':' if length == 0 => return Err(Violation),
            b':' => {
                self.field = match self.name.get(..length) {
                    Some(b"content-length") => Field::ContentLength,
                    Some(b"transfer-encoding") => Field::TransferEncoding,
                    _ => Field::Other,
                };
                self.name_length = None;
            }
            b' ' | b'\t' => return Err(Violation),
            _ => {
                if let Some(slot) = self.name.get_mut(length) {
                    *slot = byte.to_ascii_lowercase();
                }
                self.name_length = Some(length + 1);
            }
        }
        Ok(())
    }

    fn chunk_byte(&mut self, byte: u8) -> Result<(), Violation> {
        if self.length > MAX_CHUNK_LINE {
            return Err(Violation);
        }
        if self.in_extension {
            return Ok(());
        }
        if byte == b';' && self.chunk_digits > 0 {
            self.in_extension = true;
            return Ok(());
        }
        let digit = char::from(byte).to_digit(16).ok_or(Violation)?;
        self.chunk_digits += 1;
        if self.chunk_digits > 15 {
            return Err(Violation);
        }
        self.chunk_size = self.chunk_size << 4 | u64::from(digit);
        Ok(())
    }

    fn value(&self) -> &[u8] {
        self.value[..self.value_length].trim_ascii_end()
    }
}

impl Framing {
    fn field(&mut self, line: &Line) -> Result<(), Violation> {
        let framed = self.chunked || self.length.is_some();
        match line.field {
            Field::Other => Ok(()),
            // A second framing header, equal or not, or both kinds in one request.
            Field::ContentLength | Field::TransferEncoding if framed => Err(Violation),
            Field::TransferEncoding if line.value().eq_ignore_ascii_case(b"chunked") => {
                self.chunked = true;
                Ok(())
            }
            Field::TransferEncoding => Err(Violation),
            Field::ContentLength => {
                self.length = Some(decimal(line.value()).ok_or(Violation)?);
                Ok(())
            }
        }
    }

    const fn body(&self) -> State {
        match (self.chunked, self.length) {
            (true, _) => State::ChunkSize,
            (false, None | Some(0)) => State::RequestLine,
            (false, Some(left)) => State::Body { left },
        }
    }
}

/// Reads 1 to 18 digits and nothing else.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0, |value: u64, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Guard {
        fn is_broken(&self) -> bool {
            self.state == State::Broken
        }
    }

    fn breaks(input: &str) -> bool {
        let mut bytes = input.as_bytes().to_vec();
        let mut guard = Guard::new();
        guard.pass(&mut bytes);
        guard.is_broken()
    }

    #[test]
    fn ordinary_requests_pass() {
        for good in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost:a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na\nb\r\0POST / HTTP/1.1\r\nContent-Length:0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked \r\n\r\n5;x=y\r\nab\n\r\n\r\n0\r\nX-T: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nX-Content-Length-And-More: 5, 6\r\nCookie: a=b\r\n\r\n",
        ] {
            assert!(!breaks(good), "{good:?}");
        }
    }

    /// LESSONS, advisory 6: CL+TE, duplicate CL, bare LF, obs-fold.
    #[test]
    fn ambiguous_framing_is_spoiled() {
        for bad in [
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +5\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0x5\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n",
            "POST / HTTP/1.1\r\nContent-Length : 5\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "GET / HTTP/1.1\nHost: a\r\n",
            "GET / HTTP/1.1\r\nHost: a\n",
            "GET / HTTP/1.1\r\nHost: a\rX: b\r\n",
            "GET / HTTP/1.1\r\nX: a\r\n b\r\n",
            "GET / HTTP/1.1\r\nX: a\r\n\tb\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n",
            "GET / HTTP/1.1\r\n: empty\r\n",
            "GET /#x HTTP/1.1\r\n",
        ] {
            assert!(breaks(bad), "{bad:?}");
        }
    }

    #[test]
    fn malformed_chunks_are_spoiled() {
        for chunks in [
            "\r\n",
            "g\r\n",
            "5 \r\n",
            "-1\r\n",
            "0x5\r\n",
            "1\n",
            "1\r\nab",
            "1\r\na\n",
            "fffffffffffffffff\r\n",
            ";\r\n",
        ] {
            let request = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert!(breaks(&request), "{chunks:?}");
        }
        let long = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}",
            "x".repeat(300)
        );
        assert!(breaks(&long));
    }

    #[test]
    fn what_follows_a_broken_rule_is_withheld() {
        let mut bytes = *b"GET / HTTP/1.1\nGET / HTTP/1.1\r\n\r\n";
        let mut guard = Guard::new();
        assert_eq!(guard.pass(&mut bytes), 15);
        assert_eq!(bytes[14], SPOILED);
        assert_eq!(guard.pass(&mut [b'x'; 4]), 0);
    }

    proptest! {
        /// However the bytes are cut into reads, the same byte is spoiled.
        #[test]
        fn cuts_make_no_difference(
            parts in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "Host: a\r\n", "Content-Length: 3\r\n",
                "Transfer-Encoding: chunked\r\n", "\r\n", "abc", "3\r\nabc\r\n", "0\r\n\r\n", "\n", "\r", " ", ":",
            ]), 0..24),
            cuts in prop::collection::vec(1_usize..7, 1..64),
        ) {
            let whole: Vec<u8> = parts.concat().into_bytes();
            let mut at_once = whole.clone();
            let mut guard = Guard::new();
            let passed = guard.pass(&mut at_once);
            let mut pieces = whole;
            let mut other = Guard::new();
            let (mut rest, mut total) = (&mut pieces[..], 0);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at_mut((*cut).min(rest.len()));
                total += other.pass(piece);
                rest = after;
            }
            prop_assert_eq!(passed, total);
            prop_assert_eq!(guard.is_broken(), other.is_broken());
            prop_assert_eq!(&at_once[..passed], &pieces[..passed]);
        }
    }
}
