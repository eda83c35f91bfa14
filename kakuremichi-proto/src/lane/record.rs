//! The records of a connection of a TLS stream lane.
//!
//! A record is a tag, three bytes of length (big endian, of the body) and the body. Tags are a registry
//! that only grows; a record that is not known is skipped. A connection is of one
//! [purpose](super::hello::Purpose):
//!
//! - *Flows*: it carries one flow after the other. The gateway sends [`Begin`](Record::Begin), the agent
//!   one [`Reply`](Record::Reply); [`Data`](Record::Data) may follow `Begin` at once. Each side ends its
//!   direction with [`End`](Record::End); when both have, the connection is free for another flow. A
//!   reply other than [`Connected`](FlowReply::Connected) is the agent's end. After a
//!   [`Reset`](Record::Reset), or an end of the connection without `End`, the flow is broken and the
//!   connection is closed. [`Retire`](Record::Retire) announces that the agent closes a free connection:
//!   a flow that has begun meanwhile is served, and is the last one.
//!
//!   A flow whose preface [is of datagrams](crate::preface::is_of_datagrams) is a session: each
//!   [`Datagram`](Record::Datagram) is one, and there is no `Data`. The agent replies `Connected` when it has
//!   something to say, and a refusal when the target refuses before that; datagrams go out without waiting
//!   for either. An agent that does not know sessions refuses the preface, with
//!   [`Denied`](FlowReply::Denied).
//! - *Control*: one per lane. [`Ping`](Record::Ping) and [`Pong`](Record::Pong) probe the lane from both
//!   ends, `Data` carries the [feed](super::feed), [`Demand`](Record::Demand) asks for more connections,
//!   [`Choice`](Record::Choice) says on which lane the agent wants its flows.

use crate::flow::{BadReply, FlowReply, REPLY_LEN};
use crate::message::LaneKind;
use crate::preface::MAX_PREFACE;

/// The protocol's name in TLS (ALPN, RFC 7301).
pub const ALPN: &[u8] = b"kakuremichi-lane/1";
/// The path of the WebSocket that carries the same bytes in binary messages.
pub const WEBSOCKET_PATH: &str = "/.well-known/kakuremichi/lane";
/// Its subprotocol.
pub const WEBSOCKET_PROTOCOL: &str = "kakuremichi-lane.1";

/// The length of a record's header, in bytes.
pub const HEADER: usize = 4;
/// The most bytes of visitors in one record: a record then fills 64 KiB.
pub const MAX_DATA: usize = 64 * 1024 - HEADER;
/// The longest body of any other record, in bytes. A longer one breaks the connection.
pub const MAX_BODY: usize = 2 * 1024;

const DATA: u8 = 1;
const END: u8 = 2;
const RESET: u8 = 3;
const BEGIN: u8 = 4;
const REPLY: u8 = 5;
const RETIRE: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;
const DEMAND: u8 = 9;
const CHOICE: u8 = 10;
const DATAGRAM: u8 = 11;

/// Why a flow was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResetCode {
    /// The socket of whoever is behind this end was reset, or failed. Codes that are not known are read
    /// as this one.
    Aborted = 0,
    /// Nobody uses the flow any more.
    Cancelled = 1,
    /// Nothing moved for too long.
    TimedOut = 2,
    /// This end does not understand the other.
    Protocol = 3,
}

impl ResetCode {
    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Cancelled,
            2 => Self::TimedOut,
            3 => Self::Protocol,
            _ => Self::Aborted,
        }
    }
}

/// A probe of the lane, or the answer to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Its number.
    pub sequence: u16,
    /// What the answer repeats.
    pub payload: [u8; 8],
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// So many bytes follow; see [`RecordReader::data_left`].
    Data(usize),
    /// This direction of the flow has ended.
    End,
    /// The flow is broken off, and the connection with it.
    Reset(ResetCode),
    /// A flow begins.
    Begin {
        /// The port of the overlay address that it goes to.
        port: u16,
        /// Its [preface](crate::preface), at most [`MAX_PREFACE`] bytes.
        preface: &'a [u8],
    },
    /// What became of the flow that began.
    Reply(FlowReply),
    /// The sender is about to close this connection, which has no flow.
    Retire,
    /// A probe.
    Ping(Echo),
    /// Its answer.
    Pong(Echo),
    /// So many flows wait for a connection.
    Demand(u16),
    /// On which lane the sender wants its flows.
    Choice(LaneKind),
    /// A datagram of so many bytes, which follow as those of [`Data`](Self::Data) do: from 0 to [`MAX_DATA`].
    Datagram(usize),
    /// A record of a kind that this build does not know, to be skipped.
    Unknown(u8),
}

