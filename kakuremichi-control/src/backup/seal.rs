//! The file of a backup: lines in chunks, each encrypted and authenticated.
//!
//! ```text
//! magic (20) | memory, passes, lanes (u32 each) | salt (16) | check (32) | chunks
//! ```
//!
//! Argon2id makes 64 bytes of the passphrase: the key, and `check`, by which a wrong passphrase is told from a
//! damaged file. Every chunk but the last holds [`CHUNK`] bytes, and is sealed with ChaCha20-Poly1305 under a
//! nonce that counts the chunks and marks the last: none can be moved, repeated or left out, at the end neither.
//! The header is authenticated with each. Salt, and so the key, are new for every file.

use std::io::{self, Read, Write};

use argon2::{Algorithm, Argon2, Params, Version};
use kakuremichi_core::secret::Secret;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{BackupError, Line};

const MAGIC: &[u8; 20] = b"kakuremichi backup 1";
const SALT: usize = 16;
const CHECK: usize = 32;
const HEADER: usize = MAGIC.len() + 12 + SALT + CHECK;
/// Bytes of a chunk, without its tag.
const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
/// The longest line that is read.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// What the passphrase of a new file costs: 64 MiB and three passes, as RFC 9106 recommends where memory is
/// short.
const COST: Cost = Cost {
    memory: 64 * 1024,
    passes: 3,
    lanes: 4,
};
/// The most that a file may ask for.
const MAX_COST: Cost = Cost {
    memory: 1024 * 1024,
    passes: 16,
    lanes: 16,
};

/// A backup cannot be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Anybody could open it.
    #[error("the passphrase is empty")]
    NoPassphrase,
    /// The system has no randomness, or not the memory.
    #[error("the system lacks the randomness or the memory to seal a backup")]
    System,
}

/// A backup cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be read.
    #[error("the backup cannot be read")]
    Read(#[from] io::Error),
    /// It is something else.
    #[error("the file is no backup, or one of a newer version")]
    NotABackup,
    /// The passphrase is another.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The file was cut off, or its last part was changed.
    #[error("the backup is cut off: its end is missing or damaged")]
    Truncated,
    /// Something in it was changed.
    #[error("the backup is damaged")]
    Damaged,
    /// The system has not the memory that its passphrase costs.
    #[error("the system lacks the memory to open the backup")]
    System,
}

#[derive(Debug, Clone, Copy)]
struct Cost {
    memory: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    fn derive(self, passphrase: &Secret<String>, salt: &[u8]) -> Option<(LessSafeKey, [u8; CHECK])> {
        let params = Params::new(self.memory, self.passes, self.lanes, Some(32 + CHECK)).ok()?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut made = Zeroizing::new([0; 32 + CHECK]);
        argon
            .hash_password_into(passphrase.expose().as_bytes(), salt, &mut *made)
            .ok()?;
        let (key, check) = made.split_at(32);
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
        Some((LessSafeKey::new(key), check.try_into().ok()?))
    }

    const fn is_within(self, most: Self) -> bool {
        self.memory <= most.memory && self.passes <= most.passes && self.lanes <= most.lanes
    }
}

