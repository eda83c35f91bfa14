//! The stream of changes in which a plan is sent and stored.
//!
//! Each change is four bytes of length (big endian), one of kind, and a record or a key. The stream is
//! cut into pieces wherever a frame is full, so a record may be larger than a frame.

use std::{collections::VecDeque, sync::Arc};

use super::{MAX_RECORD, RecordKey, WireRecord};

/// A change to a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This record, in place of another with its key.
    Put(Arc<WireRecord>),
    /// No record with this key.
    Remove(RecordKey),
}

/// Why bytes are not a stream of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A change is larger than any record.
    #[error("a change of {0} bytes is larger than a record may be")]
    TooLarge(u32),
    /// A change does not decode.
    #[error("a change of the plan does not decode")]
    Malformed,
    /// The stream ends within a change.
    #[error("the stream of changes ends too early")]
    Truncated,
}

const LENGTH: usize = 4;
const PUT: u8 = 1;
const REMOVE: u8 = 2;

/// Writes changes as a stream, piece by piece: never more than one piece and one record are in memory
/// besides the changes.
#[derive(Debug)]
pub struct ChangeWriter {
    changes: VecDeque<Change>,
    buffer: Vec<u8>,
    written: u64,
}

impl ChangeWriter {
    /// Will write these changes.
    #[must_use]
    pub fn new(changes: Vec<Change>) -> Self {
        Self {
            changes: changes.into(),
            buffer: Vec::new(),
            written: 0,
        }
    }

    /// How many bytes were handed out.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The next piece, of at most `limit` bytes; `None` at the end.
    pub fn next_piece(&mut self, limit: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < limit {
            match self.changes.pop_front() {
                Some(change) => write_change(&change, &mut self.buffer),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let rest = self.buffer.split_off(limit.min(self.buffer.len()));
        let piece = std::mem::replace(&mut self.buffer, rest);
        self.written += piece.len() as u64;
        Some(piece)
    }
}

/// Appends a change to a stream.
pub(super) fn write_change(change: &Change, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    match change {
        Change::Put(record) => {
            out.push(PUT);
            record.encode_into(out);
        }
        Change::Remove(key) => {
            out.push(REMOVE);
            out.extend_from_slice(key.as_bytes());
        }
    }
    // A record has at most MAX_RECORD bytes, which four bytes can say.
    let length = (out.len() - start - LENGTH) as u32;
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
}

/// Reads a stream of changes that comes in pieces. It holds at most one change that is not complete.
#[derive(Debug, Default)]
pub struct ChangeParser {
    partial: Vec<u8>,
}

impl ChangeParser {
    /// Reads a piece and hands out each change that is complete. Stops at the first error of `take`.
    ///
    /// # Errors
    /// When the stream is not one of changes, or when `take` fails.
    pub fn push<E: From<StreamError>>(
        &mut self,
        mut piece: &[u8],
        mut take: impl FnMut(Change) -> Result<(), E>,
    ) -> Result<(), E> {
        // Complete the change that the last piece left open, reading no further than its end.
        while !self.partial.is_empty() {
            let wanted = match change_len(&self.partial)? {
                Some(length) if self.partial.len() == length => {
                    let change = read_change(&self.partial[LENGTH..])?;
                    self.partial = Vec::new();
                    take(change)?;
                    break;
                }
                Some(length) => length - self.partial.len(),
                None => LENGTH - self.partial.len(),
            };
            let (head, rest) = piece.split_at(wanted.min(piece.len()));
            if head.is_empty() {
                return Ok(());
            }
            self.partial.extend_from_slice(head);
            piece = rest;
        }
        while let Some(length) = change_len(piece)? {
            let Some((change, rest)) = piece.split_at_checked(length) else {
                break;
            };
            take(read_change(&change[LENGTH..])?)?;
            piece = rest;
        }
        self.partial.extend_from_slice(piece);
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// When a change is not complete.
    pub fn finish(self) -> Result<(), StreamError> {
        if self.partial.is_empty() {
            Ok(())
        } else {
            Err(StreamError::Truncated)
        }
    }
}

/// The length of the change at the head, with the four bytes that say it.
fn change_len(bytes: &[u8]) -> Result<Option<usize>, StreamError> {
    let Some(length) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    if length as usize > MAX_RECORD + 1 {
        return Err(StreamError::TooLarge(length));
    }
    Ok(Some(LENGTH + length as usize))
}

fn read_change(bytes: &[u8]) -> Result<Change, StreamError> {
    let change = match bytes.split_first() {
        Some((&PUT, record)) => WireRecord::decode(record).map(|record| Change::Put(Arc::new(record))),
        Some((&REMOVE, key)) => RecordKey::new(key).ok().map(Change::Remove),
        Some(_) | None => None,
    };
    change.ok_or(StreamError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Vec<Change> {
        let key = |byte| RecordKey::new(&[byte; 5]).unwrap();
        let record = |byte, length| {
            let record = WireRecord::new(7, None, key(byte), vec![byte; length]).unwrap();
            Change::Put(Arc::new(record))
        };
        vec![
            record(1, 0),
            Change::Remove(key(2)),
            record(3, 4000),
            record(4, 3),
        ]
    }

    #[test]
    fn a_stream_survives_any_cut_into_pieces() {
        for limit in [1, 2, 3, 5, 7, 64, 4096, 1 << 20] {
            let (mut writer, mut parser, mut read) =
                (ChangeWriter::new(changes()), ChangeParser::default(), Vec::new());
            while let Some(piece) = writer.next_piece(limit) {
                assert!(piece.len() <= limit && !piece.is_empty());
                let take = |change| {
                    read.push(change);
                    Ok::<_, StreamError>(())
                };
                parser.push(&piece, take).unwrap();
            }
            parser.finish().unwrap();
            assert_eq!(read, changes(), "pieces of {limit}");
        }
    }

    #[test]
    fn a_stream_is_bounded_before_it_is_buffered() {
        let mut parser = ChangeParser::default();
        let large = (MAX_RECORD as u32 + 2).to_be_bytes();
        let error = parser.push(&large, |_| Ok::<_, StreamError>(()));
        assert_eq!(error, Err(StreamError::TooLarge(MAX_RECORD as u32 + 2)));
        let mut parser = ChangeParser::default();
        parser.push(&[0, 0, 1], |_| Ok::<_, StreamError>(())).unwrap();
        assert_eq!(parser.finish(), Err(StreamError::Truncated));
    }
}