/// Why bytes are not records. The connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record is longer than one of its kind may be, or shorter.
    #[error("a record of kind {tag} cannot have {length} bytes")]
    Length {
        /// Its tag.
        tag: u8,
        /// The length of its body.
        length: usize,
    },
    /// A reply is none.
    #[error(transparent)]
    Reply(#[from] BadReply),
    /// A lane of a kind that is not known.
    #[error("there is no lane of kind {0}")]
    Kind(u8),
}

/// The header of a record with `length` bytes of visitors: from 1 to [`MAX_DATA`].
#[must_use]
pub const fn data_header(length: usize) -> [u8; HEADER] {
    header(DATA, length)
}

/// The header of a datagram of `length` bytes: from 0 to [`MAX_DATA`].
#[must_use]
pub const fn datagram_header(length: usize) -> [u8; HEADER] {
    header(DATAGRAM, length)
}

const fn header(tag: u8, length: usize) -> [u8; HEADER] {
    let [.., high, middle, low] = length.to_be_bytes();
    [tag, high, middle, low]
}

impl Record<'_> {
    /// Appends the record; of [`Data`](Self::Data) and [`Datagram`](Self::Datagram), the header.
    ///
    /// A preface longer than [`MAX_PREFACE`] is cut: no [`Preface`](crate::preface::Preface) is.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |tag, body: &[&[u8]]| {
            out.extend_from_slice(&header(tag, body.iter().map(|part| part.len()).sum()));
            body.iter().for_each(|part| out.extend_from_slice(part));
        };
        match *self {
            Self::Data(length) => out.extend_from_slice(&data_header(length)),
            Self::End => put(END, &[]),
            Self::Reset(code) => put(RESET, &[&[code as u8]]),
            Self::Begin { port, preface } => {
                let preface = preface.get(..MAX_PREFACE).unwrap_or(preface);
                put(BEGIN, &[&port.to_be_bytes(), preface]);
            }
            Self::Reply(reply) => put(REPLY, &[&reply.encode()]),
            Self::Retire => put(RETIRE, &[]),
            Self::Ping(echo) => put(PING, &[&echo.sequence.to_be_bytes(), &echo.payload]),
            Self::Pong(echo) => put(PONG, &[&echo.sequence.to_be_bytes(), &echo.payload]),
            Self::Demand(flows) => put(DEMAND, &[&flows.to_be_bytes()]),
            Self::Choice(LaneKind::WireGuard) => put(CHOICE, &[&[0]]),
            Self::Choice(LaneKind::TlsStream) => put(CHOICE, &[&[1]]),
            Self::Datagram(length) => out.extend_from_slice(&datagram_header(length)),
            Self::Unknown(tag) => put(tag, &[]),
        }
    }
}

/// Reads records from a stream of bytes that comes in pieces, without keeping any of them.
///
/// While [`data_left`](Self::data_left) is not zero, that many bytes of the stream are a visitor's: take
/// some, and say so by [`took`](Self::took). Otherwise [`read`](Self::read) the next record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordReader {
    data_left: usize,
}

impl RecordReader {
    /// How many of the next bytes are data.
    #[must_use]
    pub const fn data_left(&self) -> usize {
        self.data_left
    }

    /// So many bytes of data were taken: at most [`data_left`](Self::data_left).
    pub const fn took(&mut self, length: usize) {
        self.data_left = self.data_left.saturating_sub(length);
    }

