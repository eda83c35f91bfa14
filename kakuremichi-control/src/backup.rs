//! Backups: everything that a Control is, in one file that a passphrase protects.
//!
//! A backup holds the records with their versions, the audit, what was counted, and the files that its owner
//! adds, such as keys and certificates. It says nothing of the database that it is from, so restoring it into
//! one of another kind is how a Control moves, from SQLite to PostgreSQL or back.
//!
//! The content is lines of JSON, sealed in chunks: see `seal` for the file itself.

mod line;
mod seal;

use std::io::{self, Read, Write};

use kakuremichi_core::{
    secret::Secret,
    store::{RecordId, StoreError},
};

pub(crate) use line::Line;
pub use seal::{OpenError, SealError};
use seal::{Opener, Sealer};

use crate::store::{RecordTextError, SqlStore};

/// The version of the lines.
const FORMAT: u32 = 1;

/// A file in a backup.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub contents: Secret<Vec<u8>>,
}

/// A backup cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The file cannot be written.
    #[error("the backup cannot be written")]
    Write(#[from] io::Error),
    /// The file cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record has no text.
    #[error("{0:?} cannot be written as text")]
    Record(RecordId, #[source] RecordTextError),
}

/// A backup cannot be restored. The database is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A line of the content means nothing.
    #[error("line {number} of the backup cannot be understood: was it made by a newer version?")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The content is of a format that this version does not know.
    #[error("the backup was made by a newer version (format {0}): restore it with that one")]
    Newer(u32),
    /// The database holds something.
    #[error("the database is not empty: say so if what is in it is to be replaced")]
    NotEmpty,
    /// The database cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes a backup of what the store holds at this moment, and of `files`. Control may be running.
///
/// # Errors
/// When the store cannot be read or `out` not be written. What was written then is of no use.
pub async fn write(
    store: &SqlStore,
    files: &[File],
    passphrase: &Secret<String>,
    out: impl Write + Send,
) -> Result<(), BackupError> {
    let mut sealer = Sealer::new(out, passphrase)?;
    sealer.line(&Line::Begin {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })?;
    for file in files {
        sealer.line(&Line::file(file))?;
    }
    store.export(&mut |line| sealer.line(&line)).await?;
    sealer.line(&Line::End)?;
    sealer.finish()
}

/// Restores a backup into the store, which is empty, or of which everything goes when `replace` says so.
/// Nothing else may use the database meanwhile. Returns the files, for the caller to put where they belong.
///
/// # Errors
/// When the backup cannot be opened or understood, or the store refuses. Then nothing has changed.
pub async fn restore(
    store: &mut SqlStore,
    passphrase: &Secret<String>,
    replace: bool,
    input: impl Read + Send,
) -> Result<Vec<File>, RestoreError> {
    let mut lines = Lines {
        opener: Opener::new(input, passphrase)?,
        number: 0,
        files: Vec::new(),
    };
    match lines.read()? {
        Line::Begin { format: FORMAT, .. } => {}
        Line::Begin { format, .. } => return Err(RestoreError::Newer(format)),
        _ => return Err(lines.wrong("it has no beginning")),
    }
    store.import(replace, &mut || lines.next()).await?;
    Ok(lines.files)
}

/// The lines of a backup that is read.
struct Lines<R> {
    opener: Opener<R>,
    number: usize,
    files: Vec<File>,
}

impl<R: Read> Lines<R> {
    /// The next line for the store; nothing at the end, when all of the file has proven to be genuine.
    fn next(&mut self) -> Result<Option<Line>, RestoreError> {
        loop {
            match self.read()? {
                Line::File { name, contents } => {
                    let contents = Line::file_contents(&contents).map_err(|error| self.wrong(error))?;
                    self.files.push(File { name, contents });
                }
                Line::End => {
                    return match self.opener.line()? {
                        None => Ok(None),
                        Some(_) => Err(self.wrong("something comes behind the end")),
                    };
                }
                line => return Ok(Some(line)),
            }
        }
    }

    fn read(&mut self) -> Result<Line, RestoreError> {
        self.number += 1;
        match self.opener.line()? {
            Some(text) => serde_json::from_str(text.expose()).map_err(|error| self.wrong(error)),
            None => Err(self.wrong("it has no end")),
        }
    }

    fn wrong(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RestoreError {
        RestoreError::Line {
            number: self.number,
            source: source.into(),
        }
    }
}