fn nonce(chunk: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[0] = u8::from(last);
    bytes[4..].copy_from_slice(&chunk.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Writes the file.
pub(super) struct Sealer<W> {
    out: W,
    header: [u8; HEADER],
    key: LessSafeKey,
    chunk: u64,
    /// What is not written yet: at most a chunk after each line.
    plain: Zeroizing<Vec<u8>>,
}

impl<W: Write> Sealer<W> {
    pub(super) fn new(mut out: W, passphrase: &Secret<String>) -> Result<Self, BackupError> {
        if passphrase.expose().is_empty() {
            return Err(SealError::NoPassphrase.into());
        }
        let mut salt = [0; SALT];
        SystemRandom::new()
            .fill(&mut salt)
            .map_err(|_| SealError::System)?;
        let (key, check) = COST.derive(passphrase, &salt).ok_or(SealError::System)?;
        let costs = [COST.memory, COST.passes, COST.lanes]
            .map(u32::to_be_bytes)
            .concat();
        let mut header = [0; HEADER];
        let parts = [MAGIC.as_slice(), &costs, &salt, &check].concat();
        header.copy_from_slice(&parts);
        out.write_all(&header)?;
        Ok(Self {
            out,
            header,
            key,
            chunk: 0,
            plain: Zeroizing::new(Vec::new()),
        })
    }

    /// Writes one line.
    pub(super) fn line(&mut self, line: &Line) -> Result<(), BackupError> {
        serde_json::to_writer(&mut *self.plain, line).map_err(io::Error::from)?;
        self.plain.push(b'\n');
        // The last chunk is marked, so a whole one waits until something comes behind it.
        while self.plain.len() > CHUNK {
            let rest = Zeroizing::new(self.plain.split_off(CHUNK));
            let full = std::mem::replace(&mut self.plain, rest);
            self.write(&full, false)?;
        }
        Ok(())
    }

    /// Writes what is left, and marks the end.
    pub(super) fn finish(mut self) -> Result<(), BackupError> {
        let rest = std::mem::take(&mut self.plain);
        self.write(&rest, true)?;
        Ok(self.out.flush()?)
    }

    fn write(&mut self, plain: &[u8], last: bool) -> Result<(), BackupError> {
        let mut sealed = plain.to_vec();
        self.key
            .seal_in_place_append_tag(nonce(self.chunk, last), Aad::from(&self.header), &mut sealed)
            .map_err(|_| SealError::System)?;
        self.chunk += 1;
        Ok(self.out.write_all(&sealed)?)
    }
}

/// Reads the file.
pub(super) struct Opener<R> {
    input: R,
    header: [u8; HEADER],
    key: LessSafeKey,
    chunk: u64,
    /// Bytes of the file that were read ahead, to know whether a chunk is the last.
    ahead: Vec<u8>,
    plain: Zeroizing<Vec<u8>>,
    ended: bool,
}

impl<R: Read> Opener<R> {
    pub(super) fn new(mut input: R, passphrase: &Secret<String>) -> Result<Self, OpenError> {
        let mut start = Vec::new();
        input.by_ref().take(HEADER as u64).read_to_end(&mut start)?;
        if !start.starts_with(MAGIC) {
            return Err(OpenError::NotABackup);
        }
        let header: [u8; HEADER] = start.try_into().map_err(|_| OpenError::Truncated)?;
        let (_, rest) = header.split_at(MAGIC.len());
        let (costs, rest) = rest.split_at(12);
        let (salt, check) = rest.split_at(SALT);
        let (costs, _) = costs.as_chunks::<4>();
        let [memory, passes, lanes] = costs else {
            return Err(OpenError::Damaged);
        };
        let cost = Cost {
            memory: u32::from_be_bytes(*memory),
            passes: u32::from_be_bytes(*passes),
            lanes: u32::from_be_bytes(*lanes),
        };
        if !cost.is_within(MAX_COST) {
            return Err(OpenError::Damaged);
        }
        let (key, expected) = cost.derive(passphrase, salt).ok_or(OpenError::System)?;
        if !bool::from(expected.as_slice().ct_eq(check)) {
            return Err(OpenError::WrongPassphrase);
        }
        Ok(Self {
            input,
            header,
            key,
            chunk: 0,
            ahead: Vec::new(),
            plain: Zeroizing::new(Vec::new()),
            ended: false,
        })
    }

    /// The next line; nothing at the end of the whole file.
    pub(super) fn line(&mut self) -> Result<Option<Secret<String>>, OpenError> {
        let mut searched = 0;
        loop {
            let end = self.plain[searched..].iter().position(|&byte| byte == b'\n');
            if let Some(end) = end {
                let rest = Zeroizing::new(self.plain.split_off(searched + end + 1));
                let mut line = std::mem::replace(&mut self.plain, rest);
                line.pop();
                let line = String::from_utf8(std::mem::take(&mut *line)).map_err(|_| OpenError::Damaged)?;
                return Ok(Some(Secret::new(line)));
            }
            searched = self.plain.len();
            if self.ended {
                return if searched == 0 {
                    Ok(None)
                } else {
                    Err(OpenError::Damaged)
                };
            }
            if searched > MAX_LINE {
                return Err(OpenError::Damaged);
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<(), OpenError> {
        let wanted = CHUNK + TAG + 1 - self.ahead.len();
        let mut sealed = std::mem::take(&mut self.ahead);
        self.input.by_ref().take(wanted as u64).read_to_end(&mut sealed)?;
        let last = sealed.len() <= CHUNK + TAG;
        if !last {
            self.ahead = sealed.split_off(CHUNK + TAG);
        }
        let aad = Aad::from(&self.header);
        let opened = self.key.open_in_place(nonce(self.chunk, last), aad, &mut sealed);
        let plain = opened.map_err(|_| {
            if last {
                OpenError::Truncated
            } else {
                OpenError::Damaged
            }
        })?;
        self.plain.extend_from_slice(plain);
        plain.zeroize();
        self.chunk += 1;
        self.ended = last;
        Ok(())
    }
}
