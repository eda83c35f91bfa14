//! A certificate in files that somebody else renews.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use kakuremichi_proto::report::CertificateStatus;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{ConfigError, config::pair, validity::status_of};

/// What is read of a file, in bytes. What is longer is no chain or key.
const MAX_BYTES: u64 = 1024 * 1024;

/// A certificate chain and its key in PEM files, which are read again when they change.
///
/// Files that cannot be used never take the place of what could: whoever renews a pair may write one file after the
/// other, and is not ready in between. A [`Control`](crate::Control) that was told of them
/// ([`ControlBuilder::certificate`](crate::ControlBuilder::certificate)) looks at them every few seconds; whoever serves
/// them without one calls [`refresh`](Self::refresh).
#[derive(Debug)]
pub struct CertificateFiles {
    chain: PathBuf,
    key: PathBuf,
    newest: Mutex<Read>,
    seen: Mutex<Seen>,
}

/// How the files were when they were looked at last.
#[derive(Debug)]
struct Seen {
    stamps: [Stamp; 2],
    /// Why they could not be used then, which is said once.
    failure: Option<String>,
}

/// What was read.
#[derive(Debug)]
struct Read {
    certified: Arc<CertifiedKey>,
    /// `None` of a certificate that TLS takes and that says nothing of itself which can be understood.
    status: Option<CertificateStatus>,
}

/// What tells one state of a file from another: its length, and when it was changed. `None`: it is not there.
type Stamp = Option<(u64, Option<SystemTime>)>;

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFileError {
    /// One cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// One is no certificate, or has another key.
    #[error("{} and {} cannot be used", .chain.display(), .key.display())]
    Use {
        /// The chain.
        chain: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why not.
        #[source]
        source: ConfigError,
    },
}

impl CertificateFiles {
    /// Reads a chain, the leaf first, and its key.
    ///
    /// # Errors
    /// When one cannot be read or used.
    pub fn open(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, CertificateFileError> {
        let (chain, key) = (chain.into(), key.into());
        // First how they are, then what is in them: a change in between is seen later.
        let seen = Seen {
            stamps: stamps(&chain, &key),
            failure: None,
        };
        Ok(Self {
            newest: Mutex::new(read_both(&chain, &key)?),
            seen: Mutex::new(seen),
            chain,
            key,
        })
    }

    /// Reads the files again if one of them changed. What is wrong with them is logged; then the certificate is the one
    /// that was read before. It blocks while it reads.
    pub fn refresh(&self) {
        // Nothing panics under the lock.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = self.read_again(&mut seen.stamps).err();
        let said = failure.as_ref().map(|error| format!("{error:?}"));
        let is_news = seen.failure != said;
        seen.failure = said;
        if let Some(error) = failure.filter(|_| is_news) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "Control's certificate is the one that was read before"
            );
        }
    }

    /// What the newest certificate says of itself, if that can be understood.
    #[must_use]
    pub fn status(&self) -> Option<CertificateStatus> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.status.clone()
    }

    fn read_again(&self, seen: &mut [Stamp; 2]) -> Result<(), CertificateFileError> {
        let now = stamps(&self.chain, &self.key);
        if *seen == now {
            return Ok(());
        }
        let read = read_both(&self.chain, &self.key);
        // What cannot be read may be readable later, and is the same file then.
        if !matches!(read, Err(CertificateFileError::Read { .. })) {
            *seen = now;
        }
        let read = read?;
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = read;
        tracing::info!("Control's certificate was read again");
        Ok(())
    }
}

impl ResolvesServerCert for CertificateFiles {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&newest.certified))
    }
}

fn stamps(chain: &Path, key: &Path) -> [Stamp; 2] {
    [chain, key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()))
    })
}

fn read_both(chain: &Path, key: &Path) -> Result<Read, CertificateFileError> {
    let (chain_pem, key_pem) = (read(chain)?, read(key)?);
    let certified = pair(&chain_pem, &key_pem).map_err(|source| CertificateFileError::Use {
        chain: chain.to_owned(),
        key: key.to_owned(),
        source,
    })?;
    Ok(Read {
        status: certified.cert.first().and_then(status_of),
        certified,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateFileError> {
    let failed = |source| CertificateFileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kakuremichi_tests::TestCa;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn renewed_files_are_read_and_broken_ones_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = (
            directory.path().join("chain.pem"),
            directory.path().join("key.pem"),
        );
        // Each writing is at another time, however coarse the file system's clock is.
        let mut writings = 0;
        let mut write = |path: &Path, text: &str| {
            writings += 1;
            fs::write(path, text).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + writings);
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(at).unwrap();
        };
        let missing = CertificateFiles::open(&chain, &key);
        assert!(matches!(missing, Err(CertificateFileError::Read { .. })));

        let authority = TestCa::new("authority");
        let old = authority.issue_for(&["old.example.net"], DAY, 9 * DAY);
        let new = authority.issue_for(&["new.example.net", "b.example.net"], DAY, 89 * DAY);
        write(&chain, &old.certificate_pem);
        write(&key, &new.key_pem);
        let mixed = CertificateFiles::open(&chain, &key);
        assert!(matches!(mixed, Err(CertificateFileError::Use { .. })));

        write(&key, &old.key_pem);
        let files = CertificateFiles::open(&chain, &key).unwrap();
        let name = || files.status().unwrap().name;
        assert_eq!(name(), "old.example.net");
        write(&chain, &new.certificate_pem);
        files.refresh();
        assert_eq!(name(), "old.example.net", "the key is another one's");
        write(&key, &new.key_pem);
        files.refresh();
        assert_eq!(name(), "new.example.net");
        let status = files.status().unwrap();
        let life = status.expires.as_millis() - status.since.as_millis();
        assert_eq!((life, status.more), (90 * 24 * 60 * 60 * 1000, 1));
        fs::remove_file(&key).unwrap();
        files.refresh();
        assert_eq!(name(), "new.example.net");
    }

    /// Whoever copies files first and says whose they are then does not change them with that.
    #[test]
    fn what_could_not_be_read_is_read_once_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let [chain, key, moved] =
            ["chain.pem", "key.pem", "moved.pem"].map(|name| directory.path().join(name));
        let authority = TestCa::new("authority");
        let old = authority.issue_for(&["old.example.net"], DAY, 9 * DAY);
        let new = authority.issue_for(&["new.example.net"], DAY, 89 * DAY);
        fs::write(&chain, &old.certificate_pem).unwrap();
        fs::write(&key, &old.key_pem).unwrap();
        let files = CertificateFiles::open(&chain, &key).unwrap();
        let name = || files.status().unwrap().name;

        fs::write(&moved, &new.key_pem).unwrap();
        fs::write(&chain, &new.certificate_pem).unwrap();
        fs::remove_file(&key).unwrap();
        // A directory has a length and a time, too, and cannot be read by anybody.
        fs::create_dir(&key).unwrap();
        files.refresh();
        let stamps_before = files.seen.lock().unwrap().stamps;
        assert_eq!(name(), "old.example.net");
        assert!(files.seen.lock().unwrap().failure.is_some());
        files.refresh();
        assert_eq!(
            files.seen.lock().unwrap().stamps,
            stamps_before,
            "it is looked at again"
        );
        fs::remove_dir(&key).unwrap();
        fs::rename(&moved, &key).unwrap();
        files.refresh();
        assert_eq!(name(), "new.example.net");
        assert!(files.seen.lock().unwrap().failure.is_none());
    }
}