    /// Reads the record at the head of `bytes`, and how many of them it has; of data and datagrams, the
    /// header. `None` while there are too few: never more than [`HEADER`] and [`MAX_BODY`] are needed.
    ///
    /// # Errors
    /// When the bytes are no record.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Record<'a>, usize)>, RecordError> {
        let Some(([tag, high, middle, low], rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (tag, length) = (*tag, u32::from_be_bytes([0, *high, *middle, *low]) as usize);
        let wrong = RecordError::Length { tag, length };
        if tag == DATA {
            if length == 0 || length > MAX_DATA {
                return Err(wrong);
            }
            self.data_left = length;
            return Ok(Some((Record::Data(length), HEADER)));
        }
        if tag == DATAGRAM {
            if length > MAX_DATA {
                return Err(wrong);
            }
            self.data_left = length;
            return Ok(Some((Record::Datagram(length), HEADER)));
        }
        if length > MAX_BODY {
            return Err(wrong);
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let record = match (tag, body) {
            (END, []) => Record::End,
            (RESET, [code]) => Record::Reset(ResetCode::from_code(*code)),
            (BEGIN, [high, low, preface @ ..]) if preface.len() <= MAX_PREFACE => Record::Begin {
                port: u16::from_be_bytes([*high, *low]),
                preface,
            },
            (REPLY, [_, _]) => match FlowReply::parse(body)? {
                Some(reply) => Record::Reply(reply),
                None => return Err(wrong),
            },
            (RETIRE, []) => Record::Retire,
            (PING, [_, _, _, _, _, _, _, _, _, _]) => Record::Ping(echo(body)),
            (PONG, [_, _, _, _, _, _, _, _, _, _]) => Record::Pong(echo(body)),
            (DEMAND, [high, low]) => Record::Demand(u16::from_be_bytes([*high, *low])),
            (CHOICE, [0]) => Record::Choice(LaneKind::WireGuard),
            (CHOICE, [1]) => Record::Choice(LaneKind::TlsStream),
            (CHOICE, [kind]) => return Err(RecordError::Kind(*kind)),
            (END | RESET | BEGIN | REPLY | RETIRE | PING | PONG | DEMAND | CHOICE, _) => return Err(wrong),
            (unknown, _) => Record::Unknown(unknown),
        };
        Ok(Some((record, HEADER + length)))
    }
}

fn echo(body: &[u8]) -> Echo {
    let mut echo = Echo {
        sequence: 0,
        payload: [0; 8],
    };
    if let Some((sequence, payload)) = body.split_first_chunk() {
        echo.sequence = u16::from_be_bytes(*sequence);
        let length = payload.len().min(echo.payload.len());
        echo.payload[..length].copy_from_slice(&payload[..length]);
    }
    echo
}

const _: () = assert!(REPLY_LEN == 2 && MAX_PREFACE + 2 <= MAX_BODY);

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: Echo = Echo {
        sequence: 7,
        payload: [1, 2, 3, 4, 5, 6, 7, 8],
    };

    fn all() -> Vec<Record<'static>> {
        let mut all = vec![
            Record::End,
            Record::Begin {
                port: 2000,
                preface: b"preface",
            },
            Record::Retire,
            Record::Ping(ECHO),
            Record::Pong(ECHO),
            Record::Demand(9),
            Record::Choice(LaneKind::WireGuard),
            Record::Choice(LaneKind::TlsStream),
            Record::Unknown(200),
        ];
        all.extend(FlowReply::ALL.iter().map(|reply| Record::Reply(*reply)));
        all.extend((0..4).map(|code| Record::Reset(ResetCode::from_code(code))));
        all
    }

    #[test]
    fn records_round_trip_in_any_cut() {
        for record in all() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let mut reader = RecordReader::default();
            for end in 0..bytes.len() {
                assert_eq!(reader.read(&bytes[..end]), Ok(None), "{record:?} cut at {end}");
            }
            let length = bytes.len();
            bytes.extend_from_slice(b"next");
            assert_eq!(reader.read(&bytes), Ok(Some((record, length))));
        }
    }

    #[test]
    fn data_passes_by_in_pieces() {
        let mut reader = RecordReader::default();
        let bytes = data_header(MAX_DATA);
        assert_eq!(reader.read(&bytes), Ok(Some((Record::Data(MAX_DATA), HEADER))));
        reader.took(10);
        assert_eq!(reader.data_left(), MAX_DATA - 10);
        reader.took(MAX_DATA - 10);
        assert_eq!((reader.data_left(), reader.read(&[])), (0, Ok(None)));
    }

    #[test]
    fn a_datagram_may_be_empty_and_as_long_as_any() {
        for length in [0, 1, MAX_DATA] {
            let mut reader = RecordReader::default();
            let header = datagram_header(length);
            assert_eq!(reader.read(&header), Ok(Some((Record::Datagram(length), HEADER))));
            assert_eq!(reader.data_left(), length);
        }
        let mut written = Vec::new();
        Record::Datagram(7).encode(&mut written);
        assert_eq!(written, datagram_header(7));
    }

    /// LESSONS, advisory 7: each state has a byte bound.
    #[test]
    fn records_are_bounded_before_they_are_there() {
        let refused = |bytes: &[u8]| RecordReader::default().read(bytes).is_err();
        assert!(refused(&header(DATA, MAX_DATA + 1)) && refused(&header(DATA, 0)));
        assert!(refused(&header(DATAGRAM, MAX_DATA + 1)));
        assert!(refused(&header(BEGIN, MAX_BODY + 1)) && refused(&header(99, MAX_BODY + 1)));
        assert!(refused(&header(PING, 0)) && refused(&[END, 0, 0, 1, 0]));
        assert!(refused(&[REPLY, 0, 0, 2, b'H', 0]) && refused(&[CHOICE, 0, 0, 1, 9]));
        let long = vec![0; MAX_PREFACE + 1];
        let begin = [header(BEGIN, long.len() + 2).as_slice(), &[0, 1], &long].concat();
        assert!(refused(&begin));
    }

    #[test]
    fn newer_reasons_for_a_reset_are_resets() {
        let newer = [RESET, 0, 0, 1, 77];
        let read = RecordReader::default().read(&newer);
        assert_eq!(read, Ok(Some((Record::Reset(ResetCode::Aborted), 5))));
    }
}
